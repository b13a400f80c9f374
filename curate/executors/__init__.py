"""Executors, which work on spans: one per file, by the contract in `contract`; the folder is the registry.

An installed package adds executors by entry points of the group `curate.executors`.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.amounts import parse_int
from curate.errors import SettingsError
from curate.executors.contract import Resources
from curate.executors.helpful import helpful_workers
from curate.registry import Registry

if TYPE_CHECKING:
    from curate.executors.contract import Executor

AUTO = "auto"
_REGISTRY = Registry(
    kind="executor",
    group="curate.executors",
    folder=Path(__file__).parent,
    package=__name__,
    leave_out=frozenset(
        {
            *("ahead", "children", "chunks", "contract", "crew", "helpful", "jobs", "kinds", "ledger", "reading"),
            "tables",
        }
    ),
    needs=("make",),
)


def names() -> tuple[str, ...]:
    """Return the names of all executors, without importing them."""
    return _REGISTRY.names()


@dataclass(frozen=True, kw_only=True)
class Choice:
    """An executor that was asked for, before it is known how much there is to do."""

    module: Any
    """Makes it; None: this process, or processes where there are several workers."""
    resources: Resources

    @property
    def job(self) -> str | None:
        """The name of this job among several that write one folder; None where it is the only one."""
        return None if self.resources.share is None else self.resources.share.name

    def told(self) -> dict[str, str]:
        """Return what the log tells of it: its part of the pool, such as 3/64, unless it is all of it."""
        return {} if self.resources.share is None else {"part": self.resources.share.part}

    @property
    def is_open(self) -> bool:
        """Whether the work decides how many workers there are."""
        return self.resources.workers is None

    def make(
        self,
        *,
        parameters: int | None = None,
        rows: float | None = None,
        seconds: float | None = None,
        device: str | None = None,
    ) -> "Executor":
        """Return the executor for a proxy of so many parameters, and about so many rows, or seconds of work.

        `device` is the proxy's where it was not known before.
        """
        device = device or self.resources.device
        resources = replace(self.resources, parameters=parameters, rows=rows, seconds=seconds, device=device)
        if self.module is not None:
            return self.module.make(resources)
        workers = resources.workers or helpful_workers(resources)
        name = "local" if workers == 1 else "processes"
        return _REGISTRY.get(name).make(replace(resources, workers=workers))


def choose(
    name: str | None = None,
    *,
    workers: int | str = 1,
    device: str = "auto",
    part: str | None = None,
    is_shared: bool = True,
) -> Choice:
    """Check what was asked for: an executor's name, a number of workers or `auto`, a part of the pool such as `3/64`.

    `is_shared`: whether several commands can take a share of the work each. Raises SettingsError.
    """
    name = name or (None if part is None else "array")
    module = None if name is None else _REGISTRY.get(name)
    shares = hasattr(module, "share_of")
    if part is not None and not shares:
        raise SettingsError(f"The executor {name!r} takes no part of a pool.", hint="Leave --part or --executor out.")
    if shares and not is_shared:
        raise SettingsError(
            f"The executor {name!r} shares a pool among commands; this work is one command's.",
            hint="Give --workers, or --executor processes or ray.",
        )
    share = module.share_of(part) if module is not None and shares else None
    return Choice(module=module, resources=Resources(workers=_number(workers), device=device, share=share))


def _number(workers: int | str) -> int | None:
    if workers == AUTO:
        return None
    with suppress(ValueError):
        if (number := parse_int(workers)) >= 1:
            return number
    raise SettingsError(f"workers is {workers}; expected at least 1, or auto.")
