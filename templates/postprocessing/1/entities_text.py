"""Answers of a model that names places in the image: the text as it came, the text without tags, and the places.

A named place is <phrase>a dog</phrase><object><patch_index_0044><patch_index_0863></object>: two opposite corners, as
cells of a GRID x GRID raster counted row by row. An object may hold several such boxes, and may have no phrase. What
is made of it equals transformers' Kosmos2Processor.post_process_generation of the answer alone, so positions count
from the beginning of the answer, not of the prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import NamedTuple

GRID = 32
IMAGE_END = "</image>"
BETWEEN_BOXES = "</delimiter_of_multi_objects/>"
TAG = re.compile(r"<.*?>")
# More digits than these exceed what a float can hold; transformers fails there.
BOX = re.compile(r"<patch_index_(\d{1,300})><patch_index_(\d{1,300})>")
BOXES = rf"(?:{BOX.pattern}{BETWEEN_BOXES})*{BOX.pattern}".replace(r"(\d", r"(?:\d")
PLACE = re.compile(rf"(?:<phrase>(?P<phrase>[^<]+)</phrase>)?<object>(?P<boxes>{BOXES})</object>")


class Entity(NamedTuple):
    """A named place: characters [start, end) of the clean text, and boxes (x1, y1, x2, y2) as parts of the image's
    width and height. A place without a phrase has the position where it stands, and its cells for a name."""

    phrase: str
    start: int
    end: int
    boxes: list[tuple[float, float, float, float]]


def texts(answer: str, wanted: Collection[str]) -> dict[str, str]:
    """The texts by output name: text_output with all tags, and, if one of them is wanted, clean_text without and
    entities, a JSON list of objects, see Entity."""
    if not {"clean_text", "entities"}.intersection(wanted):
        return {"text_output": answer}
    clean, found = read(answer)
    entities = json.dumps([entity._asdict() for entity in found], ensure_ascii=False)
    return {"text_output": answer, "clean_text": clean, "entities": entities}


def read(text: str) -> tuple[str, list[Entity]]:
    """An answer without its tags and surrounding white space, and the places that it names, in order."""
    text = text.split(IMAGE_END)[-1]
    untagged = _untagged(text)
    stripped = len(untagged) - len(untagged.lstrip())
    found = []
    for place in PLACE.finditer(text):
        boxes = [(int(first), int(last)) for first, last in BOX.findall(place["boxes"])]
        phrase = place["phrase"]
        if phrase is None:
            position = len(_untagged(text[: place.start()])) - stripped
            found += [Entity(f"<patch_index_{a}><patch_index_{b}>", position, position, [_box(a, b)]) for a, b in boxes]
            continue
        start, end = (len(_untagged(text[:position])) - stripped for position in place.span("phrase"))
        start += len(phrase) - len(phrase.lstrip())
        end -= len(phrase) - len(phrase.rstrip())
        found.append(Entity(phrase.strip(), start, end, [_box(*box) for box in boxes]))
    return untagged.strip(), found


def _untagged(text: str) -> str:
    return TAG.sub("", text)


def _box(first: int, last: int) -> tuple[float, float, float, float]:
    """The box between two cells: around both where they share a row or a column, else from centre to centre."""
    (y1, x1), (y2, x2) = divmod(first, GRID), divmod(last, GRID)
    if x1 == x2 or y1 == y2:
        return x1 / GRID, y1 / GRID, (x2 + 1) / GRID, (y2 + 1) / GRID
    return (x1 + 0.5) / GRID, (y1 + 0.5) / GRID, (x2 + 0.5) / GRID, (y2 + 0.5) / GRID
