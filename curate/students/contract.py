"""The contract of students: what a student is, what it gets, and what it returns. Public, and free of torch.

A student is a module, here or in another package, whose docstring's first line says what it is. It must have

    read                Inputs -> Reader, which makes numbers of documents, alike however they are handed in

and may have

    NEEDS               frozenset of "model" (its reader gets documents as tokens, not as text); none

How numbers become scores is the same for all students: see `ridge`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from curate.errors import CurateError

if TYPE_CHECKING:
    from curate.gradients.documents import Batching
    from curate.proxies.proxy import Proxy

NEEDS = frozenset({"model"})

Reader = Callable[[Sequence[Any]], np.ndarray]
"""From texts, or from `Encoded` documents, to float32 `[documents, features]`."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a student may read documents with."""

    proxy: "Proxy | None" = None
    batching: "Batching | None" = None
    """How documents go through the proxy; both are there for students that need the model."""
    layers: int | None = None
    """How many layers of the proxy are run, for students that run some; None: half of them."""

    @property
    def model(self) -> "tuple[Proxy, Batching]":
        """The proxy, and how documents go through it."""
        assert self.proxy is not None
        assert self.batching is not None
        return self.proxy, self.batching


@dataclass(frozen=True, kw_only=True)
class Student:
    """A student with all members, defaults included."""

    description: str
    read: Callable[[Inputs], Reader]
    needs: frozenset[str] = frozenset()

    @property
    def needs_model(self) -> bool:
        return "model" in self.needs


def checked(name: str, module: Any) -> Student:
    """Return a student with defaults for what it leaves out. Raises CurateError that names what is wrong."""
    needs = getattr(module, "NEEDS", frozenset())
    read: Any = module.read
    if not callable(module.read) or not isinstance(needs, frozenset) or not needs <= NEEDS:
        raise CurateError(
            f"Student {name!r} does not keep the contract: read is {read!r} and NEEDS {needs!r}.",
            hint="See the docstring of curate.students.contract for what a student has.",
        )
    return Student(description=(module.__doc__ or "").partition("\n")[0], read=read, needs=needs)
