"""What a method is, what it is given, and what it gives back.

A method is a module, here or in another package, whose docstring's first line says what it is. It must have

    Settings            a frozen dataclass; every field has a default
    prepare             (Inputs, Settings) -> Scorer

and may have, where the default does not suit it,

    OFFERS              frozenset of what has a meaning for it: "against" (a control set), "per_token" (scores by
                        token), "store" (from a gradient store, by its scorer: a SketchScorer of one term); none
    NEEDS               frozenset of "model" (its weights; the tokenizer is always there), "background" (a sample of
                        the pool), "checkpoints" (states of the proxy's training), "training" (preparing trains the
                        proxy, so that targets are best prepared together); {"model"}
    BACKGROUND          how many documents of the pool it is fitted on unless told otherwise; 2048
    rehearsal           Settings -> Settings, the small form that a dry run measures; the same settings
    rehearsal_background    Settings -> int, how many background documents that small form takes; 64
    units               (Inputs, Settings, Sizes) -> {what a stage grows with: how many units the whole has}, where that
                        is no number of the Sizes; "pool", where not all documents are computed; "kept", bytes that the
                        small form does not keep; none
    plan                (Inputs, Settings, Sizes, {what a stage grows with: seconds of a unit}) -> Plan, what a dry run
                        tells of the method's own work; none
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from curate.errors import CurateError
from curate.folders.kept import Kept
from curate.gradients.documents import Batching
from curate.gradients.scored import Scored
from curate.progress import Reporter
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoded
from curate.training.states import Checkpoint

OFFERS = frozenset({"against", "per_token", "store"})
NEEDS = frozenset({"model", "background", "checkpoints", "training"})
USUAL_BACKGROUND, REHEARSED = 2048, 64


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
    checkpoints: Sequence[Checkpoint] = ()
    """States of the proxy's training in their order, for methods that need them."""
    whole: "Callable[[], Sizes] | None" = None
    """Estimates how much there is of everything; None where the pool is not what will be scored."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much there is of what a run works on."""

    pool: int
    """Documents, as everything here that is not said to be another thing."""
    background: int
    target: int
    """The control set included."""
    groups: int
    """Groups of the target, and one more for a control set."""

    @classmethod
    def of(cls, pool: int, background: int, target: EncodedTarget, against: EncodedTarget | None) -> "Sizes":
        """Count a target; of a small pool all documents may be background, and no more."""
        return cls(
            pool=pool,
            background=min(background, pool),
            target=len(target.encoded) + (0 if against is None else len(against.encoded)),
            groups=len(target.names) + (against is not None),
        )


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


@runtime_checkable
class Plan(Protocol):
    """What a method foresees of its own work: a dataclass."""

    def rows(self) -> Mapping[str, int | float]:
        """Return its figures by what they are, for a table."""
        ...


@runtime_checkable
class Method(Protocol):
    """A method with all of its members, those that it left out by their defaults."""

    @property
    def description(self) -> str: ...
    @property
    def Settings(self) -> type[Any]: ...
    @property
    def OFFERS(self) -> frozenset[str]: ...
    @property
    def NEEDS(self) -> frozenset[str]: ...
    @property
    def BACKGROUND(self) -> int: ...

    def prepare(self, inputs: Inputs, settings: Any, /) -> Scorer: ...
    def rehearsal(self, settings: Any, /) -> Any: ...
    def rehearsal_background(self, settings: Any, /) -> int: ...
    def units(self, inputs: Inputs, settings: Any, whole: Sizes, /) -> Mapping[str, int | float]: ...
    def plan(self, inputs: Inputs, settings: Any, whole: Sizes, seconds: Mapping[str, float], /) -> Plan | None: ...


def checked(name: str, part: Any) -> Method:
    """Return a method with defaults for what it leaves out. Raises CurateError that names what is missing or odd."""
    if odd := list(_oddities(part)):
        raise CurateError(
            f"Method {name!r} does not keep the contract: {'; '.join(odd)}.",
            hint="The docstring of curate.methods.contract says what a method has.",
        )
    names = [f.name for f in dataclasses.fields(_Checked) if f.name != "description"]
    given = {n: getattr(part, n) for n in names if hasattr(part, n)}
    return _Checked(description=part.__doc__ or "", **given)


@dataclass(frozen=True, kw_only=True)
class _Checked:
    description: str
    Settings: type[Any]
    prepare: Callable[[Inputs, Any], Scorer]
    OFFERS: frozenset[str] = frozenset()
    NEEDS: frozenset[str] = frozenset({"model"})
    BACKGROUND: int = USUAL_BACKGROUND
    rehearsal: Callable[[Any], Any] = lambda settings: settings
    rehearsal_background: Callable[[Any], int] = lambda _: REHEARSED
    units: Callable[[Inputs, Any, Sizes], Mapping[str, int | float]] = lambda *_: {}
    plan: Callable[[Inputs, Any, Sizes, Mapping[str, float]], Plan | None] = lambda *_: None


def _oddities(part: Any) -> Iterator[str]:
    """Yield what keeps something from being a method."""
    settings = getattr(part, "Settings", None)
    if not (isinstance(settings, type) and dataclasses.is_dataclass(settings)):
        yield "it has no dataclass Settings"
    else:
        if not settings.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            yield "Settings is not frozen"
        for f in dataclasses.fields(settings):
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
                yield f"Settings.{f.name} has no default"
    if not callable(getattr(part, "prepare", None)):
        yield "it has no prepare(inputs, settings)"
    for name in ("rehearsal", "rehearsal_background", "units", "plan"):
        if hasattr(part, name) and not callable(getattr(part, name)):
            yield f"{name} cannot be called"
    for name, allowed in (("OFFERS", OFFERS), ("NEEDS", NEEDS)):
        given = getattr(part, name, frozenset())
        if not isinstance(given, frozenset) or not given <= allowed:
            yield f"{name} is {given!r}, expected a frozenset of {', '.join(sorted(allowed))}"
    background = getattr(part, "BACKGROUND", 1)
    if not isinstance(background, int) or background < 1:
        yield f"BACKGROUND is {background!r}, expected at least 1"
