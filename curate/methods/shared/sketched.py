"""Sketch methods: sketch the target once and the background once, and keep both in the run.

The background is a sample of the pool, so its documents come by again when the pool is scored. Where it is a fair share
of the pool, its sketches are kept, and those documents' scores are read off them: the same ones in every process.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from curate.gradients.aggregation import Queries
from curate.gradients.documents import Batching, DocumentSketches, document_sketches
from curate.gradients.scored import Scored, in_order
from curate.gradients.scoring import SketchScorer
from curate.gradients.shapes import DIM, RANK
from curate.gradients.sketches import Block, SketchEngine, layer_blocks
from curate.gradients.slices import OpenSlices, Take, Tensors, cut
from curate.jobs import Advance
from curate.methods.contract import EncodedTarget, Inputs, Scorer, Sizes, StoredSketches
from curate.methods.shared.target import usable_rows
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoded
from curate.settings import Count, least, option, settings

OFFERS = frozenset({"against", "aggregate", "store"})

# Below this share of the pool, keeping saves too little time; above these bytes, it takes too much room.
LEAST_SHARE, MOST_BYTES = 0.02, 2e9


@settings
class SketchSettings:
    """How gradients are projected."""

    dim: Annotated[Count, least(1)] = option(
        default=DIM,
        help="Projection dimensions per side and layer: a layer's sketch has their square. More is more exact.",
    )
    rank: Annotated[Count, least(0)] = option(
        default=RANK, help="Rank of each layer of a document's sketch, a low-rank approximation; 0: whole."
    )
    seed: Count = option(default=0, help="Seed of the projections.")


@dataclass(frozen=True, kw_only=True)
class StoreSketcher:
    """Sketch documents for a store, queries as they are."""

    engine: SketchEngine

    @property
    def blocks(self) -> Sequence[Block]:
        return self.engine.blocks

    def __call__(self, encoded: Sequence[Encoded], batching: Batching) -> Iterator[StoredSketches]:
        for batch in document_sketches(self.engine, encoded, batching):
            norms = batch.values.norm(dim=1)
            yield StoredSketches(documents=batch.documents, values=batch.values, losses=batch.losses, norms=norms)

    queries = __call__


@dataclass(frozen=True, kw_only=True)
class TargetSketches:
    """The target's usable documents."""

    values: Float[Tensor, "targets sketch"]
    """Gradients of the mean loss per scored token, projected."""
    num_scored: Float[Tensor, "targets"]
    """Tokens that carried loss; `values` times these are gradients of summed losses, as documents of the pool have."""
    groups: list[str]


def target_sketches(engine: SketchEngine, inputs: Inputs, settings: SketchSettings) -> TargetSketches:
    """Sketch every target document, or read the sketches kept in the run; set aside those that are not finite."""
    return _sketches(engine, inputs, settings, inputs.target)


def queries(
    engine: SketchEngine,
    inputs: Inputs,
    settings: SketchSettings,
    target: TargetSketches,
    prepare: Callable[[Tensor], Tensor],
) -> Queries:
    """Return the queries of the target's prepared sketches, less the control set's mean."""
    of_target = inputs.aggregation.queries(prepare(target.values), target.groups, inputs.target.names)
    if inputs.against is None:
        return of_target
    control = _sketches(engine, inputs, settings, inputs.against.ungrouped())
    return of_target.less(prepare(control.values).mean(0))


@dataclass(frozen=True, kw_only=True)
class BackgroundSketches:
    """Every background document's sketch and loss, on the CPU, slice after slice."""

    values: Float[Tensor, "documents sketch"]
    losses: Float[Tensor, "documents"]
    sizes: Sequence[int]
    """Of the batches: sums over batches come out the same to the last bit."""
    places: Mapping[str, int]
    """By content hash."""

    def scorer(self, scorer: SketchScorer) -> "RememberingScorer":
        """Return a scorer of one term that reads these documents' scores off their sketches."""
        (term,) = scorer.terms
        parts = [scorer.products(term, v.to(term.queries.values)) for v in self.values.split(list(self.sizes))]
        products, norms = (torch.cat([part[i].cpu() for part in parts]) for i in (0, 1))
        scores = term.queries.columns(products)
        scored = Scored(scores=scores, losses=self.losses.float(), norms=norms)
        return RememberingScorer(scorer=scorer, places=self.places, scored=scored)


@dataclass(frozen=True, kw_only=True)
class RememberingScorer:
    """Look up the scores of background documents, and score all others."""

    scorer: Scorer
    places: Mapping[str, int]
    """By content hash, the same for every copy of a document."""
    scored: Scored

    def __call__(self, encoded: Sequence[Encoded], batching: Batching) -> Scored:
        """Return every document's scores; whether one is looked up depends on its content alone."""
        places = [self.places.get(e.content_hash, -1) for e in encoded]
        old, new = ([i for i, p in enumerate(places) if (p >= 0) == is_old] for is_old in (True, False))
        at = [places[i] for i in old]
        assert self.scored.losses is not None
        assert self.scored.norms is not None
        remembered = Scored(scores=self.scored.scores[at], losses=self.scored.losses[at], norms=self.scored.norms[at])
        return in_order([(old, remembered), (new, self.scorer([encoded[i] for i in new], batching))])


def kept_background(engine: SketchEngine, inputs: Inputs, settings: SketchSettings) -> BackgroundSketches | None:
    """Return the background's sketches, made once and kept in the run; None where that does not pay.

    The choice follows from the pool's files and the settings alone, so that a continued run makes the same one.
    """
    if inputs.stored is not None or inputs.whole is None or not pays(inputs.whole(), inputs, settings):
        return None
    keys = depends_on(inputs, settings) | {"background": inputs.background_fingerprint}
    kept = inputs.kept.get("background/sketches", keys, lambda: _gathered(engine, inputs, settings))
    hashes = [bytes(row).hex() for row in kept["hashes"].numpy()]
    return BackgroundSketches(
        values=kept["values"],
        losses=kept["losses"],
        sizes=kept["sizes"].tolist(),
        places={h: i for i, h in enumerate(hashes)},
    )


def pays(whole: Sizes, inputs: Inputs, settings: SketchSettings) -> bool:
    """Return whether the background's sketches are worth keeping for the pool's scores."""
    share = whole.background / max(1, whole.pool)
    return share >= LEAST_SHARE and bytes_of(whole, inputs, settings) <= MOST_BYTES


def bytes_of(whole: Sizes, inputs: Inputs, settings: SketchSettings) -> int:
    """Return the bytes of the background's sketches."""
    width = max(block.stop for block in layer_blocks(inputs.proxy, settings.dim).values())
    return whole.background * width * max(4, inputs.proxy.dtype.itemsize)


def reduced_background(
    engine: SketchEngine,
    inputs: Inputs,
    settings: SketchSettings,
    reduce: "Reduce",
    take: Take,
    kept: BackgroundSketches | None = None,
) -> None:
    """Hand `take` what `reduce` makes of the background's sketches: of all kept ones, of a store's, or slice by slice.

    `reduce` pickles.
    """
    if kept is None and inputs.stored is None:
        _sketch_slices(inputs, settings, partial(_of_values, reduce), take)
        return
    parts = kept.values.split(list(kept.sizes)) if kept is not None else _stored(inputs)
    take(reduce(engine, (values.to(inputs.proxy.device, engine.dtype) for values in parts)))


Reduce = Callable[[SketchEngine, Iterator[Float[Tensor, "documents sketch"]]], Tensors]


def _stored(inputs: Inputs) -> Iterator[Float[Tensor, "documents sketch"]]:
    assert inputs.stored is not None
    return inputs.stored.background()


def _of_values(reduce: Reduce, engine: SketchEngine, batches: Iterator[DocumentSketches]) -> Tensors:
    return reduce(engine, (batch.values for batch in batches))


@dataclass(frozen=True, kw_only=True)
class SketchWork:
    """Sketch the documents of a slice, and return what `reduce` makes of them."""

    dim: int
    seed: int
    reduce: Callable[[SketchEngine, Iterator[DocumentSketches]], Tensors]
    """It pickles."""

    def open(self, proxy: Proxy, batching: Batching, state: Tensors) -> OpenSlices:
        """Return what sketches slices: documents by position."""
        engine = SketchEngine(proxy, dim=self.dim, seed=self.seed)

        def do(documents: Mapping[int, Encoded], advance: Advance) -> Tensors:
            batching.room.begin_anew("sketches")
            return self.reduce(engine, _placed(engine, documents, batching, advance))

        return do


def _placed(
    engine: SketchEngine, documents: Mapping[int, Encoded], batching: Batching, advance: Advance
) -> Iterator[DocumentSketches]:
    places = list(documents)
    for batch in document_sketches(engine, list(documents.values()), batching):
        yield replace(batch, documents=tuple(places[i] for i in batch.documents))
        advance(len(batch.documents))


def _sketch_slices(
    inputs: Inputs,
    settings: SketchSettings,
    reduce: Callable[[SketchEngine, Iterator[DocumentSketches]], Tensors],
    take: Take,
) -> None:
    encoded = inputs.background()
    slices = [{i: encoded[i] for i in members} for members in cut({i: len(e.ids) for i, e in enumerate(encoded)})]
    work = SketchWork(dim=settings.dim, seed=settings.seed, reduce=reduce)
    with inputs.reporter.stage("background", total=len(encoded), grows="background") as task:
        inputs.slice_runner(work, slices, take, task, {})


def _gathered(engine: SketchEngine, inputs: Inputs, settings: SketchSettings) -> dict[str, Tensor]:
    encoded = inputs.background()
    values = torch.empty(len(encoded), engine.width, dtype=engine.dtype)
    losses, order, sizes = torch.empty(len(encoded), dtype=torch.float64), list[int](), list[int]()

    def take(part: Tensors) -> None:
        block = slice(len(order), len(order) + len(part["documents"]))
        values[block], losses[block] = part["values"], part["losses"]
        order.extend(part["documents"].tolist())
        sizes.extend(part["sizes"].tolist())

    _sketch_slices(replace(inputs, background=lambda: encoded), settings, _whole, take)
    hashes = [list(bytes.fromhex(encoded[i].content_hash)) for i in order]
    return {
        "values": values,
        "losses": losses,
        "sizes": torch.tensor(sizes, dtype=torch.int64),
        "hashes": torch.tensor(hashes, dtype=torch.uint8).view(len(hashes), 16),
    }


def _whole(engine: SketchEngine, batches: Iterator[DocumentSketches]) -> Tensors:
    """Return all of a slice's sketches, as they are kept."""
    parts = [(b.documents, b.values.cpu(), b.losses.cpu().double()) for b in batches]
    return {
        "values": torch.cat([values for _, values, _ in parts]).to(engine.dtype),
        "losses": torch.cat([losses for _, _, losses in parts]),
        "documents": torch.tensor([i for documents, _, _ in parts for i in documents]),
        "sizes": torch.tensor([len(documents) for documents, _, _ in parts]),
    }


def _sketches(engine: SketchEngine, inputs: Inputs, settings: SketchSettings, target: EncodedTarget) -> TargetSketches:
    keys = depends_on(inputs, settings) | {"target": target.fingerprint}
    kept = inputs.kept.get("target/sketches", keys, lambda: _sketch(engine, inputs, target.encoded))
    values = kept["values"].to(inputs.proxy.device)
    rows = usable_rows(target, torch.isfinite(values).all(1).tolist(), inputs.reporter)
    num_scored = torch.tensor([e.num_scored for e in target.encoded]).to(values)
    groups = [target.groups[i] for i in rows]
    return TargetSketches(values=values[rows], num_scored=num_scored[rows], groups=groups)


def depends_on(inputs: Inputs, settings: SketchSettings) -> dict[str, object]:
    """Return all that sketches depend on beside the documents, for `Kept`."""
    return inputs.proxy_keys | {"dim": settings.dim, "seed": settings.seed}


def _sketch(engine: SketchEngine, inputs: Inputs, encoded: Sequence[Encoded]) -> dict[str, Tensor]:
    sketches: dict[int, Tensor] = {}
    with inputs.reporter.stage("target", total=len(encoded), grows="target") as stage:
        for batch in document_sketches(engine, encoded, inputs.batching):
            for i, sketch in zip(batch.documents, batch.values, strict=True):
                sketches[i] = (sketch / encoded[i].num_scored).cpu()
            stage.advance(len(batch.documents))
    return {"values": torch.stack([sketches[i] for i in range(len(encoded))])}
