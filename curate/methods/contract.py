"""What a method is given, what it gives back, and where it may keep what was expensive."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from curate.folders.kept import Kept
from curate.gradients.documents import Batching
from curate.gradients.scored import Scored
from curate.progress import Reporter
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoded


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
    kept: Kept[dict[str, Tensor]]
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
