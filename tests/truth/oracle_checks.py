"""What every oracle has to show: answers that differ, and that the mistakes of a serving bug change.

Imported by the tests of single models; imports nothing of the program, and of the templates only the vision
modules that those tests compare.
"""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from generator.oracle import Oracle
from tests import photos

torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()

NEW_TOKENS = 12
MUTATED_TOKENS = 24
PLAIN = photos.names()[:6]
VISION_MODULES = Path(__file__).parents[2] / "templates" / "torch" / "vision_encoder" / "1"


def picture(number: int) -> bytes:
    return photos.encoded(PLAIN[number % len(PLAIN)])


def vision_module(name: str) -> Any:
    """A module of the torch runtime's vision step, as it stands in the templates."""
    if str(VISION_MODULES) not in sys.path:
        sys.path.append(str(VISION_MODULES))
    return importlib.import_module(name)


def assert_answers_are_distinct(oracle: Oracle, cases: int = 20) -> None:
    texts = photos.PROMPTS[:cases]
    answers = [oracle.generate(text, [picture(number)], NEW_TOKENS) for number, text in enumerate(texts)]
    assert len({text for _, text in answers}) >= 0.9 * len(answers)
    assert sum(len(set(ids)) > 2 for ids, _ in answers) >= 0.9 * len(answers)


def assert_mutations_change_the_text(oracle: Oracle, bos_id: int, cases: int = 2) -> None:
    """Four wrongs, each of which must change half of the answers tried; unmutated, `continuation` equals `generate`.

    Half, since a greedy text of a random model outlives a small wrong now and then, and which one does depends on
    how the processor rounds: with AVX2 some texts are others than with AVX-512.
    """
    survived = Counter(what for number in range(cases) for what in harmless_mutations(oracle, bos_id, number))
    assert not {what: count for what, count in survived.items() if count > cases // 2}, survived


def harmless_mutations(oracle: Oracle, bos_id: int, number: int) -> list[str]:
    """Names of the wrongs that leave the answer to question `number` as it is."""
    text = photos.PROMPTS[number]
    ids, rows = oracle.ids(text, [picture(number)]), laid_out(oracle, number)
    middle = rows.shape[1] // 2
    swapped = rows.copy()
    swapped[0, [3, middle]] = swapped[0, [middle, 3]]
    last_image_position = len(ids) - 1 - ids[::-1].index(oracle.image_id)
    shifted = ids.copy()
    shifted[last_image_position + 3] += 1
    mutated = {
        "wrong image": (oracle.ids(text, [picture(number + 1)]), laid_out(oracle, number + 1)),
        "two rows swapped": (ids, swapped),
        "one id shifted": (shifted, rows),
        "one BOS more": ([bos_id, *ids], rows),
    }
    right = oracle.text(oracle.continuation(ids, rows, MUTATED_TOKENS))
    assert right == oracle.generate(text, [picture(number)], MUTATED_TOKENS)[1]
    changed = {what: oracle.text(oracle.continuation(*case, MUTATED_TOKENS)) for what, case in mutated.items()}
    return [what for what, answer in changed.items() if answer == right]


def laid_out(oracle: Oracle, number: int) -> NDArray[np.float16]:
    """The rows that the image positions of one picture take, in order, [1, count, h]."""

    def plain(images: Sequence[bytes]) -> NDArray[np.float16]:
        return oracle.rows(oracle.pixels(images))

    packed = getattr(oracle, "packed", None)
    rows: NDArray[np.float16] = (packed or plain)([picture(number)])
    return rows


def assert_module_gives_the_same_rows(module: Any, checkpoint: Path, oracle: Oracle, names: Sequence[str]) -> None:
    """Bit for bit, one call of the engine for each picture."""
    tower = module.load(str(checkpoint), torch.float16).eval()
    for name in names:
        pixels = oracle.pixels([photos.encoded(name)])
        with torch.inference_mode():
            rows = tower(torch.from_numpy(pixels)).numpy()
        assert rows.dtype == np.float16
        np.testing.assert_array_equal(rows, oracle.rows(pixels))


def assert_published_names_are_understood(model_class: Any, checkpoint: Path) -> None:
    """transformers maps every weight of the file, whose names are the published ones, and misses none."""
    _, report = model_class.from_pretrained(checkpoint, output_loading_info=True)
    assert not any(report.values()), report
