"""Reading JSON config files so that every failure names the file and the way out."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from generator.findings import Refused, error

MAX_CONFIG_BYTES = 64 * 1024 * 1024
MAX_NUMBER = (1 << 31) - 1
AGAIN = "write or copy the file again"
# What reading a value of another kind than expected comes to in Python.
MISREAD = (AttributeError, KeyError, IndexError, TypeError, ValueError, ArithmeticError, RecursionError)


def read(path: Path, what: str, remedy: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        what: the file's role in words, for the message ("config.json of the LLM engine").
        remedy: what to do when it is missing.

    Raises:
        Refused: missing, unreadable, too large, truncated, not JSON, or not an object.
    """
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise Refused(error("config-too-large", f"{what} is larger than 64 MiB", path, remedy))
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise Refused(error("config-missing", f"{what} is missing", path, remedy)) from None
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "it is not UTF-8 text"
        raise Refused(error("config-unreadable", f"{what} cannot be read: {reason}", path, remedy)) from None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as problem:  # a number of very many digits is a ValueError
        place = f" (line {problem.lineno})" if isinstance(problem, json.JSONDecodeError) else ""
        truncated = not text.rstrip().endswith("}")
        reason = f"{what} is {'truncated or ' if truncated else ''}not valid JSON{place}"
        raise Refused(error("config-invalid", reason, path, AGAIN)) from None
    if not isinstance(value, dict):
        raise Refused(error("config-invalid", f"{what} holds no JSON object", path, AGAIN))
    return value


def number(config: dict[str, Any], key: str, path: Path, what: str) -> int | None:
    """`config[key]` as a positive integer, None when absent.

    Raises:
        Refused: present, but no positive integer, or one that no tensor's size could be.
    """
    value = config.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_NUMBER:
        found = error("config-invalid", f"{key} of {what} is {value!r}, not a whole number", path, "build it again")
        raise Refused(found)
    return value


def text(config: dict[str, Any], key: str, path: Path, what: str) -> str | None:
    """`config[key]` as a string, None when absent.

    Raises:
        Refused: present, but no string.
    """
    value = config.get(key)
    if value is not None and not isinstance(value, str):
        found = error("config-invalid", f"{key} of {what} is {str(value)[:60]!r}, not a text", path, "build it again")
        raise Refused(found)
    return value


@contextlib.contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Inside, values of a config file are read; one of an unexpected kind refuses the file.

    Raises:
        Refused: naming the file, and what Python said.
    """
    try:
        yield
    except MISREAD as problem:
        reason = f"{what} holds a value of the wrong kind ({type(problem).__name__}: {problem})"
        raise Refused(error("config-invalid", reason, path, AGAIN)) from problem


def alike(value: Any, known: Any) -> bool:
    """Whether `value` could stand where `known` does: the same kinds in the same places, whole numbers from 1 on.

    Lists may be of any length but 0; lists of lists hold lists of one length.
    """
    if isinstance(known, bool):
        return isinstance(value, bool)
    if isinstance(known, int):
        return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_NUMBER
    if isinstance(known, list | tuple):
        nested = isinstance(known[0], list | tuple)
        return (
            isinstance(value, list)
            and len(value) > 0
            and all(alike(part, known[0]) and (not nested or len(part) == len(known[0])) for part in value)
        )
    if isinstance(known, Mapping):
        return isinstance(value, dict) and all(key in value and alike(value[key], known[key]) for key in known)
    return isinstance(value, type(known))
