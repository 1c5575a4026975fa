"""Scenes drawn in code: one to four coloured shapes, of which one may be a digit, on a plain background.

A scene is decided by its seed. Its things lie in different cells of a 4 x 4 grid and do not touch, so that "from left
to right" and "top left" have one answer.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

COLOURS = {
    "red": (214, 40, 40),
    "green": (40, 150, 70),
    "blue": (40, 90, 210),
    "yellow": (242, 205, 40),
    "purple": (140, 60, 175),
    "orange": (242, 130, 30),
}
SHAPES = ("circle", "square", "triangle", "star")
DIGITS = tuple("0123456789")
KINDS = (*SHAPES, *DIGITS)
BACKGROUNDS = ((255, 255, 255), (226, 228, 230), (200, 212, 222), (28, 30, 36))
GRID = 4
MARGIN = 0.03
"""A thing's centre keeps this share of the side away from the borders of its cell."""
GAP = 0.02
ATTEMPTS = 200


@dataclass(frozen=True)
class Thing:
    """One shape or digit; x and y of its centre, and its radius, are shares of the picture's side."""

    kind: str
    colour: str
    x: float
    y: float
    radius: float
    angle: float

    @property
    def cell(self) -> tuple[int, int]:
        """(column, row) in the grid."""
        return int(self.x * GRID), int(self.y * GRID)

    @property
    def is_digit(self) -> bool:
        return self.kind in DIGITS

    @property
    def place(self) -> str:
        return f"{'top' if self.y < 0.5 else 'bottom'} {'left' if self.x < 0.5 else 'right'}"


@dataclass(frozen=True)
class Scene:
    """A picture's content; `things` from left to right, and in a column of cells from top to bottom."""

    seed: int
    side: int
    background: tuple[int, int, int]
    things: tuple[Thing, ...]

    @property
    def signature(self) -> tuple[tuple[str, str, int, int], ...]:
        """What makes two scenes look alike: kinds and colours, and places rounded to sixteenths of the side."""
        return tuple((t.kind, t.colour, int(16 * t.x), int(16 * t.y)) for t in self.things)


def scene(seed: int) -> Scene:
    """The scene of this seed; equal seeds give equal scenes."""
    rng = random.Random(f"scene {seed}")
    while True:
        things = _things(rng)
        if things is not None:
            break
    ordered = tuple(sorted(things, key=lambda thing: thing.cell))
    return Scene(seed, rng.choice((160, 192, 224, 256)), rng.choice(BACKGROUNDS), ordered)


def _things(rng: random.Random) -> list[Thing] | None:
    """Some things that do not touch, or None when the drawn sizes did not fit."""
    count = rng.choice((1, 2, 2, 3, 3, 4, 4))
    few = rng.random() < 0.4  # few kinds or colours, so that large counts are not rare
    shapes = rng.sample(SHAPES, 2) if few else list(SHAPES)
    colours = rng.sample(list(COLOURS), 2) if few else list(COLOURS)
    kinds = [rng.choice(shapes) for _ in range(count)]
    if rng.random() < 0.4:
        kinds[0] = rng.choice(DIGITS)
    cells = rng.sample([(row, column) for row in range(GRID) for column in range(GRID)], count)
    things: list[Thing] = []
    for kind, (row, column) in zip(kinds, cells, strict=True):
        for _ in range(ATTEMPTS):
            radius = rng.uniform(0.105, 0.15)
            x, y = _inside(rng, column, radius), _inside(rng, row, radius)
            if all(math.hypot(x - t.x, y - t.y) > radius + t.radius + GAP for t in things):
                things.append(Thing(kind, rng.choice(colours), x, y, radius, rng.uniform(-0.3, 0.3)))
                break
        else:
            return None
    return things


def _inside(rng: random.Random, cell: int, radius: float) -> float:
    low = max(cell / GRID + MARGIN, radius + 0.01)
    high = min((cell + 1) / GRID - MARGIN, 1 - radius - 0.01)
    return rng.uniform(low, high)


def draw(scene: Scene) -> Image.Image:
    """The picture, RGB, drawn at twice its size for smooth edges."""
    side = 2 * scene.side
    picture = Image.new("RGB", (side, side), scene.background)
    pen = ImageDraw.Draw(picture)
    for thing in scene.things:
        _draw(pen, thing, side)
    return picture.resize((scene.side, scene.side), Image.Resampling.BOX)


def png(scene: Scene) -> bytes:
    """The picture as a PNG file."""
    file = io.BytesIO()
    draw(scene).save(file, "PNG", optimize=True)
    return file.getvalue()


def _draw(pen: ImageDraw.ImageDraw, thing: Thing, side: int) -> None:
    x, y, radius, colour = thing.x * side, thing.y * side, thing.radius * side, COLOURS[thing.colour]
    if thing.is_digit:
        font = ImageFont.load_default(2.6 * radius)
        pen.text((x, y), thing.kind, fill=colour, font=font, anchor="mm", stroke_width=radius / 12, stroke_fill=colour)
    elif thing.kind == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    else:
        pen.polygon(list(_corners(thing.kind, x, y, radius, thing.angle)), fill=colour)


def _corners(kind: str, x: float, y: float, radius: float, angle: float) -> Iterator[tuple[float, float]]:
    """Corners on the circle around (x, y), the first one on top before the turn by `angle` (radians)."""
    count, turn = {"triangle": (3, 0.0), "square": (4, math.pi / 4), "star": (10, 0.0)}[kind]
    for corner in range(count):
        reach = radius * (0.42 if kind == "star" and corner % 2 else 1.0)
        direction = angle + turn + 2 * math.pi * corner / count - math.pi / 2
        yield x + reach * math.cos(direction), y + reach * math.sin(direction)


def distinct(count: int, first_seed: int, taken: Collection[object] = ()) -> Iterator[Scene]:
    """`count` scenes of seeds from `first_seed` on; none has a signature of `taken`, no two share one."""
    seen = set(taken)
    seed = first_seed
    while count:
        made = scene(seed)
        seed += 1
        if made.signature not in seen:
            seen.add(made.signature)
            count -= 1
            yield made
