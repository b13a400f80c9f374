"""What a user sees when something is wrong: what was seen, what was expected, what to do."""

import errno

from curate.secrets import without_secrets

# Libraries in other languages give no number.
_FULL = ("No space left on device", "Disk quota exceeded", "StorageFull")
_FORBIDDEN = ("Permission denied", "PermissionDenied", "Read-only file system", "ReadOnlyFilesystem")


class CurateError(Exception):
    """A failure that the user can act on; the command line prints it without a traceback and exits 1.

    `message` says what was seen and what was expected (file, row, column); `hint` says what to do about it. Neither
    tells a secret that an address holds.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message = without_secrets(message)
        self.hint = hint and without_secrets(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class SettingsError(CurateError):
    """A setting that cannot work, found before any work is done; exit code 2."""

    exit_code = 2


def disk_is_full(error: BaseException) -> bool:
    """Return whether an error, or one that it came from, says that a disk or its quota is full."""
    return _saying(error, (errno.ENOSPC, errno.EDQUOT), _FULL) is not None


def forbidden(error: BaseException) -> str | None:
    """Return the words of an error, or of one that it came from, that a file may not be read or written; else None."""
    link = _saying(error, (errno.EACCES, errno.EPERM, errno.EROFS), _FORBIDDEN)
    return None if link is None else str(link).strip().splitlines()[0]


def _saying(error: BaseException, numbers: tuple[int, ...], words: tuple[str, ...]) -> BaseException | None:
    """Return the error, or the one that it came from, that has one of these numbers or words."""
    link: BaseException | None = error
    while link is not None:
        if getattr(link, "errno", None) in numbers or any(w in str(link) for w in words):
            return link
        link = link.__cause__ or link.__context__
    return None


def nearest(name: str, known: list[str] | tuple[str, ...]) -> str:
    """A sentence naming the closest known name, or all of them when none is close."""
    from difflib import get_close_matches

    close = [k for k in known if k.casefold() == name.casefold()] or get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Known: {', '.join(sorted(known))}." if known else "None is known."


def memory_is_out(error: BaseException) -> bool:
    """Say whether an error means that a device, or the machine, had no memory left."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, without importing it
        return True
    words = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in words or "can't allocate memory" in words)
