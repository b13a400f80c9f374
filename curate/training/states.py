"""The states of a proxy's training that `curate warmup --checkpoints N` left in its folder, loaded on demand."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import xxhash

from curate.errors import CurateError
from curate.proxies.proxy import Proxy, ProxySettings, load_proxy
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

    def moments(self) -> Moments:
        """Read the optimiser's state by parameter name. Raises CurateError where the folder holds none."""
        return read_moments(self.folder)

    def fingerprint(self) -> str:
        """Return a hash of the state's folder and of the type that it is loaded in."""
        digest = xxhash.xxh3_128(f"{self.step} {self.settings.dtype}".encode())
        for path in sorted(p for p in self.folder.rglob("*") if p.is_file()):
            digest.update(path.relative_to(self.folder).as_posix().encode())
            with path.open("rb") as file:
                while block := file.read(1 << 24):
                    digest.update(block)
        return digest.hexdigest()


def checkpoints_of(settings: ProxySettings) -> list[Checkpoint]:
    """Return the states in a proxy's folder, in the order of its training. Raises CurateError where there are none."""
    folders = [p for p in Path(settings.model).expanduser().glob("checkpoints/step-*") if p.name[5:].isdigit()]
    if not folders:
        raise CurateError(
            f"{settings.model} holds no checkpoints of its training: expected folders checkpoints/step-N.",
            hint="`curate warmup --checkpoints 4` keeps them in the proxy that it makes.",
        )
    return [_checkpoint(folder, settings) for folder in sorted(folders, key=lambda p: int(p.name[5:]))]


def _checkpoint(folder: Path, settings: ProxySettings) -> Checkpoint:
    record = folder / RECORD_FILE
    mean_learning_rate = json.loads(record.read_text(encoding="utf-8")).get("mean_lr") if record.exists() else None
    return Checkpoint(
        folder=folder, settings=settings, step=int(folder.name[5:]), mean_learning_rate=mean_learning_rate
    )


def fingerprint_of(checkpoints: Sequence[Checkpoint]) -> str:
    """Return a hash of several states."""
    return xxhash.xxh3_128_hexdigest(",".join(c.fingerprint() for c in checkpoints).encode())
