"""One writer at a time: an advisory lock that dies with its process."""

import errno
import fcntl
import os
import warnings
import weakref
from pathlib import Path
from typing import Self

from curate.errors import CurateError

NAME = ".lock"
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


class Lock:
    """An exclusive lock on `folder`, held until `release`, garbage collection or the end of the process."""

    def __init__(self, folder: Path) -> None:
        descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            lock(descriptor, folder)
        except BlockingIOError:
            os.close(descriptor)
            raise CurateError(
                f"{folder}: another process is writing this run.",
                hint="Wait for it, stop it, or give another folder with --out.",
            ) from None
        except OSError:
            os.close(descriptor)
            raise
        self._release = weakref.finalize(self, os.close, descriptor)

    def release(self) -> None:
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


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
