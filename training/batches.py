"""From scenes to batches: many questions about one picture share its rows, packed into one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from training.scenes import COLOURS, KINDS, Scene, draw
from training.texts import Prompts

IGNORED = -100


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
        visible: [B, 1, L, L] bool: a question sees what is before all questions, and itself.
        targets: [B, L]: the token that follows, where it belongs to an answer, else IGNORED.
    """

    ids: torch.Tensor
    rows: torch.Tensor
    positions: torch.Tensor
    visible: torch.Tensor
    targets: torch.Tensor

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
    earlier = torch.ones(longest, longest, dtype=torch.bool).tril()
    shared = own_[:, None, :] == 0
    same = own_[:, None, :] == own_[:, :, None]
    visible = (earlier & (shared | same))[:, None]
    return Packed(ids_, torch.tensor([places] * len(sequences)), positions_, visible, targets_)


class Pictures:
    """Scenes with their pictures and labels in memory."""

    def __init__(self, scenes: Sequence[Scene], side: int, grid: int, columns_first: bool) -> None:
        self.scenes = list(scenes)
        self.levels = torch.from_numpy(np.stack([levels(scene, side) for scene in self.scenes]))
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
