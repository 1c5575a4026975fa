"""Assembling ids, word lists and biases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from marked_prompt import PromptBuilder
from placement import Placed
from tagged_prompt import PromptBuilder as TaggedPromptBuilder
from tensors import RequestError
from tokenizers_text import TokenizersText
from word_lists import embedding_bias, spellings, stacked, word_list

from tests.unit import serving
from tests.unit.serving import ROWS, VOCAB_SIZE

LIBRARY = serving.tokenizer()
TOKENIZER = TokenizersText(LIBRARY)
MARK = "<image>"
# no "<" and ">": neither marks nor special tokens come about by chance
plain_text = st.text(st.characters(exclude_characters="<>", codec="utf-8"), max_size=25)


def builder(**changes: Any) -> PromptBuilder:
    return PromptBuilder(serving.settings(**changes), TOKENIZER)


ROOMY = {"max_input_len": 10_000, "max_seq_len": 20_000, "max_images": 9, "max_table_rows": 9 * ROWS}
BUILDERS = {flag: builder(limits=ROOMY, image_token=flag) for flag in (True, False)}


PLACED = Placed((1, 3, 8, 8), ROWS, np.arange(ROWS))


def ids_of(prompts: PromptBuilder, text: str, images: int, apply_chat_template: bool = True) -> Any:
    return prompts.build(text, [PLACED] * images, apply_chat_template).ids


def fake(image: int) -> list[int]:
    return list(range(VOCAB_SIZE + image * ROWS, VOCAB_SIZE + (image + 1) * ROWS))


@given(st.lists(plain_text, min_size=1, max_size=5), st.booleans(), st.booleans())
def test_one_bos_and_each_row_once_in_order(pieces: list[str], image_token: bool, use_template: bool) -> None:
    images = len(pieces) - 1
    ids = ids_of(BUILDERS[image_token], MARK.join(pieces), images, use_template).tolist()
    assert ids[0] == 1 and ids.count(1) == 1
    assert [token for token in ids if token >= VOCAB_SIZE] == [token for k in range(images) for token in fake(k)]
    assert all(token < VOCAB_SIZE or token in fake((token - VOCAB_SIZE) // ROWS) for token in ids)


@given(st.lists(plain_text, min_size=1, max_size=4))
def test_equals_the_tokenizer_of_the_whole_text(pieces: list[str]) -> None:
    """As Hugging Face's processors: the marks are repeated in the text, then the whole is tokenized."""
    image_id = LIBRARY.token_to_id(MARK)
    whole = LIBRARY.encode((MARK * ROWS).join(pieces)).ids
    ours = ids_of(BUILDERS[True], MARK.join(pieces), len(pieces) - 1, apply_chat_template=False)
    assert [image_id if token >= VOCAB_SIZE else token for token in ours.tolist()] == whole


@given(st.lists(plain_text, min_size=1, max_size=4))
def test_chunks_equal_vilas_own_function(pieces: list[str]) -> None:
    """VILA's rule: each chunk is tokenized with its own BOS, of which only the first stays."""
    expected = [1]
    for number, piece in enumerate(pieces):
        if number:
            expected += fake(number - 1)
        expected += LIBRARY.encode(piece).ids[1:]
    ours = ids_of(BUILDERS[False], MARK.join(pieces), len(pieces) - 1, apply_chat_template=False)
    assert ours.tolist() == expected


@pytest.mark.parametrize("image_token", [True, False])
def test_template_and_prefix(image_token: bool) -> None:
    prompts = BUILDERS[image_token]
    written_out = ids_of(prompts, "USER: <image>\n<image>\nWhich city? ASSISTANT:", 2, apply_chat_template=False)
    assert ids_of(prompts, "Which city?", 2).tolist() == written_out.tolist()
    assert ids_of(prompts, "<image>\n<image>\nWhich city?", 2).tolist() == written_out.tolist()
    assert ids_of(prompts, "<image><image>Which city?", 2).tolist() != written_out.tolist()


def test_braces_in_the_text_are_only_text() -> None:
    whole = LIBRARY.encode("USER: {text} {0} {{ ASSISTANT:").ids
    assert ids_of(BUILDERS[True], "{text} {0} {{", 0).tolist() == whole


def test_begin_token_in_the_text_stays_beside_the_tokenizers_own() -> None:
    """As transformers tokenizes it, and as VILA's Llama-3 template needs it, which spells its begin token out."""
    for image_token in (True, False):
        prompts = BUILDERS[image_token]
        assert ids_of(prompts, "<s>hello", 0, False).tolist()[:2] == [1, 1]
        assert ids_of(prompts, "hello", 0, False).tolist()[:2].count(1) == 1


@pytest.mark.parametrize(
    ("text", "images", "use_template", "message"),
    [
        ("<image> and <image>", 1, True, r"2 <image> in the text but 1 image\(s\)"),
        ("<image>", 2, True, r"1 <image> in the text but 2 image\(s\)"),
        ("<image>", 0, True, r"1 <image> in the text but 0 image\(s\)"),
        ("hello", 1, False, r"1 image\(s\) but no <image> in the text.*apply_chat_template"),
        ("hello", 5, True, "5 images, allowed are 4"),
        ("hello", 4, True, "24 rows exceed the prompt table of 18.*fewer"),
        ("word " * 300, 1, True, r"\d+ tokens \(6 of them for 1 image\(s\)\).*max_input_len 200"),
        ("w" * 60_000, 0, True, r"600\d\d characters.*max_input_len 200"),
    ],
)
def test_refusals(text: str, images: int, use_template: bool, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        ids_of(builder(), text, images, use_template)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "<|image_" + "9" * 5000 + "|>",
            "^a number of more than 9 digits in an image tag, 1 image\\(s\\) came: write <.image_1",
        ),
        ("<|image_999999999|>", "^the text names images \\[999999999\\], 1 came"),
        ("<|image_7|>" * 1000, "^the text names images \\[7, 7, 7, 7, 7, 7, 7, 7, 7, 7, ...\\], 1 came"),
    ],
    ids=["long", "large", "many"],
)
def test_numbers_of_tags_that_no_image_has(text: str, message: str) -> None:
    prompt = {"image_tag": "<|image_NUMBER|>", "image_prefix": "<|image_1|>\n", "image_token_id": None}
    with pytest.raises(RequestError, match=message) as refused:
        TaggedPromptBuilder(serving.settings(prompt=prompt), TOKENIZER).chunks(text, 1, True)
    assert len(str(refused.value)) < 300


def test_model_that_needs_an_image() -> None:
    with pytest.raises(RequestError, match="tiny-llava needs an image"):
        ids_of(builder(prompt={"image_required": True}), "hello", 0)


def test_text_cannot_reach_rows_of_the_table() -> None:
    """A token of the tokenizer beyond the LLM's vocabulary would be taken for a fake id."""
    small = builder(tokenizer={"vocab_size": 40})
    with pytest.raises(RequestError, match="a token that the language model of tiny-llava lacks"):
        ids_of(small, "hello", 0)


def test_empty_prompt_is_refused() -> None:
    without_bos = builder(tokenizer={"bos_id": None})
    bare = serving.tokenizer()
    bare.post_processor = None
    without_bos._tokenizer = TokenizersText(bare)
    with pytest.raises(RequestError, match="the prompt is empty"):
        ids_of(without_bos, "", 0, apply_chat_template=False)


def test_output_len() -> None:
    prompts = builder(limits={"max_seq_len": 300, "default_max_tokens": 128})
    assert prompts.output_len(100, 200) == 200
    assert prompts.output_len(100, None) == 128
    assert prompts.output_len(250, None) == 50
    for wanted in (0, -3):
        with pytest.raises(RequestError, match=f"max_tokens is {wanted}"):
            prompts.output_len(10, wanted)
    with pytest.raises(RequestError, match=r"100 prompt tokens and max_tokens 201 exceed max_seq_len 300.*at most 200"):
        prompts.output_len(100, 201)
    with pytest.raises(RequestError, match="exceed max_seq_len 300"):
        prompts.output_len(300, None)


def test_extra_ids_tell_images_apart() -> None:
    prompts = builder()
    prompt = prompts.build("<image> and <image> here", [PLACED] * 2)
    ids = prompt.ids
    one, two = np.zeros((3, 4, 4), np.float16), np.ones((3, 4, 4), np.float16)
    extra = prompts.extra_ids(prompt, [one, two])
    assert extra.dtype == np.uint64 and extra.shape == ids.shape
    assert ((extra == 0) == (ids < VOCAB_SIZE)).all()
    first, second = (set(extra[np.isin(ids, fake(k))].tolist()) for k in (0, 1))
    assert len(first) == len(second) == 1 and first != second
    assert (prompts.extra_ids(prompt, [one, two]) == extra).all(), "equal images share their cache"
    swapped = prompts.extra_ids(prompt, [two, one])
    assert set(swapped[np.isin(ids, fake(0))].tolist()) == second, "an image has its hash wherever it stands"
    for other in (
        prompts.extra_ids(prompt, [one, two], b"7"),
        prompts.extra_ids(prompt, [one.reshape(4, 3, 4), two.reshape(4, 3, 4)]),
        builder(rows_per_image=ROWS, model="b").extra_ids(prompt, [one, two]),
    ):
        assert not set(other[ids >= VOCAB_SIZE].tolist()) & (first | second)


def words_of(layout: Any) -> list[list[int]]:
    """Reads the layout as the backend does."""
    ends = [end for end in layout[1].tolist() if end != -1]
    assert layout[1].tolist() == ends + [-1] * (layout.shape[1] - len(ends))
    assert ends == sorted(set(ends)) and all(0 < end <= layout.shape[1] for end in ends)
    return [layout[0, start:end].tolist() for start, end in zip([0, *ends], ends, strict=False)]


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=8), max_size=6))
def test_word_list_holds_each_spelling_once(words: list[str]) -> None:
    layout = word_list(TOKENIZER, words)
    read = words_of(layout)
    assert layout.dtype == np.int32
    assert read == [
        list(ids) for ids in dict.fromkeys(tuple(ids) for word in words if word for ids in spellings(TOKENIZER, word))
    ]
    assert layout.shape == (2, sum(map(len, read)))


@given(plain_text.filter(bool))
def test_a_word_is_found_at_the_start_and_after_a_newline(word: str) -> None:
    found = spellings(TOKENIZER, word)
    assert LIBRARY.encode(word, add_special_tokens=False).ids in found
    text = LIBRARY.encode("USER:\n" + word, add_special_tokens=False).ids
    assert any(text[-len(ids) :] == ids for ids in found)


def test_special_tokens_are_one_id() -> None:
    assert spellings(TOKENIZER, "</s>") == [[2]]
    assert word_list(TOKENIZER, []).shape == word_list(TOKENIZER, ["", ""]).shape == (2, 0)


def test_stacked_rows_keep_their_words() -> None:
    rows = [word_list(TOKENIZER, words) for words in (["USER", "city"], [], ["</s>"])]
    batch = stacked(rows)
    assert batch.shape == (3, 2, rows[0].shape[1]) and batch.dtype == np.int32
    assert [words_of(row) for row in batch] == [words_of(row) for row in rows]
    assert stacked([word_list(TOKENIZER, [])] * 2).shape == (2, 2, 0)


def test_embedding_bias() -> None:
    bias = embedding_bias(TOKENIZER, ["city", "</s>", "", "city"], [1.5, -2.0, 9.0, 0.25], VOCAB_SIZE)
    expected = np.zeros(VOCAB_SIZE, np.float32)
    expected[sorted(set(LIBRARY.encode("city", add_special_tokens=False).ids))] = 1.75
    expected[2] = -2.0
    assert bias.dtype == np.float32 and (bias == expected).all()
    assert embedding_bias(TOKENIZER, [], [], VOCAB_SIZE).shape == (0,)
    with pytest.raises(RequestError, match="2 embedding_bias_words but 1 embedding_bias_weights"):
        embedding_bias(TOKENIZER, ["a", "b"], [1.0], VOCAB_SIZE)
    with pytest.raises(RequestError, match="embedding_bias_weights holds a value that is not finite"):
        embedding_bias(TOKENIZER, ["a"], [float("nan")], VOCAB_SIZE)
    with pytest.raises(RequestError, match="lacks a token of '<pad>'"):
        embedding_bias(TOKENIZER, ["<pad>"], [1.0], 40)
