"""Ids back to text."""

from __future__ import annotations

import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import triton_python_backend_utils as pb_utils
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit import serving

SETTINGS = {
    "model": "tiny-llava",
    "tokenizer": {"module": "tokenizers_text", "file": "tokenizer.json", "dropped_ids": []},
    "texts": {"module": "plain_text"},
}
TOKENIZER = serving.tokenizer()


@cache
def shared_step() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return serving.load_step("postprocessing", Path(folder), SETTINGS)


@cache
def hugging_face() -> Any:
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return pytest.importorskip("transformers").PreTrainedTokenizerFast(tokenizer_object=TOKENIZER, **names)


@pytest.fixture
def step() -> Any:
    return shared_step()


def text_of(step: Any, ids: list[int]) -> str:
    """text_output of one answer."""
    tensors = {"output_ids": np.array([[ids]], np.int32), "sequence_length": np.array([[len(ids)]], np.int32)}
    return str(serving.run(step, **tensors)["text_output"][0, 0].decode())


def test_beams_are_cut_and_shaped(step: Any) -> None:
    words = [TOKENIZER.encode(text, add_special_tokens=False).ids for text in ("which city", "the dog", "a", "street")]
    longest = max(map(len, words)) + 3
    output_ids = np.full((2, 2, longest), 77, np.int32)  # what lies behind the length must not be read
    for place, ids in zip(np.ndindex(2, 2), words, strict=True):
        output_ids[place][: len(ids)] = ids
    output_ids[1, 1, len(words[3]) :] = -1
    lengths = np.array([list(map(len, words[:2])), [len(words[2]), longest]], np.int32)
    texts = serving.run(step, output_ids=output_ids, sequence_length=lengths)["text_output"]
    assert texts.shape == (2, 2) and texts.dtype == np.object_
    assert texts.tolist() == [[b"which city", b"the dog"], [b"a", b"street"]]


@settings(deadline=None)
@given(st.lists(st.integers(-2, 700), max_size=20))
def test_any_ids_decode(ids: list[int]) -> None:
    known = [token for token in ids if 0 <= token < TOKENIZER.get_vocab_size()]
    output = serving.run(
        shared_step(),
        output_ids=np.array([[[*ids, 2147483647]]], np.int32),
        sequence_length=np.array([[len(ids) + 1]], np.int32),
    )["text_output"]
    assert output[0, 0].decode() == TOKENIZER.decode(known, skip_special_tokens=True)


def test_no_tokens_is_empty_text(step: Any) -> None:
    for length in (0, -1):
        lengths = np.array([[length]], np.int32)
        output = serving.run(step, output_ids=np.empty((1, 1, 0), np.int32), sequence_length=lengths)
        assert output["text_output"].tolist() == [[b""]]


@settings(deadline=None)  # the first example imports transformers
@given(
    st.text(st.characters(codec="utf-8"), max_size=30),
    st.lists(st.integers(0, 599), max_size=12),
)
def test_equals_hugging_face(text: str, more: list[int]) -> None:
    ids = TOKENIZER.encode(text).ids + [token % TOKENIZER.get_vocab_size() for token in more]
    assert text_of(shared_step(), ids) == hugging_face().decode(ids, skip_special_tokens=True)


def test_special_tokens_are_left_out(step: Any) -> None:
    assert text_of(step, [*TOKENIZER.encode("the dog").ids, 2]) == "the dog"


def stopped(step: Any, text: str, *words: str) -> tuple[str, int]:
    """text_output and output_tokens of the answer `text`, cut at `words`."""
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    tensors = {
        "output_ids": np.array([[ids]], np.int32),
        "sequence_length": np.array([[len(ids)]], np.int32),
        "stop_words": serving.words(list(words)),
    }
    given = [pb_utils.Tensor(name, array) for name, array in tensors.items()]
    request = pb_utils.InferenceRequest("step", ["text_output", "output_tokens"], given)
    made = serving.outputs(step.execute([request])[0])
    return made["text_output"][0, 0].decode(), made["output_tokens"].item()


def test_texts_end_before_stop_words(step: Any) -> None:
    """Also before one inside a token; the tokens are counted up to the one that made it complete."""
    text = "What is shown in the picture? Which city is this?"
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids

    def tokens(word: str) -> int:
        return next(n for n in range(len(ids) + 1) if word in TOKENIZER.decode(ids[:n]))

    assert stopped(step, text) == stopped(step, text, "", "absent") == (text, len(ids))
    assert stopped(step, text, "ictu") == ("What is shown in the p", tokens("ictu"))
    assert stopped(step, text, "city", "own in") == ("What is sh", tokens("own in"))
    assert stopped(step, text, "What")[0] == "" and stopped(step, text, "this?")[0] == text[:-5]


def test_rows_have_stop_words_of_their_own(step: Any) -> None:
    ids = TOKENIZER.encode("the dog", add_special_tokens=False).ids
    texts = serving.run(
        step,
        output_ids=np.array([[ids, ids], [ids, ids]], np.int32),
        sequence_length=np.full((2, 2), len(ids), np.int32),
        stop_words=serving.words(["og", ""], ["h", " d"]),
    )["text_output"]
    assert texts.tolist() == [[b"the d"] * 2, [b"t"] * 2]


@pytest.mark.parametrize("words", [np.array([["a"], ["b"]], object), np.array([[b"\xff"]], object)])
def test_bad_stop_words_are_refused(step: Any, words: Any) -> None:
    with pytest.raises(serving.RequestFailed, match="stop_words") as failure:
        serving.run(
            step, output_ids=np.zeros((1, 1, 1), np.int32), sequence_length=np.ones((1, 1), np.int32), stop_words=words
        )
    assert failure.value.code == pb_utils.TritonError.INVALID_ARG


def test_without_tokenizer_it_refuses_to_load(tmp_path: Path) -> None:
    with pytest.raises(
        pb_utils.TritonModelException, match="gen-repo --model tiny-llava --hf-model-dir DIR"
    ) as refusal:
        serving.load_step("postprocessing", tmp_path, SETTINGS, with_tokenizer=False)
    assert str(tmp_path) not in str(refusal.value)


def test_a_defect_is_an_internal_error_with_an_id(step: Any) -> None:
    with pytest.raises(serving.RequestFailed, match=serving.INTERNAL_ERROR) as failure:
        serving.run(step, sequence_length=np.array([[1]], np.int32))
    assert failure.value.code == pb_utils.TritonError.INTERNAL
    level, message = vars(pb_utils.Logger)["messages"][-1]
    [mark] = re.findall(serving.ERROR_ID, str(failure.value))
    assert level == "error" and message.startswith(mark) and "Traceback" in message
