"""States between two checkpoints while a way back goes through them: in memory up to a bound, in files beyond it.

They follow from a checkpoint and the gradients since, so nothing is lost with a process that ends: no file waits for
the disk.
"""

from pathlib import Path

import torch

from curate.proxies.devices import on_host
from curate.training.checkpoints import flat, load_state, save_state, unflat
from curate.training.gradient_log import bytes_of
from curate.training.optimisers import State

MOST_BYTES = 1 << 30


class PassingStates:
    """States by step."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Open or make the folder for what MOST_BYTES of memory do not hold."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.device, self.most_bytes = folder, device, MOST_BYTES
        self._held: dict[int, State] = {}
        self._bytes = 0

    def put(self, state: State) -> None:
        """Keep a state."""
        if state.step in self._held:
            return
        size = bytes_of(flat(state))
        if self._bytes + size > self.most_bytes:
            save_state(state, self._file(state.step), durable=False)
            return
        self._bytes += size
        self._held[state.step] = self._moved(state)

    def latest(self, step: int) -> int:
        """Return the last step up to `step` whose state is here, or -1."""
        return max((k for k in (*self._held, *self._written()) if k <= step), default=-1)

    def get(self, step: int) -> State:
        """Return a state on the device."""
        if (held := self._held.get(step)) is None:
            return load_state(self._file(step), step, self.device)
        return unflat({n: t.to(self.device, non_blocking=True) for n, t in flat(held).items()}, step)

    def drop_after(self, step: int) -> None:
        """Forget later states."""
        for later in [k for k in self._held if k > step]:
            self._bytes -= bytes_of(flat(self._held.pop(later)))
        for later in [k for k in self._written() if k > step]:
            self._file(later).unlink()

    def _moved(self, state: State) -> State:
        return unflat({n: on_host(t) for n, t in flat(state).items()}, state.step)

    def _written(self) -> list[int]:
        return [int(path.stem) for path in self.folder.glob("*.safetensors")]

    def _file(self, step: int) -> Path:
        return self.folder / f"{step:06d}.safetensors"
