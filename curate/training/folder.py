"""A proxy's folder that appears whole or not at all."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from curate.errors import CurateError, SettingsError
from curate.folders.atomic import fsync_tree

RECORD = "warmup.json"


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give a folder beside `out` to fill; when the block ends well it takes the place of `out`.

    What a killed process left in it is removed first. Raises SettingsError when `out` is there and is neither
    empty nor a proxy made here, CurateError when another process is filling the same folder.
    """
    out = Path(os.path.abspath(out))
    check_replaceable(out)
    partial = out.with_name(f".{out.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    lock = os.open(partial, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CurateError(
                f"another warm-up is making {out}", hint="wait for it, or give another folder with --out"
            ) from None
        _empty(partial)
        try:
            yield partial
            fsync_tree(partial)
            _swap(partial, out)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(lock)


def check_replaceable(out: Path) -> None:
    """Raise SettingsError when `out` holds anything but a proxy that a warm-up made."""
    if not out.exists():
        return
    if not out.is_dir():
        raise SettingsError(f"{out} is a file, expected a folder to make", hint="give another folder with --out")
    if any(out.iterdir()) and not (out / RECORD).is_file():
        raise SettingsError(
            f"{out} is not empty and has no {RECORD}, so it is no proxy made by a warm-up",
            hint="give another folder with --out; this one is left as it is",
        )


def _swap(partial: Path, out: Path) -> None:
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    partial.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
