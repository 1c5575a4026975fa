"""Writing is all or nothing, and only ever replaces what is ours."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from generator import write as writing
from generator.findings import Refused
from generator.write import write

MANIFEST = b'{"made_by": "gen-repo", "files": {"a/config.pbtxt": "", "b/1/model.py": "", "launch.sh": ""}}'
OLD = {"a/config.pbtxt": b"old", "manifest.json": MANIFEST, "launch.sh": b"#!/bin/sh\n"}
NEW = OLD | {"a/config.pbtxt": b"new", "b/1/model.py": b"x = 1\n"}


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_writes_everything_and_marks_scripts_executable(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "repo"
    assert write(target, OLD, force=False)
    assert tree(target) == OLD
    assert os.access(target / "launch.sh", os.X_OK) and not os.access(target / "manifest.json", os.X_OK)


def test_equal_content_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "repo"
    write(target, OLD, force=False)
    before = (target / "a/config.pbtxt").stat()
    assert not write(target, OLD, force=False)
    assert (target / "a/config.pbtxt").stat().st_mtime_ns == before.st_mtime_ns


def test_links_are_part_of_the_content(tmp_path: Path) -> None:
    target, links = tmp_path / "repo", {"vision/1/model.plan": "/nowhere/model.engine"}
    assert write(target, OLD, force=False, links=links)
    link = target / "vision/1/model.plan"
    assert link.is_symlink() and str(link.readlink()) == "/nowhere/model.engine"
    assert not write(target, OLD, force=False, links=links)
    for other in ({}, {"vision/1/model.plan": "/elsewhere"}):
        with pytest.raises(Refused, match="--force"):
            write(target, OLD, force=False, links=other)
    assert write(target, OLD, force=True) and tree(target) == OLD and not link.is_symlink()


def test_a_link_in_the_place_of_a_file_is_a_difference(tmp_path: Path) -> None:
    target = tmp_path / "repo"
    write(target, OLD, force=False)
    (tmp_path / "old").write_bytes(b"old")
    (target / "a/config.pbtxt").unlink()
    (target / "a/config.pbtxt").symlink_to(tmp_path / "old")
    with pytest.raises(Refused, match="--force"):
        write(target, OLD, force=False)


def test_differing_repository_needs_force(tmp_path: Path) -> None:
    target = tmp_path / "repo"
    write(target, OLD, force=False)
    with pytest.raises(Refused, match="--force"):
        write(target, NEW, force=False)
    assert tree(target) == OLD
    assert write(target, NEW, force=True)
    assert tree(target) == NEW
    assert [p.name for p in tmp_path.iterdir()] == ["repo"]


def test_foreign_folder_is_never_replaced(tmp_path: Path) -> None:
    target = tmp_path / "home"
    target.mkdir()
    (target / "thesis.tex").write_text("years of work")
    with pytest.raises(Refused, match="not ours"):
        write(target, NEW, force=True)
    assert tree(target) == {"thesis.tex": b"years of work"}


def test_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    assert write(tmp_path / "repo", NEW, force=False)


@pytest.mark.parametrize("kind", ["link", "file"])
def test_link_or_file_in_the_place_of_the_folder_is_refused(tmp_path: Path, kind: str) -> None:
    target, other = tmp_path / "repo", tmp_path / "other"
    other.mkdir()
    target.symlink_to(other) if kind == "link" else target.write_text("mine")
    with pytest.raises(Refused, match="not a folder"):
        write(target, NEW, force=True)
    assert not tree(other)


def test_a_failure_halfway_leaves_the_old_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "repo"
    write(target, OLD, force=False)
    calls = iter(range(100))
    real = os.fsync

    def failing(descriptor: int) -> None:
        if next(calls) == 2:
            raise OSError(28, "No space left on device", "b/1/model.py")
        real(descriptor)

    monkeypatch.setattr(writing.os, "fsync", failing)
    with pytest.raises(Refused, match="No space left"):
        write(target, NEW, force=True)
    assert tree(target) == OLD
    assert [p.name for p in tmp_path.iterdir()] == ["repo"]


def test_exchange_is_one_step_or_falls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "repo"
    write(target, OLD, force=False)
    monkeypatch.setattr(writing, "_exchange", lambda one, other: False)
    assert write(target, NEW, force=True)
    assert tree(target) == NEW
    assert [p.name for p in tmp_path.iterdir()] == ["repo"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_rights_is_an_environment_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(Refused) as refused:
        write(tmp_path / "repo", NEW, force=False)
    assert refused.value.exit_code == 3


def test_output_below_a_file_is_an_environment_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused) as refused:
        write(tmp_path / "file" / "repo", NEW, force=False)
    assert refused.value.exit_code == 3


def test_what_others_have_put_there_is_not_deleted(tmp_path: Path) -> None:
    target = tmp_path / "repo"
    write(target, OLD, force=False)
    engine = target / "tmp/trt_engines/rank0.engine"
    engine.parent.mkdir(parents=True)
    engine.write_bytes(b"hours of work")
    with pytest.raises(Refused, match=r"1 file\(s\) that gen-repo did not write.*tmp/trt_engines/rank0\.engine"):
        write(target, NEW, force=True)
    assert engine.read_bytes() == b"hours of work" and (target / "a/config.pbtxt").read_bytes() == b"old"
    engine.unlink()
    (target / "hostfile").write_bytes(b"here slots=2\n")
    assert write(target, NEW, force=True)
    assert tree(target) == NEW | {"hostfile": b"here slots=2\n"}
    assert not write(target, NEW, force=False)
