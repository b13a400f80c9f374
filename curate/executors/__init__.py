"""Executors, which work on spans: one per file, by the contract in `contract`; the folder is the registry.

An installed package adds executors by entry points of the group `curate.executors`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from curate.amounts import parse_int
from curate.errors import SettingsError
from curate.registry import Registry

if TYPE_CHECKING:
    from curate.executors.contract import Executor

_REGISTRY = Registry(
    kind="executor",
    group="curate.executors",
    folder=Path(__file__).parent,
    package=__name__,
    leave_out=frozenset({"children", "contract", "ledger", "reading", "tables"}),
    needs=("make",),
)


def names() -> tuple[str, ...]:
    """Return the names of all executors, without importing them."""
    return _REGISTRY.names()


def get(name: str, *, workers: int = 1, device: str = "auto") -> "Executor":
    """Return an executor by name; `device` is where the work runs. Raises SettingsError."""
    module = _REGISTRY.get(name)
    workers = parse_int(workers)
    if workers < 1:
        raise SettingsError(f"workers is {workers}; expected at least 1.")
    return module.make(workers, device)


def of_workers(workers: int, device: str) -> "Executor":
    """Return this process for one worker, else that many processes. Raises SettingsError."""
    return get("local" if workers == 1 else "processes", workers=workers, device=device)
