"""States of a training run in files, and which of them are kept."""

import math
import os
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from curate.folders.local import put_file
from curate.proxies.devices import widest
from curate.training.optimisers import State, Tensors

POLICIES = ("sqrt", "all", "log")


def positions(policy: str, steps: int) -> frozenset[int]:
    """Return after how many steps a forward run saves its state; the start and the end always are among them."""
    if policy == "all":
        return frozenset(range(steps + 1))
    if policy == "sqrt":
        return frozenset(range(0, steps, math.isqrt(max(1, steps - 1)) + 1)) | {steps}
    return frozenset({0, steps}) | on_the_way("log", 0, steps)


def on_the_way(policy: str, start: int, stop: int) -> frozenset[int]:
    """Return which states between two steps are kept while a walk back replays from one to the other.

    'sqrt' and 'all' keep every one. 'log' keeps the midpoint of what is left, again and again: of T steps log₂ T states
    are there at a time, for log₂ T / 2 replays of each step.
    """
    if policy != "log":
        return frozenset(range(start + 1, stop + 1))
    kept, at = set(), start
    while (at := (at + stop + 1) // 2) < stop:
        kept.add(at)
    return frozenset(kept)


def save(tensors: Tensors, path: Path, *, durable: bool = True) -> None:
    """Write tensors to a file that appears whole or not at all; `durable` also forces them to the disk."""
    plain = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
    if durable:
        put_file(path, partial(save_file, plain))
        return
    temporary = path.with_name(f".{path.name}.tmp")
    save_file(plain, temporary)
    os.replace(temporary, path)


def load(path: Path, device: torch.device) -> Tensors:
    """Read what `save` wrote, into torch's own memory.

    Tensors in a mapped file may be aligned otherwise, and their sums may then differ. What is wider than the device's
    floats stays on the CPU.
    """
    with safe_open(path, "pt") as file:
        return {n: _copied(file.get_tensor(n), device) for n in file.keys()}  # noqa: SIM118


def _copied(tensor: Tensor, device: torch.device) -> Tensor:
    fits = tensor.dtype != torch.float64 or widest(device) == torch.float64
    return tensor.to(device if fits else "cpu", copy=True)


def save_state(state: State, path: Path, *, durable: bool = True) -> None:
    """Write a state; see `save`."""
    save(flat(state), path, durable=durable)


def load_state(path: Path, step: int, device: torch.device) -> State:
    """Read what `save_state` wrote."""
    return unflat(load(path, device), step)


def flat(state: State) -> Tensors:
    """Return a state as one dictionary of tensors."""
    named = {f"parameters.{n}": p for n, p in state.parameters.items()}
    return named | {f"moments.{i}.{n}": m for n, ms in state.moments.items() for i, m in enumerate(ms)}


def unflat(tensors: Tensors, step: int) -> State:
    """Undo `flat`, leaving out what is no part of a state."""
    names = sorted(n for n in tensors if n.startswith("parameters."))
    parameters = {n.removeprefix("parameters."): tensors[n] for n in names}
    moments: dict[str, tuple[Tensor, ...]] = {}
    for name in parameters:
        keys = (f"moments.{i}.{name}" for i in range(2))
        moments[name] = tuple(tensors[key] for key in keys if key in tensors)
    return State(step=step, parameters=parameters, moments=moments)
