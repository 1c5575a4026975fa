"""Generation that is killed, runs out of room, or is not alone, leaves the old repository or the new one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from generator import write as writing
from generator.findings import Refused
from generator.write import write
from tests.crash import killed_at

FILES = ("a/config.pbtxt", "a/1/model.py", "launch.sh", "b/1/model.py", "b/config.pbtxt")
MANIFEST = json.dumps({"made_by": "gen-repo", "files": dict.fromkeys(FILES, "")}).encode()
OLD = {
    "a/config.pbtxt": b"old",
    "a/1/model.py": b"x = 0\n" * 900,
    "manifest.json": MANIFEST,
    "launch.sh": b"#!/bin/sh\n",
}
NEW = OLD | {"a/config.pbtxt": b"new", "b/1/model.py": b"x = 1\n" * 2000, "b/config.pbtxt": b"b"}
ROOT = Path(__file__).parents[2]


def tree(folder: Path) -> dict[str, bytes] | None:
    if not folder.exists():
        return None
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: hundreds of runs that flush every file are slow on a disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder) / "place"


def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on file systems that cannot swap two names in one step."""
    monkeypatch.setattr(writing, "_exchange", lambda one, other: False)


@pytest.mark.parametrize("kind", ["fresh", "replacing", "replacing without exchange"])
def test_killed_at_every_system_call(kind: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = None if kind == "fresh" else OLD
    if kind.endswith("exchange"):
        no_exchange(monkeypatch)

    def prepared() -> Path:
        shutil.rmtree(place, ignore_errors=True)
        if before:
            write(place / "repo", before, force=False)
        return place / "repo"

    target = prepared()
    stops = killed_at(None, lambda: write(target, NEW, force=True))
    if stops < 0:
        pytest.skip("this system does not let a process trace its child")
    assert tree(target) == NEW and stops > 100
    seen = set()
    for stop in range(stops):
        target = prepared()
        killed_at(stop, lambda target=target: write(target, NEW, force=True))  # type: ignore[misc]
        found = tree(target)
        if kind.endswith("exchange") and found is None:  # the one moment without a repository: it is put back
            with pytest.raises(Refused, match="--force"):
                write(target, NEW, force=False)
            found = tree(target)
        assert found in (before, NEW), f"a mixture after stop {stop} of {stops}"
        seen.add(found == NEW)
        write(target, NEW, force=True)
        assert tree(target) == NEW and os.listdir(target.parent) == ["repo"], f"left behind after stop {stop}"
    assert seen == {False, True}


FILL_DISK = """
import ctypes, sys
from pathlib import Path
from generator.findings import Refused
from generator.write import write
from tests.unit.test_crashes import NEW, OLD, tree
place, libc = Path(sys.argv[1]), ctypes.CDLL(None, use_errno=True)
full = 0
for pages in range(8, 40):
    if libc.mount(b"none", bytes(place), b"tmpfs", 0, b"size=%d" % (4096 * pages)) != 0:
        sys.exit(77)
    try:
        write(place / "repo", OLD, force=False)
        write(place / "repo", NEW, force=True)
        assert tree(place / "repo") == NEW
    except Refused as refused:
        assert "No space left" in str(refused) and refused.exit_code == 3, refused
        assert tree(place / "repo") in (None, OLD), pages
        assert len(list(place.iterdir())) <= 1, "left behind"
        full += 1
    libc.umount2(bytes(place), 2)
print(full)
"""


READ_ONLY = """
import ctypes, sys
from pathlib import Path
from generator.findings import Refused
from generator.write import write
from tests.unit.test_crashes import NEW, OLD, tree
place, libc = Path(sys.argv[1]), ctypes.CDLL(None, use_errno=True)
if libc.mount(b"none", bytes(place), b"tmpfs", 0, b"") != 0:
    sys.exit(77)
write(place / "repo", OLD, force=False)
assert libc.mount(b"none", bytes(place), b"tmpfs", 1 | 32, b"") == 0  # MS_RDONLY | MS_REMOUNT
assert not write(place / "repo", OLD, force=False)  # there is nothing to write
for name in ("repo", "other", "deep/other"):
    try:
        write(place / name, NEW, force=True)
    except Refused as refused:
        assert "Read-only file system" in str(refused) and refused.exit_code == 3, refused
    else:
        raise AssertionError(name)
assert tree(place / "repo") == OLD
print(3)
"""


@pytest.mark.parametrize("script", [FILL_DISK, READ_ONLY], ids=["full", "read-only"])
def test_a_disk_without_room_or_rights_leaves_the_old_repository(script: str, tmp_path: Path) -> None:
    """Real ones: small file systems in memory, in a name space of their own."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("no unshare to mount a small file system with")
    command = [unshare, "-Urm", sys.executable, "-c", script, tmp_path]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    if done.returncode == 77 or "unshare failed" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip("this system lets nobody mount a small file system")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 3


@pytest.mark.parametrize("call", ["fsync", "mkdir", "chmod", "rename", "open", "mkdtemp"])
def test_any_failing_call_leaves_the_old_repository(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room, injected at each of the calls in turn."""
    holder: object = {"mkdtemp": writing.tempfile, "fsync": writing.os}.get(call, Path)
    real: Callable[..., object] = getattr(holder, call)
    target, failures = tmp_path / "repo", 0
    for broken in range(60):
        shutil.rmtree(target, ignore_errors=True)
        write(target, OLD, force=False)
        calls = iter(range(10_000))

        def failing(*args: object, calls=calls, broken=broken, **more: object) -> object:  # type: ignore[no-untyped-def]
            if (call != "open" or "wb" in args) and next(calls) == broken:
                raise OSError(28, "No space left on device", "somewhere")
            return real(*args, **more)

        with monkeypatch.context() as patch:
            no_exchange(patch)
            patch.setattr(holder, call, failing)
            try:
                write(target, NEW, force=True)
            except Refused as refused:
                assert "No space left" in str(refused) and refused.exit_code == 3
                failures += 1
                assert tree(target) == OLD
            else:
                assert tree(target) == NEW
            if next(calls) <= broken:
                break
        assert os.listdir(tmp_path) == ["repo"]
    assert failures >= 1


def test_two_at_once_write_one_after_the_other(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "import sys; from tests.unit.test_crashes import *; contend(sys.argv[1], sys.argv[2])",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    several = [
        subprocess.Popen([*command, str(tmp_path / "repo"), str(number)], env=environment, cwd=ROOT)
        for number in range(4)
    ]
    assert [process.wait(120) for process in several] == [0] * 4
    assert tree(tmp_path / "repo") in [contents(number) for number in range(4)]
    assert os.listdir(tmp_path) == ["repo"]


def contents(number: int) -> dict[str, bytes]:
    own = f"{number}/only.txt"
    manifest = {"made_by": "gen-repo", "files": dict.fromkeys((*FILES, own), "")}
    made = {"a/config.pbtxt": b"%d" % number, own: b"%d" % number}
    return NEW | made | {"manifest.json": json.dumps(manifest).encode()}


def contend(target: str, number: str) -> None:
    """Writes its own content again and again, and looks that the target is always somebody's whole content."""
    whole = [contents(other) for other in range(4)]
    for _ in range(25):
        write(Path(target), contents(int(number)), force=True)
        with writing._only_writer(Path(target).parent):
            assert tree(Path(target)) in whole


def test_without_force_the_second_of_two_is_refused(tmp_path: Path) -> None:
    target, ends = tmp_path / "repo", []
    with writing._only_writer(tmp_path):

        def second() -> None:
            try:
                ends.append(write(target, NEW, force=False))
            except Refused as refused:
                ends.append(str(refused))

        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive() and not target.exists()
        for name, content in OLD.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(content)
    waiting.join(30)
    assert "--force" in str(ends[0]) and tree(target) == OLD


def test_a_link_inside_the_repository_is_replaced_and_not_followed(tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "repo", tmp_path / "elsewhere"
    write(target, OLD, force=False)
    elsewhere.mkdir()
    (elsewhere / "config.pbtxt").write_bytes(b"old")
    shutil.rmtree(target / "a")
    (target / "a").symlink_to(elsewhere)
    (target / "launch.sh").unlink()
    (target / "launch.sh").symlink_to(elsewhere / "config.pbtxt")
    with pytest.raises(Refused, match="--force"):
        write(target, OLD, force=False)
    write(target, NEW, force=True)
    assert tree(target) == NEW and not any(path.is_symlink() for path in target.rglob("*"))
    assert tree(elsewhere) == {"config.pbtxt": b"old"}


def test_other_files_beside_the_repository_stay(tmp_path: Path) -> None:
    (tmp_path / ".repo.notes.partial").mkdir()
    (tmp_path / ".other.12345678.partial").mkdir()
    (tmp_path / ".repo.12345678.partial").symlink_to(tmp_path / ".other.12345678.partial")
    write(tmp_path / "repo", OLD, force=False)
    assert len(os.listdir(tmp_path)) == 4


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unchanged_repository_needs_no_rights_to_write(tmp_path: Path) -> None:
    write(tmp_path / "repo", OLD, force=False)
    tmp_path.chmod(0o555)
    assert not write(tmp_path / "repo", OLD, force=False)
