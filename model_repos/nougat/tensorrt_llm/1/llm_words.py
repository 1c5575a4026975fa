"""Stop and bad words as the LLM backend takes them: two rows of int32, token ids and where each word ends."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tensors import RequestError


def parse(words: NDArray[np.int32], name: str, vocab_size: int) -> list[list[int]]:
    """The words of one request row, as lists of token ids, from its list of shape [2, L].

    Row 0 holds the ids of all words one after another, padded with 0; row 1 the end of each word as an offset
    into row 0, padded with -1. [2, 0] means no words. Raises RequestError, in the backend's wording.
    """
    if words.ndim != 2 or words.shape[0] != 2:
        raise RequestError(f"{name}: Sparse list must not have odd length: {list(words.shape)} is not [2, L]")
    ids, ends = words.tolist()
    sparse = [*ids, *ends]
    parsed: list[list[int]] = []
    start = 0
    for position, end in enumerate(ends):
        if end == -1:
            if any(later != -1 for later in ends[position:]):
                raise RequestError(f"{name}: Sparse list must not have additional -1s: {sparse}")
            break
        if not 0 <= end <= len(ids):
            raise RequestError(f"{name}: Sparse list must not have out-of-bound offsets: {sparse}")
        if end <= start:
            raise RequestError(f"{name}: Sparse list must not have non-increasing offsets: {sparse}")
        word = ids[start:end]
        outside = [token for token in word if not 0 <= token < vocab_size]
        if outside:
            raise RequestError(f"{name}: token id {outside[0]} is outside the vocabulary of {vocab_size} tokens")
        parsed.append(word)
        start = end
    return parsed


def ends_with_any(history: Sequence[int], words: Sequence[Sequence[int]]) -> bool:
    """Whether the token ids of `history` end with one of `words`."""
    return any(len(history) >= len(word) and list(history[-len(word) :]) == list(word) for word in words)


def completions(history: Sequence[int], words: Sequence[Sequence[int]]) -> list[int]:
    """The tokens that would complete one of `words` right after `history`."""
    found = []
    for word in words:
        beginning = list(word[:-1])
        if not beginning or list(history[-len(beginning) :]) == beginning:
            found.append(word[-1])
    return found
