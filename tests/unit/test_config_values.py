"""Values of an unexpected kind in config files: a finding that names file, value and remedy, never a Python error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from generator.facts import jsonfile
from generator.findings import Refused
from generator.generate import decide
from generator.options import Options
from tests import engines
from tests.checkpoints import cached


def refused(**options: Any) -> str:
    with pytest.raises(Refused) as refusal:
        decide(Options(**options))
    assert all(finding.remedy and finding.where for finding in refusal.value.findings)
    return str(refusal.value)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("build_config", "max_batch_size", 0, "max_batch_size of the LLM engine is 0"),
        ("build_config", "max_batch_size", 10**30, "not a whole number"),
        ("build_config", "max_seq_len", "long", "'long', not a whole number"),
        ("build_config", "plugin_config", [1], "wrong kind"),
        ("pretrained_config", "quantization", {"quant_algo": ["FP8"]}, "not a text"),
        ("pretrained_config", "quantization", 8, "wrong kind"),
        ("pretrained_config", "mapping", {"tp_size": 100_000}, "100000 ranks, at most 4096"),
        ("pretrained_config", "mapping", {"tp_size": "2"}, "'2', not a whole number"),
    ],
)
def test_engines(section: str, key: str, value: Any, message: str, tmp_path: Path) -> None:
    folder = engines.llm(tmp_path / "llm")
    config = json.loads((folder / "config.json").read_text())
    config[section][key] = value
    (folder / "config.json").write_text(json.dumps(config))
    assert message in refused(model="llava", llm_engine_dir=folder, working_dir=tmp_path)


@pytest.mark.parametrize(
    ("model", "file", "key", "value"),
    [
        ("llava-next", "config.json", "image_grid_pinpoints", []),
        ("llava-next", "config.json", "image_grid_pinpoints", [[336]]),
        ("llava-next", "config.json", "image_grid_pinpoints", [[336, -336]]),
        ("llava-next", "config.json", "text_config", "llama"),
        ("nougat", "preprocessor_config.json", "size", {"height": 896}),
        ("nougat", "preprocessor_config.json", "do_crop_margin", "yes"),
        ("llava", "preprocessor_config.json", "image_mean", [1, 2]),
        ("llava", "preprocessor_config.json", "crop_size", {"height": 0}),
        ("llava", "preprocessor_config.json", "resample", {}),
    ],
)
def test_checkpoints(model: str, file: str, key: str, value: Any, tmp_path: Path) -> None:
    source = next(path.parent for path in sorted(cached(model).rglob(file)))
    folder = tmp_path / "checkpoint"
    shutil.copytree(source, folder)
    config = json.loads((folder / file).read_text())
    config[key] = value
    (folder / file).write_text(json.dumps(config))
    assert file in refused(model=model, hf_model_dir=folder, working_dir=tmp_path)


def test_a_number_of_endless_digits_is_no_number(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": ' + "9" * 10_000 + "}")
    with pytest.raises(Refused, match="not valid JSON"):
        jsonfile.read(tmp_path / "config.json", "config.json", "copy it")


@pytest.mark.parametrize(
    ("value", "known", "expected"),
    [
        (3, 1, True),
        (True, 1, False),
        (0, 1, False),
        (1, True, False),
        ([[1, 2], [3, 4]], [[5, 6]], True),
        ([[1, 2], [3]], [[5, 6]], False),
        ([5], [[5, 6]], False),
        ({"a": 1, "b": 2}, {"a": 3}, True),
        ({"b": 2}, {"a": 3}, False),
        ("x", "y", True),
    ],
)
def test_alike(value: Any, known: Any, expected: bool) -> None:
    assert jsonfile.alike(value, known) is expected
