"""Reading JSON config files so that every failure names the file and the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from generator.findings import Refused, error

MAX_CONFIG_BYTES = 64 * 1024 * 1024


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
    except (json.JSONDecodeError, RecursionError) as problem:
        place = f" (line {problem.lineno})" if isinstance(problem, json.JSONDecodeError) else ""
        truncated = not text.rstrip().endswith("}")
        reason = f"{what} is {'truncated or ' if truncated else ''}not valid JSON{place}"
        raise Refused(error("config-invalid", reason, path, "write or copy the file again")) from None
    if not isinstance(value, dict):
        raise Refused(error("config-invalid", f"{what} holds no JSON object", path, "write or copy the file again"))
    return value


def number(config: dict[str, Any], key: str, path: Path, what: str) -> int | None:
    """`config[key]` as a positive integer, None when absent.

    Raises:
        Refused: present, but no positive integer.
    """
    value = config.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        found = error("config-invalid", f"{key} of {what} is {value!r}, not a whole number", path, "build it again")
        raise Refused(found)
    return value
