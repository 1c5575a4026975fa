"""model_repos/ holds exactly what gen-repo writes today, and each of them is a valid repository."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from generator.check import check
from generator.findings import has_errors
from tests.golden.repositories import ROOT, expected

REGENERATE = "run `make goldens` and review the difference"
EXPECTED = expected()


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_there_is_a_golden_for_every_model_and_nothing_else() -> None:
    assert sorted(p.name for p in ROOT.iterdir()) == sorted(EXPECTED), REGENERATE


@pytest.mark.parametrize("model", EXPECTED)
def test_golden_is_what_is_generated(model: str) -> None:
    found, wanted = tree(ROOT / model), EXPECTED[model]
    assert sorted(found) == sorted(wanted), REGENERATE
    for path, content in wanted.items():
        if found[path] != content:
            lines = difflib.unified_diff(
                found[path].decode().splitlines(),
                content.decode().splitlines(),
                "checked in",
                "generated",
                lineterm="",
            )
            pytest.fail(f"{model}/{path} differs, {REGENERATE}\n" + "\n".join(lines))


@pytest.mark.parametrize("model", EXPECTED)
def test_golden_passes_check(model: str) -> None:
    findings = check(ROOT / model)
    assert not has_errors(findings), "\n".join(map(str, findings))
    assert {f.code for f in findings} == {"not-servable-yet"}


@pytest.mark.parametrize("model", EXPECTED)
def test_golden_names_no_path_of_a_machine(model: str) -> None:
    for path, content in tree(ROOT / model).items():
        assert b"/home/" not in content and str(Path.home()).encode() not in content, path
