"""The contract of methods: what a method is, what it gets, and what it returns.

A method is a module, here or in another package, whose docstring's first line says what it is. It must have

    Settings            a frozen dataclass; every field has a default
    prepare             (Inputs, Settings) -> Scorer

and may have, where the default does not suit it,

    OFFERS              frozenset of what has a meaning for it: "against" (a control set), "aggregate" (how rows make
                        groups' scores, and those the whole's), "per_token" (scores by token), "store" (from a gradient
                        store: its scorer is a StoreScorer); none
    STORE               a StoreKind, what the stores keep that it scores from; methods of one kind share them; none
    NEEDS               frozenset of "model" (its weights; the tokenizer is always there), "background" (a sample of
                        the pool), "checkpoints" (states of the proxy's training), "training" (preparing trains the
                        proxy, so that targets are best prepared together); {"model"}
    AGGREGATION         how rows and groups make scores where nothing else is given; means
    BACKGROUND          default number of documents of the pool that it is fitted on; 2048
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
from curate.gradients.aggregation import MEANS, Aggregation
from curate.gradients.documents import Batching
from curate.gradients.roots import Whitening
from curate.gradients.scored import Scored, StoredQueries
from curate.gradients.sketches import Block
from curate.gradients.slices import SliceRunner, runner_here
from curate.progress import Reporter
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoded
from curate.training.states import Checkpoint

OFFERS = frozenset({"against", "aggregate", "per_token", "store"})
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
        """Return the given rows by group."""
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
    """Reads the background sample on demand, so that a method without curvature never does."""
    background_fingerprint: str
    batching: Batching
    kept: Kept[dict[str, Tensor]]
    reporter: Reporter
    against: EncodedTarget | None = None
    """A control set, whose mean query is subtracted from the target's and from each group's."""
    aggregation: Aggregation = MEANS
    """How the target's rows make the columns of scores."""
    per_token: bool = False
    """Whether to score tokens, too."""
    stored: "Stored | None" = None
    """A store with the background's sketches, for methods that offer "store"."""
    record: Callable[[Mapping[str, object]], None] = lambda _: None
    """Writes measurements to the run's record, under the method's own names."""
    checkpoints: Sequence[Checkpoint] = ()
    """States of the proxy's training in their order, for methods that need them."""
    whole: "Callable[[], Sizes] | None" = None
    """Estimates the sizes of the run; None where the pool is not what will be scored."""
    runner: SliceRunner | None = None
    """Who does the slices of a fit: workers, or None: this process."""

    @property
    def slice_runner(self) -> SliceRunner:
        """What does the slices of a fit."""
        return self.runner or runner_here(self.proxy, self.batching)

    @property
    def proxy_keys(self) -> dict[str, object]:
        """All that the proxy's gradients depend on, beyond rounding, for `kept`."""
        device, settings = self.proxy.device.type, self.proxy.settings
        rounded = {"precision": settings.precision} if device == "cuda" and settings.dtype == "float32" else {}
        tables = {"tables": self.proxy.tables} if self.proxy.tables else {}
        return {
            "proxy": self.proxy_fingerprint,
            "tracked": self.proxy.tracked,
            "tokens": self.batching.tokens,
            "device": device,
            **tables,
            **rounded,
        }


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of what a run works on."""

    pool: int
    """In documents, as all sizes here unless noted."""
    background: int
    target: int
    """The control set included."""
    groups: int
    """Groups of the target, and one more for a control set."""

    @classmethod
    def of(cls, pool: int, background: int, target: EncodedTarget, against: EncodedTarget | None) -> "Sizes":
        """Count a target; the background is at most the whole pool."""
        return cls(
            pool=pool,
            background=min(background, pool),
            target=len(target.encoded) + (0 if against is None else len(against.encoded)),
            groups=len(target.names) + (against is not None),
        )


@runtime_checkable
class Stored(Protocol):
    """Sketches kept earlier."""

    def background(self) -> Iterator[Float[Tensor, "documents sketch"]]:
        """Yield the sketches of the background sample, of summed losses."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """Score any number of documents against the target."""

    def __call__(self, encoded: Sequence[Encoded], batching: Batching) -> Scored: ...


@runtime_checkable
class RowScorer(Scorer, Protocol):
    """A scorer that can tell the target's rows apart."""

    def by_row(self, document: Encoded, rows: Sequence[Encoded], batching: Batching) -> Float[Tensor, "targets"] | None:
        """Return a document's score for every row alone, as if it were the whole target; None where it has none.

        Their mean over a group's rows is the group's score, but for a control set's, which is not subtracted.
        """
        ...


@runtime_checkable
class StoreScorer(Scorer, Protocol):
    """A scorer whose scores a store gives, too."""

    def stored(self) -> StoredQueries: ...


@dataclass(frozen=True, kw_only=True)
class StoredSketches:
    """What a store keeps of some of the documents that were handed in."""

    documents: tuple[int, ...]
    """Their positions in the sequence that was handed in."""
    values: Float[Tensor, "documents sketch"]
    losses: Float[Tensor, "documents"]
    """Summed over scored tokens, in nats."""
    norms: Float[Tensor, "documents"]
    """Gradient norms; not finite where anything of the gradient is not."""


@runtime_checkable
class Sketcher(Protocol):
    """Compute what a store keeps of documents."""

    @property
    def blocks(self) -> Sequence[Block]:
        """The parts of a sketch that int8 scales, and a whitening changes, one by one."""
        ...

    def __call__(self, encoded: Sequence[Encoded], batching: Batching) -> Iterator[StoredSketches]: ...

    def queries(self, encoded: Sequence[Encoded], batching: Batching) -> Iterator[StoredSketches]:
        """Yield sketches of documents by which nearest ones are looked for."""
        ...


@dataclass(frozen=True, kw_only=True)
class StoreKind:
    """What gradient stores of one method keep."""

    method: str
    """The method that they are indexed for."""
    Settings: type[Any]
    """Those of the method's settings that decide what is kept, as a dataclass."""
    sketcher: Callable[[Proxy, Sequence[Checkpoint], Any], Sketcher]
    whitening: Callable[[Inputs, Any], Whitening]
    """Returns how sketches are whitened before their cosines say which documents are near."""
    plain_norms: bool
    """Whether a method of this kind takes cosines of sketches as they lie."""


@runtime_checkable
class Plan(Protocol):
    """A method's estimate of its own work: a dataclass."""

    def rows(self) -> Mapping[str, int | float | str]:
        """Return its figures by description, for a table."""
        ...


@runtime_checkable
class Method(Protocol):
    """A method with all members, defaults included."""

    @property
    def description(self) -> str: ...
    @property
    def Settings(self) -> type[Any]: ...
    @property
    def OFFERS(self) -> frozenset[str]: ...
    @property
    def NEEDS(self) -> frozenset[str]: ...
    @property
    def AGGREGATION(self) -> Aggregation: ...
    @property
    def BACKGROUND(self) -> int: ...
    @property
    def STORE(self) -> StoreKind | None: ...

    def prepare(self, inputs: Inputs, settings: Any, /) -> Scorer: ...
    def rehearsal(self, settings: Any, /) -> Any: ...
    def rehearsal_background(self, settings: Any, /) -> int: ...
    def units(self, inputs: Inputs, settings: Any, whole: Sizes, /) -> Mapping[str, int | float]: ...
    def plan(self, inputs: Inputs, settings: Any, whole: Sizes, seconds: Mapping[str, float], /) -> Plan | None: ...


def checked(name: str, module: Any) -> Method:
    """Return a method with defaults for what it leaves out. Raises CurateError that names what is wrong."""
    if oddities := list(_oddities(module)):
        raise CurateError(
            f"Method {name!r} does not keep the contract: {'; '.join(oddities)}.",
            hint="See the docstring of curate.methods.contract for what a method has.",
        )
    names = [f.name for f in dataclasses.fields(_Checked) if f.name != "description"]
    members = {n: getattr(module, n) for n in names if hasattr(module, n)}
    return _Checked(description=module.__doc__ or "", **members)


@dataclass(frozen=True, kw_only=True)
class _Checked:
    description: str
    Settings: type[Any]
    prepare: Callable[[Inputs, Any], Scorer]
    OFFERS: frozenset[str] = frozenset()
    NEEDS: frozenset[str] = frozenset({"model"})
    AGGREGATION: Aggregation = MEANS
    BACKGROUND: int = USUAL_BACKGROUND
    STORE: StoreKind | None = None
    rehearsal: Callable[[Any], Any] = lambda settings: settings
    rehearsal_background: Callable[[Any], int] = lambda _: REHEARSED
    units: Callable[[Inputs, Any, Sizes], Mapping[str, int | float]] = lambda *_: {}
    plan: Callable[[Inputs, Any, Sizes, Mapping[str, float]], Plan | None] = lambda *_: None


def _oddities(module: Any) -> Iterator[str]:
    """Yield what a module lacks to be a method."""
    settings = getattr(module, "Settings", None)
    if not (isinstance(settings, type) and dataclasses.is_dataclass(settings)):
        yield "it has no dataclass Settings"
    else:
        if not settings.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            yield "Settings is not frozen"
        for setting in dataclasses.fields(settings):
            if setting.default is dataclasses.MISSING and setting.default_factory is dataclasses.MISSING:
                yield f"Settings.{setting.name} has no default"
    if not callable(getattr(module, "prepare", None)):
        yield "it has no prepare(inputs, settings)"
    for name in ("rehearsal", "rehearsal_background", "units", "plan"):
        if hasattr(module, name) and not callable(getattr(module, name)):
            yield f"{name} cannot be called"
    for name, allowed in (("OFFERS", OFFERS), ("NEEDS", NEEDS)):
        flags = getattr(module, name, frozenset())
        if not isinstance(flags, frozenset) or not flags <= allowed:
            yield f"{name} is {flags!r}; expected a frozenset of {', '.join(sorted(allowed))}"
    if not isinstance(store := getattr(module, "STORE", None), StoreKind | None):
        yield f"STORE is {store!r}; expected a StoreKind"
    elif ("store" in getattr(module, "OFFERS", ())) != (store is not None):
        yield 'it offers "store" and has no STORE, or has one and does not offer it'
    background = getattr(module, "BACKGROUND", 1)
    if not isinstance(background, int) or background < 1:
        yield f"BACKGROUND is {background!r}; expected at least 1"
