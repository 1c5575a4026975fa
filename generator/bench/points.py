"""What is measured: one point is one kind of request at one concurrency."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Requests:
    """One kind of request.

    Attributes:
        size: width and height of each image in pixels; None = no images, or files that are sent as they are.
        images: per request. words: of the text. tokens: of the answer, neither fewer nor more.
    """

    size: tuple[int, int] | None
    images: int
    words: int
    tokens: int

    @property
    def name(self) -> str:
        """Part of a file name."""
        size = f"{self.size[0]}x{self.size[1]}" if self.size else "asis"
        return f"{size}-{self.images}img-{self.words}words-{self.tokens}tokens"


@dataclass(frozen=True)
class Point:
    """`requests` asked by `concurrency` clients at once, each waiting for its answer."""

    requests: Requests
    concurrency: int


def sweep(
    sizes: Sequence[tuple[int, int] | None],
    images: Sequence[int],
    words: Sequence[int],
    tokens: Sequence[int],
    concurrency: Sequence[int],
) -> list[Point]:
    """Every combination once, concurrency running fastest; without images the size makes no difference."""
    found: dict[Point, None] = {}
    for values in itertools.product(sizes, images, words, tokens, concurrency):
        requests = Requests(*values[:4])
        if requests.images == 0:
            requests = replace(requests, size=None)
        found[Point(requests, values[4])] = None
    return list(found)
