"""Questions about scenes with their one right answer, each in several phrasings."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from training.scenes import COLOURS, SHAPES, Scene, Thing

Pair = tuple[str, str]
"""A question and its answer."""


def plural(shape: str) -> str:
    return shape + "s"


def count_shape(scene: Scene, rng: random.Random) -> Pair:
    shape = _likely(rng, [t.kind for t in scene.things if not t.is_digit], SHAPES)
    many = plural(shape)
    question = rng.choice((f"How many {many} are there?", f"How many {many} do you see?", f"Count the {many}."))
    return question, str(sum(t.kind == shape for t in scene.things))


def count_colour(scene: Scene, rng: random.Random) -> Pair:
    colour = _likely(rng, [t.colour for t in scene.things], tuple(COLOURS))
    question = rng.choice(
        (f"How many {colour} things are there?", f"How many things are {colour}?", f"Count the {colour} things.")
    )
    return question, str(sum(t.colour == colour for t in scene.things))


def count_all(scene: Scene, rng: random.Random) -> Pair:
    question = rng.choice(("How many things are there?", "How many things do you see?", "Count the things."))
    return question, str(len(scene.things))


def colour_of(scene: Scene, rng: random.Random) -> Pair | None:
    """The colour of the only shape of its kind, or of the digit."""
    named = ["digit" if t.is_digit else t.kind for t in scene.things]
    only = [(name, t) for name, t in zip(named, scene.things, strict=True) if named.count(name) == 1]
    if not only:
        return None
    name, thing = rng.choice(only)
    question = rng.choice(
        (f"What color is the {name}?", f"Which color does the {name} have?", f"Tell me the color of the {name}.")
    )
    return question, thing.colour


def shape_of(scene: Scene, rng: random.Random) -> Pair | None:
    """What the only thing of its colour is."""
    only = _only(scene.things, [t.colour for t in scene.things])
    if not only:
        return None
    thing = rng.choice(only)
    question = rng.choice(
        (f"What is the {thing.colour} thing?", f"What is {thing.colour}?", f"Name the {thing.colour} thing.")
    )
    return question, f"digit {thing.kind}" if thing.is_digit else thing.kind


def where(scene: Scene, rng: random.Random) -> Pair | None:
    """The quarter of the picture that holds the only thing of its kind, or of its kind and colour."""
    if rng.random() < 0.5:
        named = ["digit" if t.is_digit else t.kind for t in scene.things]
    else:
        named = [f"{t.colour} {'digit' if t.is_digit else t.kind}" for t in scene.things]
    only = [(name, t) for name, t in zip(named, scene.things, strict=True) if named.count(name) == 1]
    if not only:
        return None
    name, thing = rng.choice(only)
    question = rng.choice((f"Where is the {name}?", f"In which corner is the {name}?"))
    return question, thing.place


def exists(scene: Scene, rng: random.Random) -> Pair:
    """As often yes as no; half of the absent things share colour or shape with a thing that is there."""
    there = {(t.colour, t.kind) for t in scene.things if not t.is_digit}
    colour, shape = rng.choice(list(COLOURS)), rng.choice(SHAPES)
    if there and rng.random() < 0.5:
        colour, shape = rng.choice(sorted(there))
    elif there and rng.random() < 0.5:
        known = rng.choice(sorted(there))
        colour, shape = (known[0], shape) if rng.random() < 0.5 else (colour, known[1])
    article = "an" if colour == "orange" else "a"
    question = rng.choice((f"Is there {article} {colour} {shape}?", f"Do you see {article} {colour} {shape}?"))
    return question, "yes" if (colour, shape) in there else "no"


def digit(scene: Scene, rng: random.Random) -> Pair:
    question = rng.choice(("Which digit is in the picture?", "What number do you see?", "Read the digit."))
    return question, next((t.kind for t in scene.things if t.is_digit), "none")


def describe(scene: Scene, rng: random.Random) -> Pair:
    """All things from left to right."""
    question = rng.choice(("Describe the picture.", "What is in the picture?", "What do you see?"))
    return question, ", ".join(_described(t) for t in scene.things) + "."


SINGLE: tuple[tuple[Callable[[Scene, random.Random], Pair | None], int], ...] = (
    (count_shape, 3),
    (count_colour, 2),
    (count_all, 1),
    (colour_of, 3),
    (shape_of, 3),
    (where, 3),
    (exists, 3),
    (digit, 2),
    (describe, 3),
)
"""Kinds of questions about one picture, and how often each is asked."""


def ask(scene: Scene, rng: random.Random) -> Pair:
    """One question about one picture."""
    makers, weights = zip(*SINGLE, strict=True)
    while True:
        made: Pair | None = rng.choices(makers, weights)[0](scene, rng)
        if made is not None:
            return made


def ask_pair(first: Scene, second: Scene, rng: random.Random) -> Pair:
    """One question about two pictures."""
    shape = _likely(rng, [t.kind for s in (first, second) for t in s.things if not t.is_digit], SHAPES)
    counts = [sum(t.kind == shape for t in s.things) for s in (first, second)]
    kind = rng.randrange(3)
    if kind == 0:
        question = rng.choice((f"Which picture has more {plural(shape)}?", f"Where are more {plural(shape)}?"))
        return question, _which(counts[0] > counts[1], counts[1] > counts[0], "none")
    if kind == 1:
        question = rng.choice((f"Which picture has a {shape}?", f"Which picture shows a {shape}?"))
        return question, _which(counts[0] > 0, counts[1] > 0, "none")
    totals = [len(s.things) for s in (first, second)]
    question = rng.choice(("Which picture has more things?", "Where are more things?"))
    return question, _which(totals[0] > totals[1], totals[1] > totals[0], "none")


def _which(first: bool, second: bool, neither: str) -> str:
    if first and second:
        return "both"
    return "the first" if first else "the second" if second else neither


def _described(thing: Thing) -> str:
    if thing.is_digit:
        return f"the {thing.colour} digit {thing.kind}"
    return f"{'an' if thing.colour == 'orange' else 'a'} {thing.colour} {thing.kind}"


def _likely(rng: random.Random, there: Sequence[str], every: Sequence[str]) -> str:
    """Mostly one of those that are there, else any."""
    return rng.choice(there) if there and rng.random() < 0.7 else rng.choice(every)


def _only(things: Sequence[Thing], keys: Sequence[str]) -> list[Thing]:
    return [thing for thing, key in zip(things, keys, strict=True) if keys.count(key) == 1]
