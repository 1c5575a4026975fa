"""What an answer says of places equals what transformers' processor makes of it."""

from __future__ import annotations

import json
import re
import sys
import time
from functools import cache
from typing import Any

import pytest
from detokenize import Detokenizer
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from text_tokenizer import FileSettings, TextTokenizer
from text_tokenizer import load as load_tokenizer

from generator.facts import tokenizer as tokenizer_facts
from tests.checkpoints import cached
from tests.unit.serving import ROOT

sys.path.append(str(ROOT / "templates/postprocessing/1"))
from entities_text import read, texts

SNOWMAN = (
    " An image of<phrase> a snowman</phrase><object><patch_index_0044><patch_index_0863></object> warming himself by"
    "<phrase> a fire</phrase><object><patch_index_0005><patch_index_0911></object>."
)
BETWEEN = "</delimiter_of_multi_objects/>"


@cache
def processor() -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(cached("kosmos-2"))


@cache
def tokenizer() -> TextTokenizer:
    facts, _ = tokenizer_facts.read(cached("kosmos-2"), "hf", "<image>")
    file: FileSettings = {
        "module": "tokenizers_text",
        "file": "tokenizer.json",
        "dropped_ids": [],
        "replacements": [list(pair) for pair in facts.replacements],
    }
    return load_tokenizer(cached("kosmos-2"), file, "kosmos-2")


def truth(text: str) -> tuple[str, list[Any]]:
    clean, entities = processor().post_process_generation(text)
    return clean, entities


def ours(text: str) -> tuple[str, list[Any]]:
    clean, entities = read(text)
    return clean, [(entity.phrase, (entity.start, entity.end), entity.boxes) for entity in entities]


index = st.one_of(
    st.integers(0, 1023).map("{:04}".format), st.integers(0, 99999).map(str), st.sampled_from(["0", "12345678901", "٣"])
)
patch = index.map("<patch_index_{}>".format)
box = st.tuples(patch, patch).map("".join)
word = st.sampled_from(["a dog", " ", "  the\u00a0cat ", "\n", "\t", "3 < 4", "a > b", "<", ">", "é", "<b>", "<|>", ""])
place = st.tuples(
    st.one_of(
        st.just(""), word.map("<phrase>{}</phrase>".format), st.text(max_size=4).map("<phrase>{}</phrase>".format)
    ),
    st.lists(box, min_size=1, max_size=3).map(lambda boxes: f"<object>{BETWEEN.join(boxes)}</object>"),
).map("".join)
tag = st.sampled_from(
    ["<phrase>", "</phrase>", "<object>", "</object>", BETWEEN, "<grounding>", "<image>", "</image>", "<patch_index_>"]
)
answers = st.lists(st.one_of(place, place, word, tag, patch, st.text(max_size=3)), max_size=9).map("".join)


@settings(max_examples=600, deadline=None)  # the first example imports transformers
@given(answers)
def test_any_answer_equals_transformers(text: str) -> None:
    assert ours(text) == truth(text)


def test_the_published_example() -> None:
    clean, entities = ours(SNOWMAN)
    assert clean == "An image of a snowman warming himself by a fire."
    assert entities == [
        ("a snowman", (12, 21), [(0.390625, 0.046875, 0.984375, 0.828125)]),
        ("a fire", (41, 47), [(0.171875, 0.015625, 0.484375, 0.890625)]),
    ]
    assert (clean, entities) == truth(SNOWMAN)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["<grounding>An image of", "What is this?", "Two  words \n and more "]), answers)
def test_transformers_counts_from_the_prompt_and_we_from_the_answer(prompt: str, answer: str) -> None:
    assume("</image>" not in answer)  # transformers would leave out the prompt
    untagged, leading = (re.sub("<.*?>", "", text) for text in (answer, prompt))
    moved = len(leading) + len(untagged) - len(untagged.lstrip())
    clean, entities = ours(answer)
    whole, expected = truth(prompt + answer)
    assert whole == (leading + untagged).strip() and (not clean or whole[moved:] == clean)
    assert [(name, (start + moved, end + moved), boxes) for name, (start, end), boxes in entities] == expected


@pytest.mark.parametrize("first", range(0, 1024, 37))
def test_every_kind_of_box(first: int) -> None:
    for last in range(0, 1024, 11):
        text = f"<object><patch_index_{first:04}><patch_index_{last:04}></object>"
        assert ours(text) == truth(text)


@pytest.mark.parametrize(
    "text",
    ["<" * 4000, "<phrase>" * 2000, "<object><patch_index_0001><patch_index_0002></object>" * 500, "<object>" * 2000],
)
def test_the_longest_answers_take_no_time(text: str) -> None:
    """Of 2048 tokens, whatever they are."""
    start = time.process_time()
    read(text)
    assert time.process_time() - start < 1


def test_numbers_beyond_all_floats_are_no_place() -> None:
    digits = "9" * 5000
    text = f"x<object><patch_index_{digits}><patch_index_1></object>"
    assert ours(text) == ("x", [])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 2400), max_size=12), st.text("ab .,!?'snmvetr ", max_size=20), st.integers(1, 4))
def test_any_ids_have_the_text_of_transformers_whole_and_streamed(more: list[int], text: str, size: int) -> None:
    """Kosmos-2's tokenizer is one of those whose text transformers cleans up."""
    ids = tokenizer().encode(text, special_tokens=False) + [id % len(processor().tokenizer) for id in more]
    expected = processor().decode(ids, skip_special_tokens=True)
    stream = Detokenizer(tokenizer()).stream()
    pieces = [stream.push(ids[start : start + size]) for start in range(0, len(ids), size)]
    assert tokenizer().decode(ids) == "".join([*pieces, stream.finish()]) == expected


def test_the_clean_up_is_that_of_transformers() -> None:
    text = " ".join(["a ' b", *(old.strip() for old, _ in tokenizer_facts.CLEAN_UP)] * 2)
    ids = tokenizer().encode(text, special_tokens=False)
    unreplaced, expected = tokenizer().unreplaced(ids), processor().decode(ids, skip_special_tokens=True)
    assert tokenizer().decode(ids) == expected != unreplaced and len(tokenizer().replacements) == 10


def test_ids_to_texts() -> None:
    ids = tokenizer().encode(f"<grounding>{SNOWMAN}", special_tokens=False)
    answer = tokenizer().decode([*ids, 2])
    made = texts(answer, {"text_output", "entities"})
    assert made["text_output"] == answer == processor().decode(ids, skip_special_tokens=True)
    clean, entities = truth(made["text_output"])
    assert made["clean_text"] == clean
    assert [tuple(e.values()) for e in json.loads(made["entities"])] == [
        (name, start, end, [list(box) for box in boxes]) for name, (start, end), boxes in entities
    ]
    assert texts(answer, ["text_output"]) == {"text_output": answer}
    assert [set(e) for e in json.loads(made["entities"])] == [{"phrase", "start", "end", "boxes"}] * 2
