"""The cache of encoded rows: bounded, exact, and what it does not have is encoded once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from row_cache import RowCache, key_of

ROW_BYTES = 4 * 2 * 2  # of one entry: [4, 2] float16


class Encoder:
    """Rows [n * 4, 2] of entries [n, 8]; notes how many entries each call had."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, groups: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        self.calls.append(sum(map(len, groups)))
        whole = torch.cat([3 * group.reshape(-1, 2) for group in groups])  # views of one call, as an encoder's are
        return list(whole.split([4 * len(group) for group in groups]))


def entry(value: int, count: int = 1) -> torch.Tensor:
    return (torch.arange(8).repeat(count, 1) + 10 * value).half()


def made(entries: int) -> RowCache:
    return RowCache({"bytes": entries * ROW_BYTES, "entry_bytes": ROW_BYTES}, "vision", torch.device("cpu"))


@given(st.integers(1, 5), st.lists(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 3)), max_size=4), max_size=12))
def test_rows_are_those_of_the_encoder_and_bytes_are_bounded(size: int, batches: list[list[tuple[int, int]]]) -> None:
    cache, encode, plain = made(size), Encoder(), Encoder()
    for batch in batches:
        groups = [entry(*what) for what in batch]
        for got, wanted in zip(cache.rows(groups, encode), plain(groups) if groups else [], strict=True):
            assert torch.equal(got, wanted)
        assert sum(rows.nbytes for rows in cache._kept.values()) == cache._bytes <= size * ROW_BYTES
        assert all(rows.untyped_storage().nbytes() == rows.nbytes for rows in cache._kept.values())


def test_only_what_is_missing_is_encoded_and_that_once() -> None:
    cache, encode = made(10), Encoder()
    cache.rows([entry(1), entry(2)], encode)
    cache.rows([entry(2), entry(3), entry(1), entry(3), entry(4)], encode)
    cache.rows([entry(4), entry(1)], encode)
    assert encode.calls == [2, 2]


def test_the_least_recently_used_goes_first() -> None:
    cache, encode = made(2), Encoder()
    for value in (1, 2, 1, 3):  # 2 goes for 3
        cache.rows([entry(value)], encode)
    encode.calls.clear()
    cache.rows([entry(1), entry(3)], encode)
    assert encode.calls == []
    cache.rows([entry(2)], encode)
    assert encode.calls == [1]
    cache.rows([entry(5, count=3)], encode)  # larger than everything: not kept, and nothing goes for it
    encode.calls.clear()
    cache.rows([entry(2), entry(3)], encode)
    assert encode.calls == []


def test_memory_that_others_have_taken_makes_the_cache_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, encode = made(4), Encoder()
    cache.rows([entry(1), entry(2)], encode)

    def full(rows: torch.Tensor) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as taken:
        taken.setattr(torch.Tensor, "clone", full)
        found = cache.rows([entry(1), entry(3)], encode)
    assert torch.equal(found[1], Encoder()([entry(3)])[0])
    encode.calls.clear()
    cache.rows([entry(1), entry(2)], encode)
    assert encode.calls == []
    cache.rows([entry(3)], encode)  # now for 1, as there are two places
    assert len(cache._kept) == 2 and cache._bytes == 2 * ROW_BYTES
    cache.rows([entry(2), entry(3)], encode)
    assert encode.calls == [1]


def test_what_failed_is_not_kept() -> None:
    cache, encode = made(4), Encoder()

    def broken(groups: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        raise RuntimeError("out of memory")

    cache.rows([entry(1)], encode)
    with pytest.raises(RuntimeError, match="out of memory"):
        cache.rows([entry(1), entry(2)], broken)
    assert torch.equal(cache.rows([entry(2)], encode)[0], Encoder()([entry(2)])[0])
    assert encode.calls == [1, 1]


def test_keys_tell_content_shape_and_type_apart() -> None:
    pixels = entry(1)
    others = [entry(2), entry(1, 2), pixels.reshape(1, 2, 4), pixels.reshape(1, 4, 2), pixels.view(torch.int16)]
    others += [pixels.view(torch.bfloat16), pixels.float(), -pixels]
    keys = [key_of(other) for other in (pixels, *others)]
    assert len(set(keys)) == len(keys)
    spread = torch.stack([pixels, pixels], dim=-1)[..., 0]
    assert not spread.is_contiguous() and key_of(spread) == key_of(pixels)
