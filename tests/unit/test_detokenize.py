"""Streamed text, joined, equals the text of all ids decoded at once, for every family of tokenizers."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

sys.path.insert(0, str(Path(__file__).parents[2] / "templates" / "shared"))

from detokenize import KEPT_TOKENS, Detokenizer, Replacing
from tokenizers_text import TokenizersText

CORPUS = [
    "The quick brown fox jumps over the lazy dog.  Two spaces,   three; a tab\tand\na line.",
    "Ein schöner Satz mit Umlauten: äöüß, naïve café, Ελληνικά и русский.",
    "图片里有一只猫。日本語のテキスト、한국어 문장.",
    "emoji 😀👩‍👩‍👧‍👦🏳️‍🌈 and signs €→∑ …",
] * 4
TEXTS = [
    *CORPUS[:4],
    "  leading",
    " x  y   z ",
    "🙂",
    "日本",
    "a\ufffdb",
    "\ufffd\ufffd",
    "don't . ? !",
    "",
    " ",
    "    ",
    "🙂🙂🙂🙂🙂🙂🙂🙂",
]
SPECIAL = ["<s>", "</s>", "<unk>"]


def llama() -> Tokenizer:
    """BPE on sentencepiece pieces: spaces as marks, one token per byte for what the vocabulary lacks."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL + bytes_, limit_alphabet=60, show_progress=False
    )
    tokenizer.train_from_iterator([text.replace(" ", "▁") for text in CORPUS], trainer)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    # Training makes the byte tokens special; in a real Llama they are ordinary pieces of the model's vocabulary.
    state = tokenizer.to_str()
    return _without_special(state, keep=SPECIAL)


def byte_level() -> Tokenizer:
    """GPT-2, Llama-3 and OPT."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken("<image>", special=False)])
    return tokenizer


def unigram() -> Tokenizer:
    """T5: unigram with a metaspace decoder, which drops the first token's mark."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=260, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def word_end() -> Tokenizer:
    """BPE with end-of-word marks: whether a space follows a word shows only when the next token comes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.decoder = decoders.BPEDecoder("</w>")
    return tokenizer


def no_decoder() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "a": 1, "b": 2, "c": 3}, unk_token="<s>"))
    tokenizer.add_special_tokens(["<s>"])
    return tokenizer


def strip_six() -> Tokenizer:
    """As llama(), but the decoder takes up to six spaces from the start."""
    tokenizer = llama()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 6, 0)]
    )
    return tokenizer


def _without_special(state: str, keep: list[str]) -> Tokenizer:
    content = json.loads(state)
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in keep]
    return Tokenizer.from_str(json.dumps(content))


FAMILIES: list[Callable[[], Tokenizer]] = [
    llama,
    byte_level,
    unigram,
    word_piece,
    word_end,
    no_decoder,
    strip_six,
]
BUILT = {family.__name__: family() for family in FAMILIES}


def streamed(tokenizer: Tokenizer, chunks: list[list[int]]) -> list[str]:
    stream = Detokenizer(TokenizersText(tokenizer)).stream()
    return [stream.push(chunk) for chunk in chunks] + [stream.finish()]


def tokens(tokenizer: Tokenizer, pieces: list[str]) -> list[int]:
    ids = [tokenizer.token_to_id(piece) for piece in pieces]
    assert None not in ids
    return [id for id in ids if id is not None]


def chunked(ids: list[int], size: int) -> list[list[int]]:
    return [ids[start : start + size] for start in range(0, len(ids), size)]


@pytest.mark.parametrize("family", BUILT)
@pytest.mark.parametrize("size", [1, 3])
def test_texts(family: str, size: int) -> None:
    tokenizer = BUILT[family]
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        assert "".join(streamed(tokenizer, chunked(ids, size))) == tokenizer.decode(ids, skip_special_tokens=True), text


@pytest.mark.parametrize("family", BUILT)
def test_random_ids(family: str) -> None:
    """Any order of ids: bytes of broken characters, special tokens, ids without a token, empty chunks."""
    tokenizer = BUILT[family]
    size = tokenizer.get_vocab_size()

    @settings(max_examples=400, deadline=None)
    @given(st.lists(st.lists(st.integers(0, size + 3), max_size=4), max_size=40))
    def check(chunks: list[list[int]]) -> None:
        ids = [id for chunk in chunks for id in chunk]
        assert "".join(streamed(tokenizer, chunks)) == tokenizer.decode(ids, skip_special_tokens=True)

    check()


def byte_tokens(family: str) -> list[int]:
    """The ids of the 256 single bytes."""
    if family != "byte_level":
        return tokens(BUILT[family], [f"<0x{value:02X}>" for value in range(256)])
    # A byte-level vocabulary writes a printable byte as itself and the others as the characters from 256 on.
    pieces, others = [], 0
    for value in range(256):
        printable = 33 <= value <= 126 or (value >= 161 and value != 173)
        pieces.append(chr(value if printable else 256 + others))
        others += not printable
    return tokens(BUILT[family], pieces)


@pytest.mark.parametrize("family", ["llama", "strip_six", "byte_level"])
def test_random_bytes(family: str) -> None:
    """Bytes one by one: any, or those of real characters with some lost and some tokens put in between."""
    tokenizer = BUILT[family]
    of_byte = byte_tokens(family)
    others = tokens(tokenizer, ["<s>", "e", "e", *(["▁"] * 4 if family != "byte_level" else [])])
    rng = random.Random(5)
    for number in range(4000):
        if number % 4 == 0:
            sample = rng.choices([*of_byte, *others * 20], k=rng.randrange(30))
        else:
            raw = "".join(rng.choices("é€😀日a ", k=12)).encode()
            sample = [of_byte[value] for value in raw if rng.random() < 0.97]
            for _ in range(rng.randrange(8)):
                sample.insert(rng.randrange(len(sample) + 1), rng.choice(others))
        assert "".join(streamed(tokenizer, chunked(sample, 1))) == tokenizer.decode(sample, skip_special_tokens=True)


@pytest.mark.parametrize("family", ["llama", "strip_six"])
def test_leading_spaces(family: str) -> None:
    tokenizer = BUILT[family]
    space, letter = tokens(tokenizer, ["▁", "e"])
    for count in range(1, 30):
        ids = [space] * count + [letter, space, letter]
        assert "".join(streamed(tokenizer, chunked(ids, 1))) == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("family", BUILT)
def test_text_comes_without_delay(family: str) -> None:
    """Of plain text, nothing is held back: after each token the pieces so far are the text so far."""
    tokenizer = BUILT[family]
    ids = tokenizer.encode("the other nose is here and there").ids
    stream, text = Detokenizer(TokenizersText(tokenizer)).stream(), ""
    for count, id in enumerate(ids, 1):
        text += stream.push([id])
        assert text == tokenizer.decode(ids[:count], skip_special_tokens=True)


def test_a_character_comes_with_its_last_byte() -> None:
    tokenizer = BUILT["byte_level"]
    ids = tokenizer.encode("a\U0001f9ff").ids
    assert len(ids) > 2  # the character spans tokens
    pieces = streamed(tokenizer, chunked(ids, 1))
    assert pieces[0] == "a" and pieces[-2:] == ["\U0001f9ff", ""] and "" in pieces[1:-2]


@settings(max_examples=1000, deadline=None)
@given(st.text("ab ", min_size=1, max_size=3), st.sampled_from(["", "a", "xyz"]), st.lists(st.text("ab ", max_size=4)))
def test_replacing_in_pieces(old: str, new: str, pieces: list[str]) -> None:
    replacing = Replacing(old, new)
    made = [replacing.push(piece, final=False) for piece in pieces] + [replacing.push("", final=True)]
    assert "".join(made) == "".join(pieces).replace(old, new)


@pytest.mark.parametrize("size", [1, 3])
def test_replacements_that_span_tokens(size: int) -> None:
    """Marks of which every other loses its spaces: which ones, depends on all before."""
    tokenizer = TokenizersText(BUILT["llama"])
    tokenizer.replacements = [(" , ", ","), (" .", "."), (" ,s", "s")]
    mark, space, *others = tokens(BUILT["llama"], [",", "▁", ".", "s", "e"])
    rng = random.Random(6)
    for _ in range(500):
        ids = rng.choices([mark, space, mark, space, *others], k=40)
        stream = Detokenizer(tokenizer).stream()
        pieces = [stream.push(chunk) for chunk in chunked(ids, size)]
        assert "".join([*pieces, stream.finish()]) == tokenizer.decode(ids)
        assert sum(map(len, pieces)) >= len(tokenizer.decode(ids)) - 5  # no more than the end is held back


class Counting(Detokenizer):
    """Counts the ids that are decoded."""

    count = 0

    def decode(self, ids: list[int]) -> str:
        self.count += len(ids)
        return super().decode(ids)


@pytest.mark.parametrize("family", BUILT)
@pytest.mark.parametrize("kind", ["text", "broken", "special"])
def test_cost_per_push_does_not_grow(family: str, kind: str) -> None:
    tokenizer = BUILT[family]
    if kind == "special":
        ids = tokens(tokenizer, ["<s>"]) * 4000
    elif kind == "text":
        ids = (tokenizer.encode(" ".join(CORPUS)).ids * 40)[:4000]
    elif family in ("llama", "strip_six", "byte_level"):
        ids = [byte_tokens(family)[0xDF]] * 4000
    else:
        pytest.skip("this family has no tokens of single bytes")
    shared = Counting(TokenizersText(tokenizer))
    stream = shared.stream()
    for id in ids:
        stream.push([id])
    stream.finish()
    assert shared.count <= (3 * KEPT_TOKENS + 1) * len(ids)
