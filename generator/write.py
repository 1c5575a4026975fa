"""Writing a repository: all of it or nothing.

The files are written to a temporary sibling, flushed, and put in place by one rename. An existing repository is
exchanged with the new one in one step (Linux renameat2), so that whoever looks sees the old one or the new one. One
process at a time writes below a folder; it also clears what a killed one left there.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from generator import manifest
from generator.findings import EXIT_ENVIRONMENT, Refused, error

Files = dict[str, bytes]
Links = Mapping[str, str]
NO_LINKS: Links = {}
EXECUTABLE_SUFFIX = ".sh"
PARTIAL, RETIRED = ".partial", ".old"  # a new repository that is being written, and an old one on its way out
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def write(target: Path, files: Files, *, force: bool, links: Links = NO_LINKS) -> bool:
    """Writes `files` (relative path -> content, the manifest included) and symbolic `links` (relative path -> where to)
    as the folder `target`.

    Returns:
        True when something was written, False when the folder already had exactly this content.

    Raises:
        Refused: the folder is not ours, differs and `force` is not given, holds files that gen-repo did not write, or
            cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _only_writer(target.parent) as alone:
            if alone:
                _clear(target)
            if target.exists() or target.is_symlink():
                files = {**_kept(target), **files}
                if _same(target, files, links):
                    return False
                _may_replace(target, force)
            with _temporary_sibling(target) as fresh:
                _fill(fresh, files, links)
                _put_in_place(fresh, target)
    except OSError as problem:
        reason = problem.strerror or str(problem)
        what = f"cannot write the repository: {reason}"
        remedy = "choose another folder with --output, or make room and rights there"
        raise Refused(
            error("not-writable", what, problem.filename or target, remedy), exit_code=EXIT_ENVIRONMENT
        ) from None
    return True


@contextlib.contextmanager
def _only_writer(folder: Path) -> Iterator[bool]:
    """Waits until no other process writes below `folder`. Yields False where the file system cannot lock a folder."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            alone = True
        except OSError:  # network file systems without locks
            alone = False
        yield alone
    finally:
        os.close(handle)  # which unlocks


def _clear(target: Path) -> None:
    """Takes away what a killed process left beside `target`. An old repository without a new one is put back."""
    left = f".{glob.escape(target.name)}.????????"
    for old in target.parent.glob(left + RETIRED):
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(target)
    for partial in target.parent.glob(left + PARTIAL):
        shutil.rmtree(partial, ignore_errors=True)


def _same(target: Path, files: Files, links: Links) -> bool:
    present = {p.relative_to(target).as_posix(): p for p in target.rglob("*") if p.is_file() or p.is_symlink()}
    present = {name: path for name, path in present.items() if "__pycache__" not in path.parts}
    if present.keys() != files.keys() | links.keys():
        return False
    return all(
        str(path.readlink()) == links.get(name) if path.is_symlink() else path.read_bytes() == files.get(name)
        for name, path in present.items()
    )


def _kept(target: Path) -> Files:
    """What users put into a repository, and a new one has as well."""
    return {name: (target / name).read_bytes() for name in manifest.KEPT if (target / name).is_file()}


def _may_replace(target: Path, force: bool) -> None:
    if target.is_symlink() or not target.is_dir():
        what = "the output is a symbolic link or a file, not a folder"
        raise Refused(error("output-not-ours", what, target, "choose another folder with --output"))
    if not any(target.iterdir()):
        return
    content = manifest.read(target)
    if content is None:
        what = "the output folder is not empty and has no manifest.json of gen-repo, so it is not ours to replace"
        raise Refused(error("output-not-ours", what, target, "choose another folder with --output"))
    if not force:
        what = "the output folder holds a repository that differs from the new one"
        remedy = "add --force to replace it (`gen-repo check` lists what was edited), or choose another --output"
        raise Refused(error("output-differs", what, target, remedy))
    foreign = [
        path
        for path, how in manifest.edited(target, content).items()
        if how == "added" and not (target / path).is_symlink()
    ]
    if foreign:
        named = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        what = f"the output folder holds {len(foreign)} file(s) that gen-repo did not write and would delete: {named}"
        remedy = "move them out of it (engines and checkpoints belong elsewhere), or delete them yourself"
        raise Refused(error("output-foreign", what, target, remedy))


@contextlib.contextmanager
def _temporary_sibling(target: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=PARTIAL, dir=target.parent))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fill(folder: Path, files: Files, links: Links) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        if path.suffix == EXECUTABLE_SUFFIX:
            path.chmod(0o755)
    for name, destination in links.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(destination)
    for inner in {
        parent for name in (*files, *links) for parent in (folder / name).parents if parent.is_relative_to(folder)
    }:
        _flush(inner)


def _flush(folder: Path) -> None:
    """Makes the names in a folder outlast a loss of power, where the file system can."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def _put_in_place(fresh: Path, target: Path) -> None:
    if not target.exists():
        fresh.rename(target)
        _flush(target.parent)
        return
    if _exchange(fresh, target):
        _flush(target.parent)
        return  # the old repository now lies under the temporary name and goes with it
    retired = fresh.with_suffix(RETIRED)
    target.rename(retired)
    try:
        fresh.rename(target)
    except OSError:
        retired.rename(target)
        raise
    _flush(target.parent)
    shutil.rmtree(retired, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two folders in one step; False where the system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    if ctypes.get_errno() in (errno.ENOSYS, errno.EINVAL):
        return False
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(other))
