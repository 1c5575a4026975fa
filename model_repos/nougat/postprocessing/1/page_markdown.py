"""The text of a recognised page as Markdown: what `post_process_generation(text, fix_markdown=True)` of transformers'
NougatTokenizer (5.23) gives, without the packages that it needs.

transformers adds a space to a page that ends in an English word, which it looks up in a word list of nltk; where that
list is not downloaded it adds the space always, and so do we. The rules are applied in this file's order: each sees
what those before it have left. Some are the model's known faults, some make LaTeX from its shorthands.
"""

from __future__ import annotations

import re

from page_repetitions import without_repeated_references, without_repeated_tail

Rule = tuple[re.Pattern[str], str]

OVERLONG_HEADING = re.compile(r"(?:\n|^)#+ \d*\W? ?(.{100,})"), r"\n\1"
EMPTY_HEADING = re.compile(r"^#+ (?:[\d+.]+|[ixv.]+)?\s*(?:$|\n\s*)", re.MULTILINE), ""

FAULTS: tuple[Rule, ...] = (
    # a reference of nothing but initials
    (re.compile(r"^\* \[\d+\](?:\s?[A-W]\.+\s?){10,}.*$", re.MULTILINE), ""),
    # empty brackets behind a reference's number
    (re.compile(r"^(\* \[\d+\])\[\]", re.MULTILINE), r"\1"),
    # a character alone at the beginning or end of the page
    (re.compile(r"^\w\n\n|\n\n\w$"), ""),
    # _x__12_ and _x_ are mathematics in PubMed's pages
    (re.compile(r"([\s.,()])_([a-zA-Z0-9])__[a-zA-Z0-9]{0,2}([a-zA-Z0-9])_([\s.,:()])"), r"\1\(\2_{\3}\)\4"),
    (re.compile(r"([\s.,\d])_([a-zA-Z0-9])_([\s.,\d;])"), r"\1\(\2\)\3"),
    (re.compile(r"(\nFootnote .*?:) (?:footnotetext|thanks):\W*(.*(?:\n\n|$))"), r"\1 \2"),
    (re.compile(r"\[FOOTNOTE:.[^\]\n]*\].*?\[ENDFOOTNOTE\]"), ""),
)
LEFTOVERS: tuple[Rule, ...] = (
    # a table of several columns with nothing in it
    (re.compile(r"\\begin{tabular}{[clr ]{2,}}\s*(?:&[& ]*\s*)?(?:\\\\)? \\end{tabular}"), ""),
    (re.compile(r"(?:\*\*S\. A\. B\.\*\*\n+){2,}"), ""),
    (re.compile(r"^#+(?: [\[\w])?$", re.MULTILINE), ""),
    (re.compile(r"^\.\s*$", re.MULTILINE), ""),
    (re.compile(r"\n{3,}"), "\n\n"),
)
NUMBER = r"\(([\d.]+[a-zA-Z]?)\)"
FORMULA = r"\\\[(.+?)\\\]"
EQUATION_NUMBERS: tuple[Rule, ...] = (
    (re.compile(rf"^{NUMBER} {FORMULA}$", re.MULTILINE), r"\[\2 \\tag{\1}\]"),
    (re.compile(rf"^{FORMULA} {NUMBER}$", re.MULTILINE), r"\[\1 \\tag{\2}\]"),
    (re.compile(rf"^{FORMULA} {NUMBER} (\\\[.+?\\\])$", re.MULTILINE), r"\[\1 \\tag{\2}\] \3"),
)
SPELLINGS: tuple[Rule, ...] = (
    (re.compile(r"\\mbox{ ?\\boldmath\$(.*?)\$}"), r"\\mathbf{\1}"),
    (re.compile(r"((?:https?|ftp)://[\w-]+(?:\.[\w-]+)+[\w.,@?^=%&:/~+#-]*[\w@?^=%&/~+#-])"), r"[\1](\1)"),
    (re.compile(r"```\s*(\S.*?|\s)\s*```", re.DOTALL), r"```\n\1\n```"),
)
INNER_BULLET = re.compile(r". ([-*]) ")
LIST_NUMBER = re.compile(r"[\dixv]+(?:\.[\dixv])*", re.IGNORECASE)


def page_markdown(text: str) -> str:
    """The Markdown of one page from the model's text of it."""
    text = _replaced((OVERLONG_HEADING,), text).strip()
    text = text.replace("\n* [leftmargin=*]\n", "\n")
    text = _replaced((EMPTY_HEADING,), text)
    text = _without_last_heading(text)
    text = without_repeated_references(without_repeated_tail(text))
    text = _lists(_replaced(FAULTS, text))
    text = _tables(_with_margins(text))
    text = _replaced(LEFTOVERS, text.replace("\\begin{array}[]{", "\\begin{array}{"))
    text = _replaced(EQUATION_NUMBERS, text).replace("\\. ", ". ")
    text = text.replace("\\bm{", "\\mathbf{").replace("{\\\\bm ", "\\mathbf{")
    return _replaced(SPELLINGS, text)


def _replaced(rules: tuple[Rule, ...], text: str) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text


def _without_last_heading(text: str) -> str:
    """`text` less a heading in its last line, which the model tends to invent."""
    before, newline, last = text.rpartition("\n")
    return before if newline and re.match("#+ ", last) else text


def _lists(text: str) -> str:
    """Lines that hold several list items are broken up, each item indented by the depth of its number."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        bullet = INNER_BULLET.search(line)
        if bullet is None or line[0] not in "-*":
            continue
        inner = bullet[1] + " "
        broken = ""
        for place, item in enumerate(part.strip() for part in line.split(inner)[1:]):
            first_word, _, rest = item.partition(" ")
            if not rest:
                continue  # a bullet alone
            depth = first_word.count(".") if LIST_NUMBER.fullmatch(first_word) else 0
            mark = inner if place or number == 0 else line[0] + " "
            broken += "\n" * (place > 0) + "\t" * depth + mark + item
        lines[number] = broken + "\n" * (number == len(lines) - 1)
    return "\n".join(lines)


def _with_margins(text: str) -> str:
    """`text` with the white space at its ends by which pages can be joined."""
    if text.endswith((".", "}")):
        text += "\n\n"
    if re.match(r"[A-Z0-9,;:]$", text):
        return text + " "
    if text.startswith(("#", "**", "\\begin")):
        return "\n\n" + text
    if text.rpartition("\n")[2].startswith(("#", "Figure", "Table")):
        return text + "\n\n"
    return text + " "


def _tables(text: str) -> str:
    """Tables on lines of their own; those that cannot be meant, and empty ones, taken out."""
    for line in text.split("\n"):
        if line.count("\\begin{tabular}") > 15 or line.count("\\multicolumn") > 60 or line.count("&") > 400:
            text = text.replace(line, "")
    text = text.replace("\\begin{table} \\begin{tabular}", "\\begin{table}\n\\begin{tabular}")
    text = text.replace("\\end{tabular} \\end{table}", "\\end{tabular}\n\\end{table}")
    text = text.replace("\\end{table} Tab", "\\end{table}\nTab")
    text = re.sub(r"^(.+)\\begin{tab", r"\1\n\\begin{tab", text, flags=re.MULTILINE)
    text = text.replace("\\begin{tabular}{l l}  & \\\\ \\end{tabular}", "")
    return text.replace("\\begin{tabular}{}\n\n\\end{tabular}", "")
