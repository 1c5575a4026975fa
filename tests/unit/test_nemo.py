"""NeMo archives: what is read of them, and what is refused."""

from __future__ import annotations

import sys
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import yaml

from generator.facts import nemo
from generator.facts.gather import gather
from generator.findings import EXIT_ENVIRONMENT, Refused
from generator.models import find
from generator.options import Options
from generator.planning import make
from tests.checkpoints import cached
from tests.vocabularies import SENTENCEPIECE_SIZE

SPEC, VARIANT = find("neva")
ROWS_OF_EMBEDDING = SENTENCEPIECE_SIZE + 128  # as the maker of the tiny checkpoint pads it


def archive() -> Path:
    return cached("neva") / "neva.nemo"


def changed(folder: Path, **settings: Any) -> Path:
    """A copy of the tiny archive with other settings; those of None are left out."""
    with tarfile.open(archive()) as source:
        members = {entry.name: source.extractfile(entry).read() for entry in source}  # type: ignore[union-attr]
    config = yaml.safe_load(members["./model_config.yaml"]) | settings
    members["./model_config.yaml"] = yaml.safe_dump({k: v for k, v in config.items() if v is not None}).encode()
    with tarfile.open(folder / "changed.nemo", "w") as target:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            target.addfile(entry, BytesIO(content))
    return folder / "changed.nemo"


@pytest.mark.parametrize("path", [archive(), archive().parent])
def test_facts(path: Path) -> None:
    facts = nemo.read(path, SPEC, VARIANT)
    assert facts.path == archive()
    assert (facts.vocab_size, facts.hidden_size, facts.max_positions) == (ROWS_OF_EMBEDDING, 64, 4096)
    assert facts.rows_per_image == 27 * 27 - 1
    assert facts.pixels is not None and facts.pixels.shape == (3, 384, 384)
    assert facts.pixels.steps == (("on_white",), ("resize", 384, 384))


def test_the_tower_may_be_elsewhere(tmp_path: Path) -> None:
    facts = nemo.read(changed(tmp_path), SPEC, VARIANT)
    assert facts.pixels is None and facts.rows_per_image is None


def test_without_torch_the_vocabulary_is_padded_as_nemo_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for parallel, multiple in ((1, 100), (2, 200)):
        file = changed(tmp_path, make_vocab_size_divisible_by=100, tensor_model_parallel_size=parallel)
        monkeypatch.setitem(sys.modules, "torch", None)
        expected = -(-SENTENCEPIECE_SIZE // multiple) * multiple
        assert nemo.read(file, SPEC, VARIANT).vocab_size == expected != ROWS_OF_EMBEDDING
        monkeypatch.undo()


@pytest.mark.parametrize("package", ["yaml", "sentencepiece"])
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    nemo.sentencepiece_model._processor.cache_clear()
    with pytest.raises(Refused, match=r"gen-repo\[hf\]") as refusal:
        gather(Options(model="neva", hf_model_dir=archive()), SPEC, VARIANT)
    assert refusal.value.exit_code == EXIT_ENVIRONMENT


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mm_cfg": {"use_im_start_end": True}}, "use_im_start_end"),
        ({"mm_cfg": None}, "mm_cfg"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": "wide"}, "hidden_size"),
    ],
)
def test_other_models_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=message):
        nemo.read(changed(tmp_path, **settings), SPEC, VARIANT)


def test_other_tokenizers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="megatron"):
        nemo.tokenizer(changed(tmp_path, tokenizer={"library": "megatron"}), SPEC)


def test_unreadable_archives_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nemo").write_bytes(b"no archive")
    with pytest.raises(Refused, match="no readable"):
        nemo.read(tmp_path, SPEC, VARIANT)
    (tmp_path / "b.nemo").write_bytes(archive().read_bytes()[:2000])
    with pytest.raises(Refused, match=r"archive"):
        nemo.read(tmp_path / "b.nemo", SPEC, VARIANT)
    with pytest.raises(Refused, match=r"2 \.nemo files"):
        nemo.read(tmp_path, SPEC, VARIANT)
    with tarfile.open(tmp_path / "c.nemo", "w"):
        pass
    with pytest.raises(Refused, match="model_config"):
        nemo.read(tmp_path / "c.nemo", SPEC, VARIANT)


@pytest.mark.parametrize("content", [b"", b"\0", b"no model"])
def test_a_tokenizer_that_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    """An empty one ends the process when it is asked for its tokens."""
    (tmp_path / SPEC.tokenizer.file).write_bytes(content)
    with pytest.raises(Refused, match="no sentencepiece model"):
        nemo.tokenizer(tmp_path, SPEC)


def test_a_deeply_nested_config_is_refused(tmp_path: Path) -> None:
    """libyaml ends the process on one: it must not be what reads archives."""
    content = b"data: " + b"[" * 200_000
    with tarfile.open(tmp_path / "deep.nemo", "w") as target:
        entry = tarfile.TarInfo(nemo.CONFIG)
        entry.size = len(content)
        target.addfile(entry, BytesIO(content))
    with pytest.raises(Refused, match="RecursionError"):
        nemo.read(tmp_path / "deep.nemo", SPEC, VARIANT)


def test_ids_of_the_tokenizer() -> None:
    facts = nemo.tokenizer(archive(), SPEC)
    assert facts.find("<extra_id_1>") is not None and facts.find("<extra_id_99>") is None
    assert (facts.bos, facts.end, facts.pad, facts.vocabulary) == (1, 2, 2, SENTENCEPIECE_SIZE)


def test_the_plan_drops_stop_words_from_the_text() -> None:
    options = Options(model="neva", hf_model_dir=archive(), runtime="torch")
    facts, findings = gather(options, SPEC, VARIANT)
    assert not findings and facts.tokenizer is not None
    plan, findings = make(options, SPEC, VARIANT, facts)
    assert [finding.code for finding in findings] == ["unknown-size"]  # the tiny checkpoint is no published one
    assert plan.dropped_ids == tuple(facts.tokenizer.id_of(word) for word in ("<extra_id_1>", "<extra_id_7>"))
    assert (plan.llm_dtype, plan.vision_dtype) == ("bfloat16", "bfloat16")
    assert plan.paths.checkpoint == str(archive().resolve())
