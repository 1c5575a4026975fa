"""Answers that are tables, as CSV."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_text import as_csv

CELL = st.text(st.characters(exclude_characters="|\r\n", exclude_categories=["Cc", "Cs"]), max_size=12)


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("", ""),
        ("Year | Sales \n 2019 | 12 ", "Year,Sales\n2019,12\n"),
        ("TITLE | Sales, by year \n Year | Sales \n 2019 | 12", "Year,Sales\n2019,12\n"),
        ("\n TITLE | \n a | b", "a,b\n"),
        ("a | TITLE \n TITLE | 1", "a,TITLE\nTITLE,1\n"),  # only a first line is the title
        ("TITLES | 1", "TITLES,1\n"),
        ('City, state | say "so" \n | 1,000', '"City, state","say ""so"""\n,"1,000"\n'),
        ("a | b | c \n 1 \n 2 | ", "a,b,c\n1\n2,\n"),  # rows stay as long as they are
        ("a | b\n\n   \n1 | 2\n", "a,b\n1,2\n"),
        ("one cell", "one cell\n"),
    ],
)
def test_tables(text: str, table: str) -> None:
    assert as_csv(text) == table


@given(st.lists(st.lists(CELL, min_size=2, max_size=5), max_size=6))
def test_every_reader_of_csv_finds_the_cells(rows: list[list[str]]) -> None:
    text = "\n".join(" | ".join(row) for row in rows)
    wanted = [[cell.strip() for cell in row] for row in rows]
    if wanted and wanted[0][0] == "TITLE":
        del wanted[0]
    assert list(csv.reader(io.StringIO(as_csv(text)))) == wanted
