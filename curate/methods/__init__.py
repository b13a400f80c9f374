"""One method per file; the folder is the registry.

A method's module holds `Settings` (a frozen dataclass), `prepare(inputs, settings) -> Scorer`, and a docstring whose
first line says what it is. Adding a method touches one file and its test.
"""

from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from curate.errors import SettingsError, nearest


@runtime_checkable
class Method(Protocol):
    """What the pipeline asks of a method's module."""

    Settings: type[Any]

    def prepare(self, inputs: Any, settings: Any) -> Any: ...


def names() -> tuple[str, ...]:
    """Return the methods that there are. Imports none of them."""
    return tuple(sorted(p.stem for p in Path(__file__).parent.glob("*.py") if not p.stem.startswith("_")))


def get(name: str) -> Method:
    """Return a method by name."""
    if name not in names():
        raise SettingsError(f"There is no method {name!r}.", hint=nearest(name, names()))
    return import_module(f"curate.methods.{name}")  # type: ignore[return-value]
