"""Hostile inputs made from sound ones: bytes flipped, cut, doubled and spliced; values of JSON replaced and moved.

Every input follows from the path's name and a number, so a crash is reproduced by naming both.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Sequence
from typing import Any

HOLDERS = (dict, list)  # in JSON
SIZES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    10**30,
    -0.0,
    0.5,
    1e308,
    float("inf"),
    float("nan"),
    "",
    "x",
    "\0",
    "../../etc/passwd",
    "{{ 7*7 }}",
    '"\n}',
    "é" * 50,
    [],
    {},
    [[]],
    [0],
    [-1, 0],
    ["x"] * 3,
    {"": None},
    [[[[[[]]]]]],
)


def numbers(path: str, number: int) -> random.Random:
    """The randomness of one input."""
    return random.Random(f"{path} {number}")


def spoiled(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of `seeds` with one to eight things done to it."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        _spoil(rng, data, seeds)
    return bytes(data)


def _spoil(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    place = rng.randrange(len(data) + 1)
    match rng.randrange(8):
        case 0:
            del data[place:]
        case 1:
            del data[place : place + rng.randrange(1, 17)]
        case 2:
            data[place:place] = rng.randbytes(rng.randrange(1, 17))
        case 3:
            data[place:place] = data[place : place + rng.randrange(1, 65)]
        case 4:
            other = rng.choice(seeds)
            data[place:] = other[rng.randrange(len(other) + 1) :]
        case 5:
            width = rng.choice((1, 2, 4))
            size = (rng.choice(SIZES) & (1 << 8 * width) - 1).to_bytes(width, rng.choice(("big", "little")))
            data[place : place + width] = size
        case _:
            if place < len(data):
                data[place] ^= 1 << rng.randrange(8)


def twisted(rng: random.Random, value: Any) -> Any:
    """A copy of the JSON `value` with one to three of its parts replaced, left out, or put elsewhere."""
    made = _copied(value)
    for _ in range(rng.choice((1, 1, 2, 3))):
        holder, key = _part(rng, made)
        if holder is None:
            return _copied(rng.choice(VALUES))
        match rng.randrange(6):
            case 0:
                del holder[key]
            case 1:
                other, where = _part(rng, made)
                holder[key] = _copied(other[where]) if other is not None else None
            case 2 if isinstance(holder[key], int):
                holder[key] += rng.choice((-1, 1, 7, 1 << 20, -(1 << 20)))
            case _:
                holder[key] = _copied(rng.choice(VALUES))  # which later things are done to
    return made


def _copied(value: Any) -> Any:
    """A copy of a JSON value, three times as fast as that of copy.deepcopy."""
    return pickle.loads(pickle.dumps(value))  # noqa: S301 -- of this process


def _part(rng: random.Random, value: Any) -> tuple[Any, Any]:
    """A random place of a JSON value: its holder and key; (None, None) where it holds nothing."""
    holders: list[Any] = []
    stack = [value]
    while stack:
        holder = stack.pop()
        if holder and isinstance(holder, HOLDERS):
            holders.append(holder)
            inner = holder.values() if isinstance(holder, dict) else holder
            stack += [part for part in inner if isinstance(part, HOLDERS)]
    places = sum(map(len, holders))
    if not places:
        return None, None
    number = rng.randrange(places)
    for holder in holders:
        if number < len(holder):
            break
        number -= len(holder)
    return holder, list(holder)[number] if isinstance(holder, dict) else number
