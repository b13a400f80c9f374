"""Work on a sample in slices that several workers can share: the same slices, in the same order, whoever does them.

How a sample is cut depends on its sequences alone, and results are taken in the order of the slices, never in that of
their arrival. So the number of workers decides nothing but the time.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from curate.gradients.documents import Batching
from curate.jobs import Advance
from curate.memory import free_bytes
from curate.progress import Task
from curate.proxies.proxy import Proxy

# Each worker writes the sums of a slice: more of them would be shared more evenly, and written more often.
SLICES = 16
# Sequences in a slice, about: fewer would leave batches half empty.
LEAST = 8
# Of a GPU's memory that is free: totals that need more are held on the CPU.
SHARE = 0.25

Tensors = Mapping[str, Tensor]
OpenSlices = Callable[[Any, Advance], Tensors]
"""Does a slice, tells how far it is, and returns tensors that hold until its next call."""
Take = Callable[[Tensors], object]


@runtime_checkable
class SliceWork(Protocol):
    """What is done to every slice, as a value: it pickles, and holds no model."""

    def open(self, proxy: Proxy, batching: Batching, state: Tensors) -> OpenSlices:
        """Return what does slices with a proxy; `state` is what was worked out before, on any device."""
        ...


@runtime_checkable
class SliceRunner(Protocol):
    """Has slices done, by this process or by several."""

    def __call__(self, work: SliceWork, slices: Sequence[Any], take: Take, task: Task, state: Tensors) -> None:
        """Do every slice, and hand the results to `take` in the order of the slices."""
        ...


def runner_here(proxy: Proxy, batching: Batching) -> SliceRunner:
    """Return what does slices one after another in this process."""

    def run(work: SliceWork, slices: Sequence[Any], take: Take, task: Task, state: Tensors) -> None:
        do = work.open(proxy, batching, state)
        for one in slices:
            take(do(one, task.advance))

    return run


def cut(lengths: Mapping[int, int]) -> list[list[int]]:
    """Cut sequences into slices of about as many tokens each, shortest sequences first, as batches take them."""
    order = sorted(lengths, key=lambda i: (lengths[i], i))
    tokens = np.array([max(1, lengths[i]) for i in order], np.int64)
    count = max(1, min(SLICES, len(order) // LEAST))
    numbers = (2 * tokens.cumsum() - tokens) * count // (2 * max(1, int(tokens.sum())))
    pairs = zip(numbers.tolist(), order, strict=True)
    return [[i for _, i in members] for _, members in groupby(pairs, key=lambda pair: pair[0])]


def by_kind(**kinds: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of several kinds under the names kind/name."""
    return {f"{kind}/{name}": tensor for kind, tensors in kinds.items() for name, tensor in tensors.items()}


class Totals:
    """Add up slices' sums in float64, in the order in which they come.

    A slice's own sums are in float32 (float64 for a float64 proxy), over some batches only; in float64 the slices add
    no rounding to speak of, and give the same bits on every device.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._device: torch.device | None = None

    def add(self, sums: Tensors) -> None:
        """Add a slice's sums."""
        device = self._device = self._device or _place(sums)
        for name, part in sums.items():
            if name in self.tensors:
                self.tensors[name].add_(part.to(device))
            else:
                self.tensors[name] = part.to(device).to(torch.float64, copy=True)  # there: MPS has no float64


def _place(sums: Tensors) -> torch.device:
    """Return where totals of these sums lie: on their GPU where it has the memory."""
    device = max((t.device for t in sums.values()), key=lambda d: d.type == "cuda", default=torch.device("cpu"))
    free = free_bytes(device) if device.type == "cuda" else None
    needed = 8 * sum(t.numel() for t in sums.values())
    return device if free is not None and needed <= SHARE * free else torch.device("cpu")
