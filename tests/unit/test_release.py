"""The release table: complete, and the known changes; a release may be asked for by number or container month."""

from __future__ import annotations

import json

import pytest

from generator import contract, release
from generator.findings import EXIT_USAGE, Refused
from generator.models import specs


def test_every_release_of_the_contract_is_in_the_table_and_every_fact_covers_it() -> None:
    data = json.loads((contract.DATA / "releases.json").read_text())
    assert tuple(data["releases"]) == contract.releases()
    for name, intervals in data["facts"].items():
        for known in map(contract.releases().index, contract.releases()):
            covering = [
                i
                for i in intervals
                if contract.releases().index(i["since"]) <= known
                and known <= contract.releases().index(i.get("until", contract.releases()[-1]))
            ]
            assert len(covering) == 1, (name, contract.releases()[known])
        assert all("evidence" in i for i in intervals[1:]), name
    assert all("evidence" in entry for entry in data["vision_builds"])


def test_no_container_holds_two_releases() -> None:
    months = [month for name in contract.releases() for month in release.of(name).containers]
    assert len(months) == len(set(months)) and months == sorted(months)


@pytest.mark.parametrize(
    ("name", "container", "tensorrt", "script", "guide", "converter"),
    [
        ("0.12.0", "24.08", "10.3", "build_visual_engine.py", "multimodal", "opt/convert_checkpoint.py"),
        ("0.18.2", "25.04", "10.9", "build_visual_engine.py", "multimodal", "opt/convert_checkpoint.py"),
        ("0.19.0", "25.05", "10.9", "build_multimodal_engine.py", "multimodal", "opt/convert_checkpoint.py"),
        (
            "0.20.0",
            "25.07",
            "10.10",
            "build_multimodal_engine.py",
            "models/core/multimodal",
            "models/contrib/opt/convert_checkpoint.py",
        ),
        (
            "1.2.1",
            "26.07",
            "10.14",
            "build_multimodal_engine.py",
            "models/core/multimodal",
            "models/contrib/opt/convert_checkpoint.py",
        ),
    ],
)
def test_known_changes(name: str, container: str, tensorrt: str, script: str, guide: str, converter: str) -> None:
    known = release.of(name)
    assert known.images[0] == f"nvcr.io/nvidia/tritonserver:{container}-trtllm-python-py3"
    assert known.tensorrt.startswith(tensorrt)
    assert (known.vision_script, known.guide, known.converter("opt")) == (script, guide, converter)
    assert known.converter("llama").endswith(
        "models/core/llama/convert_checkpoint.py" if known.models_folder else "llama/convert_checkpoint.py"
    )


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("25.08", "0.21.0"),
        ("24.12", "0.16.0"),
        ("r25.10", "1.0.0"),
        ("26.07-trtllm-python-py3", "1.2.1"),
        ("25.02", "0.17.0"),
        ("0.21", "0.21.0"),
        ("1.2", "1.2.1"),
        ("0.12.0", "0.12.0"),
    ],
)
def test_release_or_month(text: str, meant: str) -> None:
    assert release.resolve(text) == meant


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "25.11",
            "holds TensorRT-LLM 1.0.3.2510, which is not known; the nearest known: 25.10 with 1.0.0 and 25.12 with",
        ),
        (
            "26.03",
            "holds TensorRT-LLM 1.2.0, which is not known; the nearest known: 26.02 with 1.1.0 and 26.04 with 1.2",
        ),
        ("24.07", "holds TensorRT-LLM 0.11.0, which is not known; the nearest known: 24.08 with 0.12.0"),
        ("27.01", "container 27.01 is not known; the nearest known: 26.07 with 1.2.1"),
        ("2.0", "known are 0.12.0, 0.13.0"),
        ("25.13", "known are 0.12.0, 0.13.0"),
    ],
)
def test_unknown_months_name_their_neighbours(text: str, says: str) -> None:
    with pytest.raises(Refused) as refused:
        release.resolve(text)
    [finding] = refused.value.findings
    assert says in finding.what and finding.remedy and refused.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize("model", specs())
def test_default_release_is_the_newest_that_builds_the_vision_engine(model: str) -> None:
    spec = specs()[model]
    assert spec.default_release == release.newest_that_builds(spec.build.vision_type)
