"""Writing a repository: all of it or nothing.

The files are written to a temporary sibling, flushed, and put in place by one rename. An existing repository is
exchanged with the new one in one step (Linux renameat2), so that whoever looks sees the old one or the new one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from generator import manifest
from generator.findings import EXIT_ENVIRONMENT, Refused, error

EXECUTABLE_SUFFIX = ".sh"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def write(target: Path, files: dict[str, bytes], *, force: bool) -> bool:
    """Writes `files` (relative path -> content, the manifest included) as the folder `target`.

    Returns:
        True when something was written, False when the folder already had exactly this content.

    Raises:
        Refused: the folder is not ours, differs and `force` is not given, or cannot be written.
    """
    try:
        if target.exists() or target.is_symlink():
            if _same(target, files):
                return False
            _may_replace(target, force)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _temporary_sibling(target) as fresh:
            _fill(fresh, files)
            _put_in_place(fresh, target)
    except OSError as problem:
        reason = problem.strerror or str(problem)
        what = f"cannot write the repository: {reason}"
        remedy = "choose another folder with --output, or make room and rights there"
        raise Refused(
            error("not-writable", what, problem.filename or target, remedy), exit_code=EXIT_ENVIRONMENT
        ) from None
    return True


def _same(target: Path, files: dict[str, bytes]) -> bool:
    present = {p.relative_to(target).as_posix(): p for p in target.rglob("*") if p.is_file() or p.is_symlink()}
    present = {name: path for name, path in present.items() if "__pycache__" not in path.parts}
    return present.keys() == files.keys() and all(
        path.is_file() and path.read_bytes() == files[name] for name, path in present.items()
    )


def _may_replace(target: Path, force: bool) -> None:
    if target.is_symlink() or not target.is_dir():
        what = "the output is a symbolic link or a file, not a folder"
        raise Refused(error("output-not-ours", what, target, "choose another folder with --output"))
    if not any(target.iterdir()):
        return
    if manifest.read(target) is None:
        what = "the output folder is not empty and has no manifest.json of gen-repo, so it is not ours to replace"
        raise Refused(error("output-not-ours", what, target, "choose another folder with --output"))
    if not force:
        what = "the output folder holds a repository that differs from the new one"
        remedy = "add --force to replace it (`gen-repo check` lists what was edited), or choose another --output"
        raise Refused(error("output-differs", what, target, remedy))


@contextlib.contextmanager
def _temporary_sibling(target: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fill(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        if path.suffix == EXECUTABLE_SUFFIX:
            path.chmod(0o755)


def _put_in_place(fresh: Path, target: Path) -> None:
    if not target.exists():
        fresh.rename(target)
        return
    if _exchange(fresh, target):
        return  # the old repository now lies under the temporary name and goes with it
    retired = fresh.with_suffix(".old")
    target.rename(retired)
    try:
        fresh.rename(target)
    except OSError:
        retired.rename(target)
        raise
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
