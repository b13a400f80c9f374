"""Files that exist only whole: a temporary name in the same folder, fsync, rename."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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


def write_text(path: Path | str, text: str) -> None:
    """Write a small UTF-8 file atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


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
