"""Files and folders that exist only whole: a temporary name beside them, fsync, rename."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from curate.errors import CurateError
from curate.folders.lock import lock


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it becomes `path` when the block ends without an error.

    A process killed at any moment leaves either the old file or the new one, and perhaps a temporary file
    that `remove_leftovers` knows by its name. An error inside the block removes the temporary file.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        fsync(temporary)
        os.replace(temporary, path)
        fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path | str, *, by: str = "Another process") -> Iterator[Path]:
    """Yield an empty folder beside `path` to fill; when the block ends without an error it takes the place of `path`.

    What a killed process left in it is removed first. Raises CurateError while another process fills it; `by` names
    that process.
    """
    path = Path(os.path.abspath(path))
    with _claimed(path, by) as partial:
        yield partial
        fsync_tree(partial)
        _swap(partial, path)


@contextmanager
def atomic_file(path: Path | str, *, by: str = "Another process") -> Iterator[Path]:
    """Yield the path of a file to make; when the block ends without an error it takes the place of `path`.

    It lies in a folder of its own beside `path`, with whatever its writer leaves next to it, so that what a killed
    process left is removed first. Raises CurateError while another process makes it; `by` names that process.
    """
    path = Path(os.path.abspath(path))
    with _claimed(path, by) as partial:
        yield partial / path.name
        fsync(partial / path.name)
        os.replace(partial / path.name, path)
        fsync(path.parent)
        shutil.rmtree(partial)


@contextmanager
def _claimed(path: Path, by: str) -> Iterator[Path]:
    """Yield an empty folder beside `path` that no other process has; an error in the block removes it."""
    partial = path.with_name(f".{path.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        try:
            lock(descriptor, partial)
        except BlockingIOError:
            raise CurateError(f"{by} is making {path}.", hint="Wait for it, or give another --out.") from None
        _empty(partial)
        try:
            yield partial
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(descriptor)


def _swap(partial: Path, path: Path) -> None:
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    partial.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def remove_leftovers(folder: Path) -> None:
    """Delete a killed process's temporary files anywhere under `folder`; hold the folder's lock."""
    for temporary in folder.rglob(".*.tmp"):
        if temporary.is_file():
            temporary.unlink()


def fsync_tree(folder: Path) -> None:
    """Make everything under `folder` durable, before the rename that makes it visible."""
    for path in sorted(folder.rglob("*")):
        fsync(path)


def fsync(path: Path) -> None:
    """Make one file's content, or one folder's entries, durable."""
    # Opening for reading is enough to flush; a folder's entries need an fsync of their own.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
