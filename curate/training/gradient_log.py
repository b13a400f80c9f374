"""The gradients of a run's steps: in memory up to a bound, in files beyond it.

With them the way back needs no forward or backward pass to get from a checkpoint to a step. They can be computed again,
so nothing is lost with a process that ends: no file waits for the disk.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError

from curate.proxies.devices import on_host
from curate.training.checkpoints import load, save
from curate.training.optimisers import Tensors

MOST_BYTES = 2 << 30


class GradientLog:
    """Gradients and losses by step."""

    def __init__(self, folder: Path, device: torch.device, *, most_bytes: int | None = None) -> None:
        """Open or make the folder for what `most_bytes` of memory (None: MOST_BYTES) do not hold."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.device = folder, device
        self.most_bytes = MOST_BYTES if most_bytes is None else most_bytes
        self._held: dict[int, Tensors] = {}
        self._bytes = 0
        self.losses: dict[int, float] = {}
        """Of the steps that this process computed, in nats per token at w = 1."""

    def get(self, step: int) -> Tensors | None:
        """Return a step's gradients on the device; None where they are not kept."""
        if (held := self._held.get(step)) is not None:
            return {name: tensor.to(self.device, non_blocking=True) for name, tensor in held.items()}
        path = self._file(step)
        try:
            return load(path, self.device)
        except (FileNotFoundError, SafetensorError):  # torn where the machine, not the process, stopped
            return None

    def put(self, step: int, gradients: Tensors, loss: float) -> None:
        """Keep a step's gradients."""
        self.losses[step] = loss
        size = bytes_of(gradients)
        if self._bytes + size > self.most_bytes:
            save(gradients, self._file(step), durable=False)
            return
        self._bytes += size
        self._held[step] = {name: on_host(gradient) for name, gradient in gradients.items()}

    def drop_after(self, step: int) -> None:
        """Forget the gradients of later steps."""
        for later in [k for k in self._held if k > step]:
            self._bytes -= bytes_of(self._held.pop(later))
        for path in self.folder.glob("*.safetensors"):
            if int(path.stem) > step:
                path.unlink()

    def _file(self, step: int) -> Path:
        return self.folder / f"{step:06d}.safetensors"


def bytes_of(tensors: Tensors) -> int:
    """Return what tensors take together."""
    return sum(t.numel() * t.element_size() for t in tensors.values())
