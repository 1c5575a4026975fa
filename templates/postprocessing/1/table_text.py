"""Texts of an answer that is a table: a line for each row, cells separated by bars (Deplot).

text_output is the answer as it is. table_csv is the table as CSV: white space around cells and empty lines
are dropped, cells are quoted where they must be, and a first line `TITLE | ...`, which names the chart, is left out.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection

SEPARATOR = "|"
TITLE = "TITLE"


def texts(answer: str, wanted: Collection[str]) -> dict[str, str]:
    """The texts by output name: text_output, and `table_csv` if it is wanted."""
    return {"text_output": answer, **({"table_csv": as_csv(answer)} if "table_csv" in wanted else {})}


def as_csv(text: str) -> str:
    """The table in `text` as CSV (RFC 4180, but lines end in a newline only); rows may have unequal lengths."""
    rows = [[cell.strip() for cell in line.split(SEPARATOR)] for line in text.split("\n") if line.strip()]
    if rows and rows[0][0] == TITLE:
        del rows[0]
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(rows)
    return written.getvalue()
