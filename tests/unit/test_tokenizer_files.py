"""A tokenizer.json that the native code of `tokenizers` does not survive is refused before it gets there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest

from generator.facts import tokenizer
from generator.findings import Refused
from tests.unit import serving

CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    **{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
}
WAYS: tuple[Literal["hf", "checkpoint"], ...] = ("hf", "checkpoint")


def folder_of(path: Path, **model: Any) -> Path:
    """A checkpoint's tokenizer; `model` replaces entries of tokenizer.json's model."""
    content = json.loads(serving.tokenizer_json())
    content["model"] |= model
    (path / "tokenizer.json").write_text(json.dumps(content))
    (path / "tokenizer_config.json").write_text(json.dumps(CONFIG))
    return path


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("prefix", [None, ""])
def test_a_sound_one_is_read(how: Literal["hf", "checkpoint"], prefix: str | None, tmp_path: Path) -> None:
    facts, _ = tokenizer.read(folder_of(tmp_path, continuing_subword_prefix=prefix), how, "<image>")
    assert facts.encode("a dog") == serving.tokenizer().encode("a dog", add_special_tokens=False).ids


@pytest.mark.parametrize("how", WAYS)
def test_merges_with_their_prefix_are_read(how: Literal["hf", "checkpoint"], tmp_path: Path) -> None:
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "##é": 4, "aé": 5}
    parts = {"vocab": vocab, "continuing_subword_prefix": "##", "byte_fallback": False}
    for merge in (["a", "##é"], "a ##é"):
        facts, _ = tokenizer.read(folder_of(tmp_path, **parts, merges=[merge]), how, "<image>")
        assert facts.find("aé") == 5


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("prefix", ["x", "\0", "é" * 50])  # a byte of a longer character, or more than there are
def test_merges_without_their_prefix_are_refused(how: Literal["hf", "checkpoint"], prefix: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="lacks the model's continuing_subword_prefix"):
        tokenizer.read(folder_of(tmp_path, continuing_subword_prefix=prefix), how, "<image>")
