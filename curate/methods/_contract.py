"""What a method is given, what it gives back, and where it may keep what was expensive."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import xxhash
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from curate.atomic import atomic_write
from curate.gradients.documents import Batching
from curate.gradients.scored import Scored
from curate.models import Proxy
from curate.progress import Reporter
from curate.tokens import Encoded

# Raised whenever a fit or a solve comes to mean something else, so that no older run's tensors are taken for it.
ALGORITHMS = 2


@dataclass(frozen=True, kw_only=True)
class EncodedTarget:
    """The target as tokens."""

    encoded: Sequence[Encoded]
    groups: Sequence[str]
    """Aligned with `encoded`."""
    names: Sequence[str]
    """The distinct groups, sorted."""
    fingerprint: str

    @property
    def columns(self) -> int:
        """How many score columns there are: one for all, then one per group when there are several."""
        return 1 if len(self.names) < 2 else 1 + len(self.names)

    def by_group(self, rows: Sequence[int]) -> dict[str, list[int]]:
        """Return which of some rows belong to each group."""
        return {name: [i for i in rows if self.groups[i] == name] for name in self.names}

    def ungrouped(self) -> "EncodedTarget":
        """Return the same rows as one group: what a control set is."""
        return replace(self, groups=[""] * len(self.encoded), names=[""])


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """All that a method may prepare on."""

    proxy: Proxy
    proxy_fingerprint: str
    target: EncodedTarget
    background: Callable[[], Sequence[Encoded]]
    """Reads the background sample when it is asked for, so that a method without curvature never does."""
    background_fingerprint: str
    batching: Batching
    kept: "Kept"
    reporter: Reporter
    against: EncodedTarget | None = None
    """A control set, whose mean query is subtracted from the target's and from each group's."""
    per_token: bool = False
    """Whether scores are wanted by token, too."""
    stored: "Stored | None" = None
    """A store that has the sketches of the background already; of the methods that offer it."""
    record: Callable[[Mapping[str, object]], None] = lambda _: None
    """Takes what was measured on the way into the run's record, under names of the method's own."""


@runtime_checkable
class Stored(Protocol):
    """Where sketches were kept."""

    def background(self) -> Iterator[Float[Tensor, "documents sketch"]]:
        """Yield the sketches of the background sample, of summed losses."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """Scores documents against the target, any number of them at a time."""

    def __call__(self, encoded: Sequence[Encoded], batching: Batching) -> Scored: ...


class Kept:
    """Tensors of a run that were expensive to make, by name and by a fingerprint of all that they depend on.

    They are looked for in the run itself, then in its neighbours, so that a second run with the same target, model and
    settings does not compute them again.
    """

    def __init__(self, run: Path, neighbours: Sequence[Path] = ()) -> None:
        self.run, self.neighbours = run, neighbours

    def get(
        self, name: str, depends_on: Mapping[str, object], make: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Return the tensors kept under `name` for exactly these dependencies, making and keeping them if need be."""
        key = xxhash.xxh3_64_hexdigest(repr([ALGORITHMS, *sorted(depends_on.items())]).encode())
        where = Path(name).with_name(f"{Path(name).name}-{key}.safetensors")
        if (own := _load(self.run / where)) is not None:
            return own
        (self.run / where).parent.mkdir(parents=True, exist_ok=True)
        for run in self.neighbours:
            if (theirs := _load(run / where)) is not None:
                with atomic_write(self.run / where) as temporary:
                    _same_file(run / where, temporary)
                return theirs
        tensors = make()
        with atomic_write(self.run / where) as temporary:
            save_file({k: v.contiguous() for k, v in tensors.items()}, temporary)
        del tensors
        # Read back, so that the first use and every later one see the same memory layout and give the same bits.
        made = _load(self.run / where)
        assert made is not None
        return made


def _same_file(source: Path, copy: Path) -> None:
    """Give a file a second name where the file system can (curvature takes gigabytes), else copy it."""
    copy.unlink(missing_ok=True)
    try:
        os.link(source, copy)
    except OSError:
        shutil.copyfile(source, copy)


def _load(path: Path) -> dict[str, Tensor] | None:
    """Return the tensors of a file; None where there is none, or where it is damaged and is better made again."""
    if not path.exists():
        return None
    try:
        # Copies, since a file's tensors lie wherever they fell, and BLAS rounds differently by alignment.
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
