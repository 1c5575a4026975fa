"""Whether the `tokenizers` package can read a tokenizer.json, asked in a way that survives one that it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from generator.facts import jsonfile
from generator.findings import Refused, error

NAME = "tokenizer.json"
REMEDY = "copy the file again"


def check(content: dict[str, Any], text: str, path: Path) -> None:
    """Checks the tokenizer.json at `path`, whose text and JSON are given.

    Raises:
        Refused: the package cannot read it. Where it is not installed, only what would end its process is looked for.
    """
    with jsonfile.reading(path, NAME):
        check_merges(content, path)
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return
    try:
        Tokenizer.from_str(text)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as problem:  # a panic of its native code is no Exception
        what = f"the tokenizers package cannot read {NAME}: {str(problem)[:200]}"
        raise Refused(error("tokenizer-unreadable", what, path, f"{REMEDY}, or use --tokenizer hf")) from None


def check_merges(content: dict[str, Any], path: Path) -> None:
    """Checks that the second part of each merge begins with the model's continuing_subword_prefix.

    tokenizers 0.23 takes that many bytes off it unseen; half a character then remains, and ends the whole process.

    Raises:
        Refused: naming the first merge that does not.
    """
    model = content.get("model") or {}
    prefix = model.get("continuing_subword_prefix")
    if not isinstance(prefix, str):  # another kind is refused by the package itself
        return
    for merge in model.get("merges") or ():
        second = merge.partition(" ")[2] if isinstance(merge, str) else merge[1]
        if not second.startswith(prefix):
            what = f"the merge {merge!r} of {NAME} lacks the model's continuing_subword_prefix {prefix!r}"
            raise Refused(error("tokenizer-unreadable", what, path, REMEDY))
