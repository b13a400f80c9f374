"""Retrain on several devices at once: a process each takes every n-th retraining and writes its files."""

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
from curate.proxies.room import Room
from curate.proxies.settings import ProxySettings
from curate.proxies.tokens import Encoded, TokenSettings
from curate.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class _Order:
    """The message to one process: enough to build the laboratory on its device."""

    proxy: ProxySettings
    recipe: Recipe
    documents: Sequence[Encoded]
    queries: Sequence[Encoded]
    tokens: TokenSettings
    room: Room
    root: Path
    folder: Folder
    jobs: Sequence[Job]


def devices_of(given: Sequence[str], name: str, device: torch.device) -> tuple[str, ...]:
    """Return the devices to retrain on: those given, else all CUDA devices if `name` leaves them open, or `device`."""
    if given:
        return tuple(given)
    if device.type == "cuda" and name in ("auto", "cuda") and torch.cuda.device_count() > 1:
        return tuple(f"cuda:{i}" for i in range(torch.cuda.device_count()))
    return (str(device),)


@dataclass(frozen=True)
class Workers:
    """Makes a bank's retrainings in a process per device."""

    devices: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.devices:
            raise SettingsError("No device was given; expected at least one.")

    def __call__(self, bank: Bank, jobs: Sequence[Job]) -> Iterator[None]:
        """Yield once per retraining that is done. Raises CurateError when a process fails."""
        count = min(len(self.devices), len(jobs))
        orders = [_order(bank, device, jobs[i::count]) for i, device in enumerate(self.devices[:count])]
        with started(_work, orders) as children:
            done = 0
            while done < len(jobs):
                messages = heard(children)
                yield from [None] * len(messages)
                done += len(messages)


def _order(bank: Bank, device: str, jobs: Sequence[Job]) -> _Order:
    laboratory: Laboratory = bank.laboratory
    return _Order(
        proxy=replace(laboratory.proxy.settings, device=device),
        recipe=laboratory.recipe,
        documents=laboratory.documents,
        queries=laboratory.queries,
        tokens=laboratory.tokens,
        room=laboratory.room,
        root=bank.folder.local().parent,
        folder=bank.folder,
        jobs=jobs,
    )


def _work(order: _Order, pipe: Connection) -> None:
    keep_freed_memory()
    proxy = load_proxy(order.proxy)
    laboratory = Laboratory(
        proxy=proxy,
        recipe=order.recipe,
        documents=order.documents,
        queries=order.queries,
        tokens=order.tokens,
        room=order.room.elsewhere(proxy.device),
    )
    bank = Bank(laboratory, order.root)
    if bank.folder != order.folder:
        raise CurateError(f"The model at {order.proxy.model} has changed during the retraining.")
    for job in order.jobs:
        bank.make(job)
        pipe.send(None)
