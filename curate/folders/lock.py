"""Who may write a folder: advisory locks, which die with their process.

One writer at a time, or several jobs of one run side by side; and turns at what one of several does for all.
"""

import errno
import fcntl
import os
import time
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar

from curate.errors import CurateError

F = TypeVar("F")
NAME = ".lock"
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
_ALONE, _SHARED = fcntl.LOCK_EX, fcntl.LOCK_SH
_PATIENCE = 30.0  # seconds: others hold it alone for as long as it takes to begin or to end a run


class Lock:
    """A lock on `folder`, held until `release`, garbage collection or the end of the process."""

    def __init__(self, folder: Path, name: str = NAME) -> None:
        self.folder = folder
        self.is_sole = False
        """Whether nobody else holds it."""
        self._descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o644)
        self._release = weakref.finalize(self, os.close, self._descriptor)

    @classmethod
    def alone(cls, folder: Path) -> "Lock":
        """Lock a folder for one process. Raises CurateError while another has it."""
        held = cls(folder)
        try:
            lock(held._descriptor, folder)
        except BlockingIOError:
            held.release()
            raise _busy(folder) from None
        held.is_sole = True
        return held

    @classmethod
    def beside_others(cls, folder: Path) -> "Lock":
        """Lock a folder beside other jobs of the run; `is_sole` says that there are none, until `share`.

        Raises CurateError while a process has it alone, and where there are no locks.
        """
        held = cls(folder)
        held._wait_for(_ALONE, _SHARED)
        return held

    def share(self) -> None:
        """Let other jobs in."""
        self._wait_for(_SHARED)

    def become_sole(self) -> bool:
        """Return whether no other job is left, and if so, lock the others out; if not, the lock is given up."""
        self.is_sole = self.is_sole or self._try(_ALONE)
        if not self.is_sole:
            self.release()
        return self.is_sole

    @classmethod
    def turn(cls, folder: Path, name: str, on_wait: Callable[[], object]) -> "Lock":
        """Wait for one's turn at what one of several jobs does for all; call `on_wait` first where another is at it.

        The next in turn follows at once on one that is killed.
        """
        held = cls(folder, f".{name}.lock")
        if not held._try(_ALONE):
            on_wait()
            fcntl.flock(held._descriptor, _ALONE)
        return held

    def _wait_for(self, *kinds: int) -> None:
        """Take the first kind that can be had, for a while. Raises CurateError."""
        deadline = time.monotonic() + _PATIENCE
        while (kind := next((k for k in kinds if self._try(k)), None)) is None:
            if time.monotonic() > deadline:
                self.release()
                raise _busy(self.folder)
            time.sleep(0.05)
        self.is_sole = kind == _ALONE

    def _try(self, kind: int) -> bool:
        try:
            fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            raise CurateError(
                f"{self.folder}: this file system has no locks, which several jobs of one run need.",
                hint="Give a folder on another file system with --out, or score with one process alone.",
            ) from None
        return True

    def guard(self, folder: F) -> F:
        """Return the folder: nobody takes a lock from a living process."""
        return folder

    def release(self) -> None:
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _busy(folder: Path) -> CurateError:
    return CurateError(
        f"{folder}: another process is writing this run.",
        hint="Wait for it, stop it, or give another folder with --out.",
    )


def lock(descriptor: int, folder: Path) -> None:
    """Lock an open file or folder. Raises BlockingIOError where it is locked; warns where there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        warnings.warn(
            f"{folder}: this file system has no locks; make sure that only one process writes here.", stacklevel=4
        )
