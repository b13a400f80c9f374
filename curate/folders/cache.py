"""Copies of objects on this machine, bounded in bytes: those go first that were used longest ago.

$XDG_CACHE_HOME/curate/objects holds them (~/.cache by default), at most $CURATE_CACHE_BYTES of them. They are trimmed
when a process begins to use them, and when it ends, but never while another uses them: paths that were handed out stay
good. So one command may keep more for its time. Where the file system has no locks nothing is removed.
"""

import atexit
import fcntl
import os
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from curate.amounts import parse_int
from curate.errors import SettingsError

BYTES = "CURATE_CACHE_BYTES"
DEFAULT_BYTES = 50 * 10**9
SCRATCH, WHOLE = ".scratch", "whole"
"""Folders of intermediate files, which stay, and in them one of links to copies, which go with these."""
_LOCK = ".in-use"
_users: dict[Path, int | None] = {}
"""The descriptor of the lock that this process holds, by folder; None where there are no locks."""
_beginning = threading.Lock()


def cache() -> Path:
    """Return the folder of all copies."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return home / "curate" / "objects"


def begin() -> None:
    """Keep copies from being removed as long as this process lives; before, remove what is too much."""
    folder = cache()
    with _beginning:
        if folder not in _users:
            most = most_bytes()
            folder.mkdir(parents=True, exist_ok=True)
            _users[folder] = _locked(folder, most)
            atexit.register(end, folder)


def end(folder: Path) -> None:
    """Give the copies up, and remove what is too much unless another process uses them."""
    descriptor = _users.pop(folder, None)
    if descriptor is None:
        return
    with suppress(OSError, SettingsError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        trim(folder, most_bytes())
    os.close(descriptor)


def use(path: Path) -> bool:
    """Return whether there is a copy; note that it is used now."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def most_bytes() -> int:
    """Return how much is kept. Raises SettingsError where the environment has no number of bytes."""
    given = os.environ.get(BYTES) or DEFAULT_BYTES
    try:
        most = parse_int(given)
    except ValueError:
        most = -1
    if most < 0:
        hint = f"Set it to 20G, say, or to 0 to keep none: {BYTES}=20G"
        raise SettingsError(f"{BYTES} is {given}; expected a number of bytes.", hint=hint)
    return most


def trim(folder: Path, most: int) -> None:
    """Remove the copies that were used longest ago until at most so many bytes are left; hold the lock."""
    names: dict[int, list[str]] = defaultdict(list)  # a copy's own, and those of links to it
    ages: list[tuple[int, int, int]] = []
    for entry in _files(str(folder)):
        stat = entry.stat(follow_symlinks=False)
        if stat.st_ino not in names:
            ages.append((stat.st_mtime_ns, stat.st_ino, stat.st_size))
        names[stat.st_ino].append(entry.path)
    too_much = sum(num_bytes for *_, num_bytes in ages) - most
    for _, copy, num_bytes in sorted(ages):
        if too_much <= 0:
            break
        for name in names[copy]:
            os.unlink(name)
            with suppress(OSError):  # others are in its folder
                os.removedirs(os.path.dirname(name))
        too_much -= num_bytes


def _locked(folder: Path, most: int) -> int | None:
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            trim(folder, most)
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits while another trims
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _files(folder: str) -> Iterator[os.DirEntry[str]]:
    """Yield copies, and links to them."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name == _LOCK:
                continue
            if entry.name == SCRATCH:
                if os.path.isdir(whole := os.path.join(entry.path, WHOLE)):
                    yield from _files(whole)
            elif entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path)
            else:
                yield entry
