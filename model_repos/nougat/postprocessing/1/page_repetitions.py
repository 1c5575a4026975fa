"""Finds where a page's model went on in circles: the same words until the end, or a list of like references.

Equal to transformers' NougatTokenizer (5.23) character for character, also where its arithmetic looks odd.
"""

from __future__ import annotations

import bisect
import re
from typing import NamedTuple

SHORTEST_REPETITION = 30  # characters
SENTENCE_END = re.compile(r"[.?!\n]")
MISSING = "\n\n[MISSING_PAGE_POST]\n\n"
ALIKE = 0.9


def without_repeated_tail(text: str) -> str:
    """`text` up to the end of the sentence in which the repetition of its tail begins."""
    lower = text.lower()
    length = _repetition(lower)
    if length is None:
        return text
    kept = len(lower)
    while lower.endswith(lower[-length:], 0, kept):
        kept -= length
    tail, backwards = lower[kept:], lower[::-1]
    while True:
        end, start = _punctuation(lower, kept), _punctuation(backwards, kept)
        if not (end and start):
            break
        kept = end + 1
        # The start is counted from the end of the text, as transformers does.
        if lower[start:end] in tail:
            break
    return text[:kept]


def _repetition(text: str) -> int | None:
    """Length of the longest part at the end of `text` that stands there twice in a row."""
    for length in range(len(text) // 2 - 1, SHORTEST_REPETITION - 1, -1):
        if text.endswith(text[-length:], 0, len(text) - length):
            return length
    return None


def _punctuation(text: str, start: int) -> int | None:
    found = SENTENCE_END.search(text, start)
    return found.start() if found else None


class Lines(NamedTuple):
    """A page's lines, and the same without digits, underscores and bold marks, by which they are compared."""

    full: list[str]
    bare: list[str]


def without_repeated_references(text: str) -> str:
    """`text` with each long run of like lines, and what belongs to it, replaced by a mark of missing text."""
    full = text.split("\n")
    lines = Lines(full, [_bare(line) for line in full])
    for part in reversed([_run_text(lines, start, stop) for start, stop in _runs(lines.bare)]):
        text = text.replace(part, MISSING)
    return re.sub(r"## References\n+\[MISSING_PAGE_POST(:\d+)?\]", r"\n\n[MISSING_PAGE_POST\1]", text)


def _bare(line: str) -> str:
    return re.sub(r"[\d_]|\*\*", "", line).strip()


def _runs(bare: list[str]) -> list[tuple[int, int]]:
    """[start, stop) of the runs of more than 15 lines in which neighbours are alike, gaps of up to 3 lines bridged."""
    alike: list[int] = []
    last = len(bare) - 1
    filled = [*(line for line in range(1, last) if bare[line]), last]  # of which one follows each line
    for line in range(last):
        following = filled[bisect.bisect_right(filled, line)]
        one, other = bare[line], bare[following]
        if (
            3 < len(one) < 200
            and 3 < len(other) < 200
            and not one.startswith("[MISSING_PAGE")
            and similarity(one, other) > ALIKE
        ):
            alike += range(max(line, alike[-1] + 1 if alike else 0), following)
    runs: list[tuple[int, int]] = []
    for line in alike:
        if runs and line - runs[-1][1] <= 3:
            runs[-1] = runs[-1][0], line
        else:
            runs.append((line, line))
    return [(first, final + 2) for first, final in runs if final + 2 - first > 15]


def _run_text(lines: Lines, start: int, stop: int) -> str:
    """The text of a run, widened to where the references begin and cut where the next page's text does."""
    base = lines.bare[start]
    first, inside_line = _beginning(lines, start, base)
    after = (i for i in range(stop, min(len(lines.full), stop + 5)) if similarity(base, lines.bare[i]) < ALIKE)
    final = min(next(after, stop), len(lines.full) - 1)
    text = "\n".join(lines.full[first : final + 1])
    if inside_line and "* [" in text:
        text = "* [" + text.partition("* [")[2]
    surplus = _surplus(lines.full[final - 1], lines.full[final])
    return (text[:-surplus] if surplus > 0 else text).strip()


def _beginning(lines: Lines, start: int, base: str) -> tuple[int, bool]:
    """The line in which a run begins, looked for in the few before it, and whether it may begin inside that line."""
    for i in range(max(0, start - 1), max(0, start - 5), -1):
        if lines.full[i] == "## References":
            return i, False
        if lines.full[i] and similarity(base, lines.bare[i]) < ALIKE:
            reference = _bare(lines.full[max(0, i - 1)].partition("* [")[2])
            other = len(reference) >= 0.75 * len(base) and similarity(base, reference) < ALIKE
            return (i if other else i + 1), True
    return start, False


def _surplus(before: str, line: str) -> int:
    """How many characters at the end of `line` are no longer like the line before; digits do not count."""
    ours = iter(enumerate(line))
    place: int | None = None
    for character in before:
        if character.isnumeric():
            continue
        for place, other in ours:  # noqa: B007 - where the loop stops is the result
            if not other.isnumeric():
                break
        else:
            break
        if character != other:
            break
    return 0 if place is None else len(line) - place - 1


def similarity(one: str, other: str) -> float:
    """1 - d / (sum of the lengths), d = characters to insert and delete to make one string of the other.

    d follows from the longest common subsequence, whose table's rows are the bits of one integer (Hyyro 2004).
    """
    total = len(one) + len(other)
    if not total:
        return 1.0
    places: dict[str, int] = {}
    for place, character in enumerate(one):
        places[character] = places.get(character, 0) | 1 << place
    every = row = (1 << len(one)) - 1
    for character in other:
        matches = row & places.get(character, 0)
        row = (row + matches | row - matches) & every
    common = len(one) - row.bit_count()
    return 1.0 - (total - 2 * common) / total
