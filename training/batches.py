"""From scenes to batches: many questions about one picture share its rows, packed into one sequence."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info

from training import questions
from training.scenes import COLOURS, KINDS, Scene, draw
from training.texts import Prompts

IGNORED = -100
PAIRS = 0.3
"""Share of the batches about two pictures."""
PLACES = 0.25
"""Share of the questions about one picture that ask where something is, besides those that are drawn anyway."""


def levels(scene: Scene, side: int) -> NDArray[np.uint8]:
    """The picture as the models' image processors resize it, uint8 [side, side, 3]: Pillow's bicubic filter."""
    return np.asarray(draw(scene).resize((side, side), Image.Resampling.BICUBIC))


def labels(scene: Scene, grid: int, columns_first: bool) -> tuple[list[int], list[int]]:
    """What lies in each cell of a grid, in the order of the rows: kind and colour of the thing whose centre it holds.

    0 is nothing, else 1 + the place in KINDS and in COLOURS.
    """
    kinds, colours = [0] * grid**2, [0] * grid**2
    for thing in scene.things:
        row, column = int(thing.y * grid), int(thing.x * grid)
        place = column * grid + row if columns_first else row * grid + column
        kinds[place] = 1 + KINDS.index(thing.kind)
        colours[place] = 1 + list(COLOURS).index(thing.colour)
    return kinds, colours


@dataclass(frozen=True)
class Packed:
    """Sequences with several questions each; L positions, `pictures` images of R rows in each of the B sequences.

    Attributes:
        ids: [B, L], 0 at the positions of rows. rows: [B, pictures * R], the positions where the rows go.
        positions: [B, L]: each question goes on where the pictures end.
        owner: [B, L]: the number of the question from 1 on, 0 for what is before all of them, -1 behind the last.
        targets: [B, L]: the token that follows, where it belongs to an answer, else IGNORED.
    """

    ids: torch.Tensor
    rows: torch.Tensor
    positions: torch.Tensor
    owner: torch.Tensor
    targets: torch.Tensor

    def visible(self) -> torch.Tensor:
        """[B, 1, L, L] bool: a question sees what is before all questions, and itself, up to the position."""
        shared = self.owner[:, None, :] == 0
        same = self.owner[:, None, :] == self.owner[:, :, None]
        return (shared | same).tril()[:, None]

    def to(self, device: torch.device) -> Packed:
        return Packed(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def pack(asked: Sequence[Sequence[tuple[str, str]]], prompts: Prompts, rows: int, pictures: int = 1) -> Packed:
    """Pack the questions and answers about each sequence's pictures."""
    beginning: list[int] = []
    places: list[int] = []
    for part in prompts.before(pictures):
        beginning += part
        places += range(len(beginning), len(beginning) + rows)
        beginning += [0] * rows
    start = len(beginning)
    sequences = []
    for pairs in asked:
        ids, positions, own, targets = list(beginning), list(range(start)), [0] * start, [IGNORED] * start
        for number, (question, answer) in enumerate(pairs, start=1):
            tokens, answered = prompts.after(question, answer, pictures)
            ids += tokens
            positions += range(start, start + len(tokens))
            own += [number] * len(tokens)
            known = len(tokens) - answered
            targets += [IGNORED] * (known - 1) + tokens[known:] + [IGNORED]
        sequences.append((ids, positions, own, targets))
    longest = max(len(ids) for ids, *_ in sequences)
    ids_, positions_, own_, targets_ = (
        torch.tensor([values[part] + [fill] * (longest - len(values[part])) for values in sequences])
        for part, fill in enumerate((0, 0, -1, IGNORED))
    )
    return Packed(ids_, torch.tensor([places] * len(sequences)), positions_, own_, targets_)


class Pictures:
    """Scenes with their pictures and labels in memory; `workers` processes draw them, 0 for none but our own."""

    def __init__(self, scenes: Sequence[Scene], side: int, grid: int, columns_first: bool, workers: int = 0) -> None:
        self.scenes = list(scenes)
        drawing = partial(levels, side=side)
        if workers:
            with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as pool:
                drawn = list(pool.map(drawing, self.scenes, chunksize=100))
        else:
            drawn = list(map(drawing, self.scenes))
        self.levels = torch.from_numpy(np.stack(drawn))
        found = [labels(scene, grid, columns_first) for scene in self.scenes]
        self.kinds = torch.tensor([kinds for kinds, _ in found])
        self.colours = torch.tensor([colours for _, colours in found])

    def __len__(self) -> int:
        return len(self.scenes)

    def to(self, device: torch.device) -> Pictures:
        for name in ("levels", "kinds", "colours"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def pixels(self, chosen: Any, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
        """Normalised float pixels [n, 3, side, side] of the chosen scenes."""
        values = self.levels[chosen].permute(0, 3, 1, 2).float() / 255
        average, deviation = (values.new_tensor(numbers)[:, None, None] for numbers in (mean, std))
        return (values - average) / deviation


class Questions(IterableDataset[tuple[list[int], Packed]]):  # type: ignore[misc]
    """Endless batches: the numbers of the scenes shown, and the questions about them, packed.

    A sequence has `each` questions, about one scene or, in some batches of a model that takes more, about two.
    """

    def __init__(self, scenes: Sequence[Scene], prompts: Prompts, rows: int, most: int, batch: int, each: int) -> None:
        self._scenes, self._prompts, self._rows = scenes, prompts, rows
        self._most, self._batch, self._each = most, batch, each

    def __iter__(self) -> Iterator[tuple[list[int], Packed]]:
        worker = get_worker_info()
        rng = random.Random(f"questions of worker {worker.id if worker else 0}")
        while True:
            pictures = 2 if self._most > 1 and rng.random() < PAIRS else 1
            chosen = [rng.randrange(len(self._scenes)) for _ in range(self._batch * pictures)]
            groups = [[self._scenes[i] for i in chosen[at : at + pictures]] for at in range(0, len(chosen), pictures)]
            asked = [[_taught(group, rng) for _ in range(self._each)] for group in groups]
            yield chosen, pack(asked, self._prompts, self._rows, pictures)


def ask(scenes: Sequence[Scene], rng: random.Random) -> questions.Pair:
    """A question about one scene or two."""
    return questions.ask(scenes[0], rng) if len(scenes) == 1 else questions.ask_pair(scenes[0], scenes[1], rng)


def _taught(scenes: Sequence[Scene], rng: random.Random) -> questions.Pair:
    """A question to learn from: places are asked more often than they are tested, for they are learnt last."""
    place = questions.where(scenes[0], rng) if len(scenes) == 1 and rng.random() < PLACES else None
    return place or ask(scenes, rng)


def as_it_is(batch: Any) -> Any:
    """What a DataLoader should make of a batch that is one already."""
    return batch
