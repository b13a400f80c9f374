"""Large values of which memory holds one at a time."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Shelf(Generic[T]):
    """Load values on demand, and hold the one that was taken last."""

    def __init__(self, loads: Sequence[Callable[[], T]]) -> None:
        self._loads, self._taken = loads, -1
        self._value: T | None = None

    def take(self, index: int) -> T:
        """Return a value, loaded unless it is the one that is held."""
        if self._value is None or self._taken != index:
            self._value = None  # before the next one is loaded
            self._taken, self._value = index, self._loads[index]()
        return self._value


class OneAtATime(Generic[T]):
    """Some of a shelf's values as a sequence; several of these may share one shelf."""

    def __init__(self, shelf: Shelf[T], indices: Sequence[int]) -> None:
        self.shelf, self.indices = shelf, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> T:
        return self.shelf.take(self.indices[index])
