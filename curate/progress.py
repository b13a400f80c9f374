"""How long work tells its progress without printing: the library calls a reporter, the command line draws it."""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable


@runtime_checkable
class Task(Protocol):
    """One running stage."""

    def advance(self, amount: float) -> None: ...

    def set_total(self, total: float | None) -> None: ...


@runtime_checkable
class Reporter(Protocol):
    """Where stages, notes and warnings go."""

    def stage(
        self, name: str, *, total: float | None = None, unit: str = "documents", grows: str = ""
    ) -> AbstractContextManager[Task]:
        """Open a stage of `total` units (None: unknown); closing the context ends it.

        `grows` says with what it takes longer, for estimates: background, target, pool, or what a method says of
        itself (`units` of its contract); nothing: it does not.
        """
        ...

    def note(self, message: str) -> None: ...

    def warn(self, message: str) -> None: ...


class _SilentTask:
    def advance(self, amount: float) -> None: ...

    def set_total(self, total: float | None) -> None: ...


class Silent:
    """A reporter for library use: stages and notes vanish, warnings become Python warnings."""

    def stage(
        self, name: str, *, total: float | None = None, unit: str = "documents", grows: str = ""
    ) -> AbstractContextManager[Task]:
        return nullcontext(_SilentTask())

    def note(self, message: str) -> None: ...

    def warn(self, message: str) -> None:
        import warnings

        warnings.warn(message, stacklevel=3)
