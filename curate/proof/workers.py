"""Retrainings on several devices at once: a process each, which takes every n-th one and leaves files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from curate.errors import CurateError, SettingsError
from curate.executors.children import heard, started
from curate.folders.folder import Folder
from curate.proof.bank import Bank, Job, Laboratory
from curate.proxies.proxy import keep_freed_memory, load_proxy
from curate.proxies.settings import ProxySettings
from curate.proxies.tokens import Encoded, TokenSettings
from curate.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class _Order:
    """What one process is told: enough to build the laboratory anew on its device."""

    proxy: ProxySettings
    recipe: Recipe
    documents: Sequence[Encoded]
    queries: Sequence[Encoded]
    tokens: TokenSettings
    budget: int
    root: Path
    folder: Folder
    jobs: Sequence[Job]


def devices_of(asked: Sequence[str], device: torch.device) -> tuple[str, ...]:
    """Return the devices that retrain: those asked for, else every CUDA device where one is used, else the one."""
    if asked:
        return tuple(asked)
    if device.type == "cuda" and device.index is None and torch.cuda.device_count() > 1:
        return tuple(f"cuda:{i}" for i in range(torch.cuda.device_count()))
    return (str(device),)


@dataclass(frozen=True)
class Workers:
    """Makes a bank's retrainings in a process per device."""

    devices: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.devices:
            raise SettingsError("No device was given to retrain on.")

    def __call__(self, bank: Bank, jobs: Sequence[Job]) -> Iterator[None]:
        """Yield once per retraining that is done. Raises CurateError when a process fails."""
        count = min(len(self.devices), len(jobs))
        orders = [_order(bank, device, jobs[i::count]) for i, device in enumerate(self.devices[:count])]
        with started(_work, orders) as children:
            done = 0
            while done < len(jobs):
                told = heard(children)
                yield from [None] * len(told)
                done += len(told)


def _order(bank: Bank, device: str, jobs: Sequence[Job]) -> _Order:
    made: Laboratory = bank.laboratory
    return _Order(
        proxy=replace(made.proxy.settings, device=device),
        recipe=made.recipe,
        documents=made.documents,
        queries=made.queries,
        tokens=made.tokens,
        budget=made.budget,
        root=bank.folder.local().parent,
        folder=bank.folder,
        jobs=jobs,
    )


def _work(order: _Order, pipe: Connection) -> None:
    keep_freed_memory()
    laboratory = Laboratory(
        proxy=load_proxy(order.proxy),
        recipe=order.recipe,
        documents=order.documents,
        queries=order.queries,
        tokens=order.tokens,
        budget=order.budget,
    )
    bank = Bank(laboratory, order.root)
    if bank.folder != order.folder:
        raise CurateError(f"The model at {order.proxy.model} has changed while it was retrained.")
    for job in order.jobs:
        bank.make(job)
        pipe.send(None)
