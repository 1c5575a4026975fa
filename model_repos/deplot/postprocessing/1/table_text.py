"""Texts of an answer that is a table: a line for each row, cells separated by bars (Deplot).

text_output is the answer as it is. table_csv is the table as CSV: white space around cells and empty lines
are dropped, cells are quoted where they must be, and a first line `TITLE | ...`, which names the chart, is left out.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection
from typing import Any

from text_tokenizer import TextTokenizer

SEPARATOR = "|"
TITLE = "TITLE"


class Texts:
    def __init__(self, settings: dict[str, Any], tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens: bool = settings["skip_special_tokens"]

    def of(self, ids: list[int], wanted: Collection[str]) -> dict[str, str]:
        """The texts of `ids` by output name; ids that the tokenizer does not have are skipped."""
        text = self._tokenizer.decode(ids, self._skip_special_tokens)
        return {"text_output": text, **({"table_csv": as_csv(text)} if "table_csv" in wanted else {})}


def as_csv(text: str) -> str:
    """The table in `text` as CSV (RFC 4180, but lines end in a newline only); rows may have unequal lengths."""
    rows = [[cell.strip() for cell in line.split(SEPARATOR)] for line in text.split("\n") if line.strip()]
    if rows and rows[0][0] == TITLE:
        del rows[0]
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(rows)
    return written.getvalue()
