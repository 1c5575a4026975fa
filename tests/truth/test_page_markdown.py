"""Our Markdown of a page equals transformers' post_process_generation, on texts full of what its rules look for."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import Levenshtein
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import NougatTokenizer

sys.path.append(str(Path(__file__).parents[2] / "templates" / "postprocessing" / "1"))

from page_markdown import page_markdown
from page_repetitions import similarity, without_repeated_references, without_repeated_tail

TOKENIZER = NougatTokenizer()
SENTENCE = "The measured length of the longer arm was taken again. "
REFERENCE = "* [12] A. Author and B. Writer, Measuring long arms, Journal of Lengths 12 (1999) 345."
# One for each rule; the rest of the file mixes them.
CASES = {
    "overlong heading": "# 1. " + "word " * 30,
    "left margin": "items\n* [leftmargin=*]\n* one",
    "empty heading": "before\n## 3.2\n\nafter",
    "roman heading": "before\n## iv.\nafter",
    "last heading": "text\n## Invented",
    "only a heading": "## Alone",
    "initials": "* [3] A. B. C. D. E. F. G. H. I. J. K. L.",
    "few initials": "* [3] A. B. C. D. rest",
    "empty brackets": "* [12][]ABC",
    "first character": "a\n\ntext, and on",
    "last character": "text, and on\n\na",
    "index": "of _x__12_, and _y__i_.",
    "variable": "of _x_, 3_y_;",
    "footnote": "text\nFootnote 1: footnotetext: see there\n\nmore",
    "bracketed footnote": "text [FOOTNOTE:1] see [there]. [ENDFOOTNOTE] more [FOOTNOTE:] x",
    "list": "text\n* one of them * 1.2 two of them * alone * iv.x.i four here - not this",
    "list at the beginning": "- 1 one here - 1.1 two here",
    "single letter": "A",
    "ends in brace": "\\(x^{2}",
    "figure": "text\nFigure 1",
    "bold": "**Abstract** text",
    "many tabulars": "text\n" + "\\begin{tabular}{l} " * 16 + "\nmore",
    "many columns": "text\n" + "\\multicolumn{2} " * 61,
    "many cells": "text\n" + "a & " * 401,
    "table": "x\\begin{table} \\begin{tabular}{l} a \\end{tabular} \\end{table} Table 1",
    "empty tabular": "x\n\\begin{tabular}{l l}  & \\\\ \\end{tabular}y\n\\begin{tabular}{}\n\n\\end{tabular}z",
    "blank tabular": "x\n\\begin{tabular}{c c c}  & & \\\\ \\end{tabular}y \\begin{tabular}{ll} \n  & \n \\end{tabular}",
    "array": "\\(\\begin{array}[]{c}",
    "S. A. B.": "x\n**S. A. B.**\n\n**S. A. B.**\n**S. A. B.**\n\ny",
    "bare headings": "x\n##\n# [\n### a\ny",
    "periods": "x\n.\n . \ny",
    "newlines": "x\n\n\n\n\ny",
    "number before": "text\n(12a) \\[x=1\\]\nmore",
    "number behind": "text\n\\[x=1\\] (3.4)\nmore",
    "number between": "text\n\\[x=1\\] (3.4) \\[y\\]\nmore",
    "escaped period": "et al\\. and",
    "bold mathematics": "\\bm{x} {\\\\bm y} \\mbox{\\boldmath$z$} \\mbox{ \\boldmath$z$}",
    "links": "see http://a.b/c?d=1, https://x_y.org. ftp://f.g:8/h and http://nothing",
    "algorithm": "```  a\n b   ``` and ``````x``` y",
    "short repetition": "Begin here. " + "twelve chars" * 20,
    "repetition": "Begin. And on. " + SENTENCE * 6,
    "cut repetition": "Begin. And on! " + SENTENCE * 6 + SENTENCE[:40],
    "repetition without sentences": "begin " + "a word and another word, no end of it, " * 9,
    "references": "## References\n\n" + "\n".join([REFERENCE] * 20),
    "numbered references": "## References\n\n"
    + "\n".join(REFERENCE.replace("12]", f"{i}]") for i in range(30))
    + "\nend.",
    "references behind text": "Text of the page.\n" + "\n\n".join([REFERENCE] * 12) + "\n* [99] Quite another one.",
    "empty": "",
    "white space": " \n \n ",
}
BLANK = {"empty", "white space"}
WORDS = (
    "alpha",
    "Beta",
    "of",
    "1",
    "iv",
    "x",
    ".",
    "-",
    "*",
    "&",
    "\\\\",
    "_x_",
    "Größe",
    "İ",
    "２",
    "\t",
    "\u2028",
    "#",
    "",
)


@pytest.mark.parametrize("name", CASES)
def test_each_rule(name: str) -> None:
    assert page_markdown(CASES[name]) == TOKENIZER.post_process_generation(CASES[name], fix_markdown=True)


def test_each_case_changes_more_than_its_margins() -> None:
    unchanged = {name for name, text in CASES.items() if page_markdown(text).strip() == text.strip()}
    assert unchanged == {"only a heading", "few initials", "single letter", "ends in brace", "figure", "bold", *BLANK}


def page(chance: random.Random) -> str:
    """A page that mixes the cases with words, variations of one line, and repetitions of all lengths."""
    parts: list[str] = []
    for _ in range(chance.randrange(1, 9)):
        kind = chance.randrange(5)
        if kind == 0:
            parts.append(chance.choice(list(CASES.values())))
        elif kind == 1:
            parts.append(
                "".join(chance.choice(WORDS) + chance.choice((" ", " ", "\n")) for _ in range(chance.randrange(40)))
            )
        elif kind == 2:
            parts.append(chance.choice((SENTENCE, "a b c", REFERENCE + "\n", "x. ")) * chance.randrange(1, 30))
        elif kind == 3:
            parts.append(_like_lines(chance))
        else:
            mixed = "".join(chance.choice(list(CASES.values()))[: chance.randrange(1, 60)] for _ in range(4))
            parts.append(mixed)
    text = chance.choice(("\n", "\n\n", " ", "")).join(parts)
    return text[: chance.randrange(1, 4000)]


def _like_lines(chance: random.Random) -> str:
    base = chance.choice((REFERENCE, "* [1] Short one.", "The same words in every line"))
    lines = []
    for number in range(chance.randrange(5, 40)):
        line = list(base)
        for _ in range(chance.choice((0, 0, 1, 3, 8))):
            line[chance.randrange(len(line))] = chance.choice("abc 123*[")
        lines.append("".join(line).replace("12", str(number)) + "\n" * chance.choice((0, 0, 1, 3)))
    head = chance.choice(
        ("", "## References\n", "Text before. * [0] Another reference altogether, of others.\n", "ok\n")
    )
    return head + "\n".join(lines) + chance.choice(("", "\nText of the next page."))


@pytest.mark.parametrize("seed", range(8))
def test_mixed_pages(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(150):
        text = page(chance)
        assert page_markdown(text) == TOKENIZER.post_process_generation(text, fix_markdown=True), repr(text)


def test_mixed_pages_meet_the_rules_for_repetitions() -> None:
    """Else the test above would say little of them."""
    chance = random.Random(0)
    pages = [page(chance) for _ in range(150)]
    assert sum(without_repeated_tail(text) != text for text in pages) > 15
    assert sum(without_repeated_references(text) != text for text in pages) > 15


@given(st.lists(st.sampled_from([*WORDS, *CASES.values(), "\n", " ", "* [1] ", SENTENCE]), max_size=20).map("".join))
@settings(max_examples=150, deadline=None)
def test_found_pages(text: str) -> None:
    assert page_markdown(text) == TOKENIZER.post_process_generation(text, fix_markdown=True)


@given(st.text("ab 1é", max_size=90), st.text("ab 1é", max_size=90))
@settings(max_examples=300, deadline=None)
def test_similarity(one: str, other: str) -> None:
    assert similarity(one, other) == Levenshtein.ratio(one, other)
