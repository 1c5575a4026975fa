"""Which scenes are held out: chosen first, by seeds of their own; training then leaves out all that look like them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from training import questions
from training.scenes import Scene, distinct

TEST_SEED = 10_000_000
VALIDATION_SEED = 20_000_000
TRAINING_SEED = 30_000_000
TEST_SCENES = 1000
VALIDATION_SCENES = 1000


@dataclass(frozen=True)
class Asked:
    """A held-out question: its scenes in the order of the prompt, its text and its one right answer."""

    scenes: tuple[Scene, ...]
    question: str
    answer: str


@cache
def test() -> tuple[Scene, ...]:
    """Scenes that neither training nor the choice of the best state has seen."""
    return tuple(distinct(TEST_SCENES, TEST_SEED))


@cache
def validation() -> tuple[Scene, ...]:
    """Scenes that the best state was chosen by."""
    return tuple(distinct(VALIDATION_SCENES, VALIDATION_SEED, [scene.signature for scene in test()]))


def training(count: int) -> Iterator[Scene]:
    """`count` scenes that look like none of those held out."""
    held_out = (scene.signature for scene in (*test(), *validation()))
    return distinct(count, TRAINING_SEED, list(held_out))


def held_out_questions(count: int, pictures: int = 1) -> list[Asked]:
    """`count` questions about `pictures` (1 or 2) test scenes each; no two questions share a scene."""
    rng, scenes = random.Random(f"held out, {pictures}"), test()
    if count * pictures > len(scenes):
        raise ValueError(f"{count} questions about {pictures} scenes each need more than {len(scenes)} test scenes")
    asked = []
    for number in range(count):
        shown = scenes[number * pictures : (number + 1) * pictures]
        made = questions.ask(shown[0], rng) if pictures == 1 else questions.ask_pair(shown[0], shown[1], rng)
        asked.append(Asked(shown, *made))
    return asked
