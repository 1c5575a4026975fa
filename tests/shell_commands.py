"""Reads a build_engines.sh back into the commands that it would run, by bash's own rules of quoting."""

from __future__ import annotations

import re
import shlex

PROGRAMS = ("python3", "trtllm-build", "gen-repo", "git")
REPOSITORY = "<repository>"


def variables(text: str) -> dict[str, str]:
    """Top-level assignments; a default of ${NAME:-default} counts as its value."""
    found = {"repository": REPOSITORY}
    for line in text.splitlines():
        match = re.match(r"(?:export )?(\w+)=(.*)", line)
        if match is None or match.group(1) == "repository":
            continue
        name, value = match.groups()
        default = re.fullmatch(r'"?\$\{\w+:-(.*)\}"?', value)
        if default:
            found[name] = expand(default.group(1), found)
        elif not value.startswith("("):
            [found[name]] = shlex.split(value)
    return found


def expand(word: str, known: dict[str, str]) -> str:
    dirname = re.fullmatch(r'\$\(dirname "\$(\w+)"\)(.*)', word)
    if dirname:
        return known[dirname.group(1)].rpartition("/")[0] + dirname.group(2)
    return re.sub(r"\$\{?(\w+)\}?", lambda match: known[match.group(1)], word)


def commands(text: str) -> dict[str, list[list[str]]]:
    """Step (function) -> the commands in it, as argument lists with variables replaced."""
    known = variables(text)
    found: dict[str, list[list[str]]] = {}
    step = ""
    for line in text.replace("\\\n", " ").splitlines():
        opened = re.fullmatch(r"(\w+)\(\) \{", line)
        if opened:
            step = opened.group(1)
            found[step] = []
        elif line == "}":
            step = ""
        elif step and line.split() and line.split()[0] in PROGRAMS:
            words = [expand(word, known) for word in shlex.split(line, comments=True)]
            if words[:2] != ["git", "lfs"]:
                found[step].append(words)
    return {step: lines for step, lines in found.items() if lines}


def flags(command: list[str]) -> dict[str, str]:
    """`--name value` and `--name=value` pairs of a command; a flag without a value has an empty one."""
    found: dict[str, str] = {}
    last = ""
    for word in command:
        if word.startswith("--"):
            last, _, value = word.partition("=")
            assert last not in found, f"{last} twice in {command}"
            found[last] = value
        elif last:
            found[last] = f"{found[last]} {word}".strip()
    return found
