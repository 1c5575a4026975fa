"""Stop words, bad words and embedding biases as the LLM backend reads them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tensors import RequestError
from text_tokenizer import TextTokenizer

SENTINELS = ("\n", ".", "a")
MAX_WORDS = 1024  # of one list; each is tokenized up to four times
MAX_WORD_CHARACTERS = 256


def spellings(tokenizer: TextTokenizer, word: str) -> list[list[int]]:
    """The id sequences that `word` may have: on its own, and in running text right after another character.

    The backend compares ids, and many tokenizers spell a word differently at the start of a text.
    Raises RequestError when the word has no tokens.
    """
    found = [tokenizer.encode(word, special_tokens=False)]
    for sentinel in SENTINELS:
        prefix = tokenizer.encode(sentinel, special_tokens=False)
        running = tokenizer.encode(sentinel + word, special_tokens=False)
        # else the sentinel has merged with the word, or is nothing to this tokenizer
        if prefix and running[: len(prefix)] == prefix:
            found.append(running[len(prefix) :])
            break
    distinct = [list(ids) for ids in dict.fromkeys(map(tuple, found)) if ids]
    if not distinct:
        raise RequestError(f"the word {word!r} has no tokens: leave it out")
    return distinct


def check_words(name: str, words: Sequence[str]) -> None:
    """Raise RequestError for a list of input `name` that is too long to be worth tokenizing."""
    if len(words) > MAX_WORDS:
        raise RequestError(f"{name} holds {len(words)} words, allowed are {MAX_WORDS}: send fewer", "limit")
    longest = max(map(len, words), default=0)
    if longest > MAX_WORD_CHARACTERS:
        raise RequestError(
            f"{name} holds a word of {longest} characters, allowed are {MAX_WORD_CHARACTERS}: shorten it", "limit"
        )


def word_list(tokenizer: TextTokenizer, words: Sequence[str], tokens: Sequence[int] = ()) -> NDArray[np.int32]:
    """`tokens`, each a word, and `words` in the backend's layout, int32 [2,L]; [2,0] when there are none. An empty
    string is no word.

    Row 0 holds the ids of all spellings, padded with 0; row 1 the end of each spelling, padded with -1.
    """
    spelled = [tuple(ids) for word in words if word for ids in spellings(tokenizer, word)]
    sequences = dict.fromkeys([*((token,) for token in tokens), *spelled])
    ids = [token for sequence in sequences for token in sequence]
    layout = np.full((2, len(ids)), -1, dtype=np.int32)
    layout[0] = ids
    layout[1, : len(sequences)] = np.cumsum([len(sequence) for sequence in sequences], dtype=np.int32)
    return layout


def stacked(lists: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    """Word lists [2,L] of several rows as one int32 [B,2,max L]."""
    rows = np.zeros((len(lists), 2, max(words.shape[1] for words in lists)), dtype=np.int32)
    rows[:, 1] = -1
    for row, words in zip(rows, lists, strict=True):
        row[:, : words.shape[1]] = words
    return rows


def embedding_bias(
    tokenizer: TextTokenizer, words: Sequence[str], weights: Sequence[float], vocab_size: int
) -> NDArray[np.float32]:
    """What to add to the logits, float32 [vocab_size]; [0] when there are no words.

    The weight of a word is added once to each distinct token of the word on its own.
    Raises RequestError when words and weights differ in number, or a weight is not a finite number.
    """
    if len(words) != len(weights):
        raise RequestError(
            f"{len(words)} embedding_bias_words but {len(weights)} embedding_bias_weights: send one per word"
        )
    if not np.all(np.isfinite(weights)):
        raise RequestError("embedding_bias_weights holds a value that is not finite: send numbers")
    pairs = [(word, weight) for word, weight in zip(words, weights, strict=True) if word]
    bias = np.zeros(vocab_size if pairs else 0, dtype=np.float32)
    for word, weight in pairs:
        tokens = sorted(set(spellings(tokenizer, word)[0]))
        if tokens[-1] >= vocab_size:
            raise RequestError(f"embedding_bias_words: the language model lacks a token of {word!r}: leave it out")
        bias[tokens] += np.float32(weight)
    return bias
