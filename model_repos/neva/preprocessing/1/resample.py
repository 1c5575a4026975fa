"""Pillow's resize of what is kept of the result, in parts that run side by side: bit for bit the whole's pixels.

Pillow makes each place of an axis from source pixels around (place + 0.5) * source / target, with weights rounded to
22 bits, in two passes with a rounding between them (Resample.c of Pillow 10 to 13). A part that is resized from a `box`
of its own has the very same weights if the edges of that box, float32 there, are exact, and if no weight lies so near
to a rounding step that the last bits of float64 arithmetic could decide. An axis without such places is not cut: then
more is computed, and what is not kept is cropped.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image
from workers import WORKERS, Workers

PILLOW = int(PIL.__version__.partition(".")[0])
KNOWN_PILLOW = 10 <= PILLOW <= 13  # of another one nothing is cut
CHOOSES_ORDER = PILLOW >= 13
PRECISION = 1 << 22  # of Pillow's weights of 8-bit images
SUPPORT = {Image.Resampling.BILINEAR: 1.0, Image.Resampling.BICUBIC: 2.0}
LONGEST = 1 << 14  # pixels or places of an axis whose weights are looked at
FRACTION = 16  # edges of parts are multiples of 1/16 pixel: exact in float32, and so are their differences
WORTH_A_THREAD = 1 << 17  # source pixels of one part: about half a millisecond


class Span(NamedTuple):
    """Places first to last of an axis, and the edges of the source that they are made from."""

    first: int
    last: int
    source_first: float
    source_last: float

    @property
    def places(self) -> int:
        return self.last - self.first

    @property
    def source(self) -> float:
        return self.source_last - self.source_first


Part = tuple[Span, Span]  # across and down


class Cuts(NamedTuple):
    """Where an axis may be cut: places in order, at least the two ends; and the source's edges there."""

    places: NDArray[np.int64]
    edges: NDArray[np.float64]


def resized(
    image: Image.Image,
    size: tuple[int, int],
    resample: Image.Resampling,
    keep: tuple[int, int, int, int] | None = None,
    workers: Workers = WORKERS,
) -> Image.Image:
    """image.resize(size, resample).crop(keep), `keep` lying within it: left, top, right, bottom."""
    image.load()
    left, top, right, bottom = keep or (0, 0, *size)
    across, down = (cuts(*pair, resample) for pair in zip(image.size, size, strict=True))
    order = _vertical_first(image.size, size)
    choices = [
        parts
        for parts in _choices(across, down, (left, top, right, bottom), workers.count)
        if all(_vertical_first(image.size, (x.places, y.places)) == order for x, y in parts)
    ]
    parts = min(choices, key=_largest)

    def made(part: Part) -> Image.Image:
        x, y = part
        box = (x.source_first, y.source_first, x.source_last, y.source_last)
        return image.resize((x.places, y.places), resample, box)

    pieces = workers.each(made, parts)
    if len(pieces) == 1 and pieces[0].size == (right - left, bottom - top):
        return pieces[0]
    result = Image.new(image.mode, (right - left, bottom - top))
    for (x, y), piece in zip(parts, pieces, strict=True):
        result.paste(piece, (x.first - left, y.first - top))  # what hangs over the edge is left out
    result.info = image.info.copy()
    return result


def _vertical_first(source: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether Pillow makes columns before lines, which rounds differently. A part is made in the order of the whole."""
    (width, height), (new_width, new_height) = source, size
    return CHOOSES_ORDER and height - new_height > max(0, 2 * (width - new_width))


def _choices(across: Cuts, down: Cuts, keep: tuple[int, int, int, int], count: int) -> list[list[Part]]:
    """Ways to part what is kept, or all that there is, into at most `count` parts."""
    whole = _between(across, 0, -1), _between(down, 0, -1)
    columns, rows = _span(across, keep[0], keep[2]), _span(down, keep[1], keep[3])
    count = min(count, int(columns.source * rows.source / WORTH_A_THREAD))
    bands = [(columns, band) for band in _parts(down, rows, count)]
    stripes = [(stripe, rows) for stripe in _parts(across, columns, count)]
    return [bands, stripes, [(columns, rows)], [whole]]


@lru_cache(maxsize=128)
def cuts(source: int, target: int, resample: Image.Resampling) -> Cuts:
    """Where an axis of `target` places made from `source` pixels may be cut."""
    places = np.array([0, target])
    if KNOWN_PILLOW and resample in SUPPORT and max(source, target) <= LONGEST:
        all_places = np.arange(target + 1)
        exact = all_places[all_places * source * FRACTION % target == 0]
        if len(exact) > 2 and _clear(source, target, resample):
            places = exact
    return Cuts(places, places * source / target)


def _span(axis: Cuts, first: int, last: int) -> Span:
    """The least that holds the places first to last."""
    start = int(np.searchsorted(axis.places, first, side="right")) - 1
    stop = int(np.searchsorted(axis.places, last, side="left"))
    return _between(axis, start, stop)


def _between(axis: Cuts, start: int, stop: int) -> Span:
    places, edges = axis.places[[start, stop]].tolist(), axis.edges[[start, stop]].tolist()
    return Span(*places, *edges)


def _parts(axis: Cuts, span: Span, count: int) -> list[Span]:
    """`span` in at most `count` parts, as equal as the axis allows."""
    wanted = [span.first + span.places * part / count for part in range(1, count)]
    inner = [int(np.abs(axis.places - place).argmin()) for place in wanted]
    ends = np.searchsorted(axis.places, [span.first, span.last]).tolist()
    marks = sorted({*ends, *(mark for mark in inner if ends[0] < mark < ends[1])})
    return [_between(axis, *pair) for pair in pairwise(marks)]


def _largest(parts: list[Part]) -> float:
    """Source pixels of the largest part, which decides when all are done."""
    return max(x.source * y.source for x, y in parts)


def _clear(source: int, target: int, resample: Image.Resampling) -> bool:
    """Whether all weights of an axis are away from the steps where they round up or down, by more than rounding errors
    of float64 can move them."""
    scale = source / target
    wide = max(scale, 1.0)
    support = SUPPORT[resample] * wide
    centre = (np.arange(target) + 0.5) * scale
    first = (centre - support + 0.5).astype(np.int64)
    pixels = first[:, None] + np.arange(int(2 * support) + 2)
    inside = (pixels >= 0) & (pixels < source)
    weights = np.where(inside, _filter((pixels + 0.5 - centre[:, None]) / wide, resample), 0.0)
    sums = weights.sum(axis=1, keepdims=True)
    steps = np.abs(weights / sums) * PRECISION
    doubt = PRECISION * (source * 2.0**-50 / wide + 2.0**-48) / sums
    return bool((np.abs(steps % 1 - 0.5) > doubt).all())


def _filter(x: NDArray[np.float64], resample: Image.Resampling) -> NDArray[np.float64]:
    x = np.abs(x)
    if resample == Image.Resampling.BILINEAR:
        return np.maximum(1.0 - x, 0.0)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    result: NDArray[np.float64] = np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
    return result
