"""Random answers of a tokenizer: token ids, the text that its own library makes of them, and stop strings in it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from generator.oracle.neva import read_archive

FRAGMENTS = (
    *(
        "the ",
        " a",
        "dog",
        "street ",
        "It's",
        "n't",
        "don't ",
        " .",
        " , ",
        "?!",
        "…",
        "3.14159",
        "1,000 ",
        "naïve",
        "café",
    ),
    *("  ", "   three", "\n", "\n\n", "\t", " ", "\u00a0", "\u200b", "\u2581", "\ufffd"),
    *("日本語", "图片里有一只猫。", "한국어 ", "مرحبا ", "हिन्दी", "Ελληνικά", "русский", "ไทย"),
    *("😀", "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪", "🧿", "e\u0301", "\U00010348"),
    *("<s>", "</s>", "<unk>", "<image>", "<pad>", "<|eot_id|>", "<extra_id_1>", "<0x0A>", "|NEWLINE|", "</w>", "##"),
)


@dataclass(frozen=True)
class Answer:
    """One generated answer: `whole` is the text of all `ids`, `text` the part of it before the first of `stop_words`."""

    ids: list[int]
    whole: str
    stop_words: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Library:
    """A tokenizer as its own library reads it."""

    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    size: int


def transformers_tokenizer(folder: Path) -> Library:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return Library(
        lambda text: tokenizer(text)["input_ids"],
        lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
        len(tokenizer),
    )


def sentencepiece_tokenizer(archive: Path, dropped: Sequence[str]) -> Library:
    """Of a .nemo file. The pieces `dropped`, which end an answer, are none of its text."""
    from sentencepiece import SentencePieceProcessor  # type: ignore[import-untyped]

    processor = SentencePieceProcessor(model_proto=read_archive(archive)[2])
    size = processor.get_piece_size()
    left_out = {processor.piece_to_id(piece) for piece in dropped}
    return Library(
        processor.encode,
        lambda ids: processor.decode([id for id in ids if id < size and id not in left_out]),
        size,
    )


def answers(library: Library, count: int, seed: int) -> list[Answer]:
    """`count` answers, all different. Half are texts, cut anywhere and with some tokens lost or put in; half are ids in
    any order, some beyond the vocabulary. Every other one has stop words."""
    rng = random.Random(seed)
    made: dict[str, Answer] = {}
    while len(made) < count:
        ids = _of_text(library, rng) if rng.random() < 0.5 else _of_ids(library, rng)
        whole = library.decode(ids)
        words = _stop_words(whole, rng) if len(made) % 2 else ()
        text = before_stop_word(whole, words)
        made.setdefault(f"{ids} {words}", Answer(ids, whole, words, text))
    return list(made.values())


def _of_text(library: Library, rng: random.Random) -> list[int]:
    ids = library.encode("".join(rng.choices(FRAGMENTS, k=rng.randint(1, 9))))
    del ids[rng.randint(1, 40) :]
    for _ in range(rng.choice([0, 0, 1, 2])):
        at = rng.randrange(len(ids) + 1)
        ids[at : at + rng.randrange(2)] = [rng.randrange(library.size)] * rng.randrange(3)
    return ids


def _of_ids(library: Library, rng: random.Random) -> list[int]:
    """Low ids are where special tokens and single bytes are in most vocabularies."""
    most = rng.choice([library.size + 3, 300])
    return [rng.randrange(most) for _ in range(rng.randint(1, 25))]


def _stop_words(text: str, rng: random.Random) -> tuple[str, ...]:
    """Parts of the text, words that begin like one, and words that do not come."""
    words = ["\x01never"]
    if text:
        start = rng.randrange(len(text))
        words += [text[start : start + rng.randint(1, 8)], text[start // 2 : start // 2 + 4] + "\x01"]
    if len(text) > 4 and rng.random() < 0.3:
        words.append(text[-3:])
    rng.shuffle(words)
    return tuple(words)


def before_stop_word(text: str, words: Sequence[str]) -> str:
    """Read one character after the other: the first word that the text ends with, the longest of several, ends it."""
    for end in range(1, len(text) + 1):
        hits = [len(word) for word in words if text[:end].endswith(word)]
        if hits:
            return text[: end - max(hits)]
    return text
