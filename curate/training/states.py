"""The states of a proxy's training in its folder, loaded on demand: of `curate warmup`, or of transformers' Trainer."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import xxhash
from torch import nn

from curate.errors import CurateError
from curate.folders.local import is_in_store
from curate.proxies.loading import find
from curate.proxies.proxy import Proxy, ProxySettings, load_proxy
from curate.training import trainer_moments
from curate.training.moments import RECORD_FILE, Moments, read_moments


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One state of a proxy's training; weights and moments are read on demand."""

    folder: Path
    settings: ProxySettings
    """Of the proxy itself: the state is loaded with the same layers, type and device."""
    step: int
    mean_learning_rate: float | None
    """Mean learning rate since the state before: η of LESS (arXiv 2402.04333, §4); None where it is not recorded."""

    def proxy(self) -> Proxy:
        """Load the model as it was after this step."""
        return load_proxy(self.settings, weights=self.folder)

    def moments(self, model: nn.Module) -> Moments:
        """Read the optimiser's state by the names of the model's parameters.

        Raises CurateError where the folder holds none, or where numbered moments cannot be told apart.
        """
        if (self.folder / trainer_moments.STATE_FILE).exists():
            return trainer_moments.read_trainer_moments(self.folder, model)
        return read_moments(self.folder)

    def fingerprint(self) -> str:
        """Return a hash of the state's folder and of the type that it is loaded in."""
        return self._digest

    @cached_property
    def _digest(self) -> str:  # gigabytes are read for it: once
        digest = xxhash.xxh3_128(f"{self.step} {self.settings.dtype}".encode())
        for path in sorted(p for p in self.folder.rglob("*") if p.is_file()):
            digest.update(path.relative_to(self.folder).as_posix().encode())
            with path.open("rb") as file:
                while block := file.read(1 << 24):
                    digest.update(block)
        return digest.hexdigest()


def checkpoints_of(settings: ProxySettings) -> list[Checkpoint]:
    """Return the states in a proxy's folder, in the order of its training. Raises CurateError where there are none.

    They are checkpoints/step-N of `curate warmup`, or checkpoint-N of transformers' Trainer; where the proxy is itself
    a checkpoint-N of the Trainer, it and those before it.
    """
    folder = _folder_of(settings.model)
    if states := _numbered(folder, "checkpoints/step-*"):
        rates = [_recorded_rate(state) for state in states]
    elif states := _numbered(folder, "checkpoint-*") or _until(folder):
        rates = trainer_moments.mean_learning_rates(states)
    else:
        raise CurateError(
            f"{settings.model} holds no checkpoints of its training: expected folders checkpoints/step-N, or"
            " checkpoint-N as transformers' Trainer writes them.",
            hint="`curate warmup --checkpoints 4` keeps them in the proxy that it makes; of the Trainer's folder give"
            " the last checkpoint-N. Methods such as ekfac need none.",
        )
    return [
        Checkpoint(folder=state, settings=settings, step=_number(state), mean_learning_rate=rate)
        for state, rate in zip(states, rates, strict=True)
    ]


def _folder_of(model: str) -> Path:
    """Return a model's folder here; of a Trainer's checkpoint in an object store, a copy with those before it."""
    above, _, name = model.rstrip("/").rpartition("/")
    if is_in_store(model) and name.startswith("checkpoint-"):
        return Path(find(above)) / name
    return Path(find(model))


def _numbered(folder: Path, pattern: str) -> list[Path]:
    return sorted((p for p in folder.glob(pattern) if p.name.rpartition("-")[2].isdigit()), key=_number)


def _until(folder: Path) -> list[Path]:
    """Return a Trainer's checkpoint and those before it; none where the folder is no such checkpoint."""
    folder = folder.resolve()
    if not (folder / trainer_moments.STATE_FILE).exists():
        return []
    states = _numbered(folder.parent, "checkpoint-*")
    return states[: states.index(folder) + 1] if folder in states else []


def _number(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _recorded_rate(state: Path) -> float | None:
    record = state / RECORD_FILE
    return json.loads(record.read_text(encoding="utf-8")).get("mean_lr") if record.exists() else None


def fingerprint_of(checkpoints: Sequence[Checkpoint]) -> str:
    """Return a hash of several states."""
    return xxhash.xxh3_128_hexdigest(",".join(c.fingerprint() for c in checkpoints).encode())


def sharing(proxy: Proxy, checkpoints: Sequence[Checkpoint]) -> list[Proxy]:
    """Load states of a proxy's training; each shares with the proxy the weights that are the same in both.

    Of adapters this leaves one base model in memory, however many states there are.
    """
    ours = dict(proxy.model.named_parameters())
    states: list[Proxy] = []
    for checkpoint in checkpoints:
        state = checkpoint.proxy()
        for name, parameter in state.model.named_parameters():
            if name in ours and torch.equal(ours[name], parameter):
                parameter.data = ours[name].data
        states.append(state)
    return states
