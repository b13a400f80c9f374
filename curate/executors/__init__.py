"""Executors, which work on spans: one per file, by the contract in `contract`; the folder is the registry."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from curate.amounts import parse_int
from curate.errors import SettingsError, nearest

if TYPE_CHECKING:
    from curate.executors.contract import Executor

_SHARED = frozenset({"__init__", "children", "contract", "ledger", "reading", "tables"})


def names() -> tuple[str, ...]:
    """Return the names of all executors, without importing them."""
    return tuple(sorted(p.stem for p in Path(__file__).parent.glob("[a-z]*.py") if p.stem not in _SHARED))


def get(name: str, *, workers: int = 1, device: str = "auto") -> "Executor":
    """Return an executor by name; `device` is where the work runs. Raises SettingsError."""
    if name not in names():
        raise SettingsError(f"executor is {name!r}; expected one of {', '.join(names())}.", hint=nearest(name, names()))
    workers = parse_int(workers)
    if workers < 1:
        raise SettingsError(f"workers is {workers}; expected at least 1.")
    return import_module(f"curate.executors.{name}").make(workers, device)


def of_workers(workers: int, device: str) -> "Executor":
    """Return this process for one worker, else that many processes. Raises SettingsError."""
    return get("local" if workers == 1 else "processes", workers=workers, device=device)
