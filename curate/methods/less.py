"""LESS: cosines of projected LoRA gradients along a warm-up, documents' corrected by Adam's moments.

At every checkpoint a document's feature is the gradient g of its mean token loss by all adapters as one vector, turned
into the step that Adam would take, Γ = (β₁m + (1-β₁)g) / √(β₂v + (1-β₂)g² + 1e-8), with the checkpoint's moments and
no bias correction; the target's features are plain gradients. Both are projected to `dim` numbers and brought to
norm 1; a score is the sum of their cosines over the checkpoints, weighted by the mean learning rates, averaged over a
group's rows, and the best of the groups (Xia et al. 2024, arXiv 2402.04333, §3 and §4, and its released code).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from curate import amounts
from curate.gradients.aggregation import Aggregation, Queries
from curate.gradients.documents import Batching
from curate.gradients.features import Correction, FeatureEngine
from curate.gradients.scored import Scored, StoredQueries
from curate.gradients.scoring import normalised
from curate.gradients.whole_projections import whole_projection
from curate.methods.contract import EncodedTarget, Inputs, Sizes
from curate.methods.shared.features import STORE as STORE
from curate.methods.shared.features import FeatureSettings, StoreSketcher, weights_of
from curate.methods.shared.target import usable_rows
from curate.proxies.tokens import Encoded
from curate.schema import AT_STEP, slug
from curate.settings import option, settings
from curate.training.states import Checkpoint

OFFERS = frozenset({"against", "aggregate", "store"})
NEEDS = frozenset({"model", "checkpoints"})
AGGREGATION = Aggregation(rows="mean", groups="max")


@settings
class Settings(FeatureSettings):
    """How features become scores."""

    weights: Literal["rates", "equal"] = option(
        default="rates", help="Weigh checkpoints by their mean learning rates, or alike."
    )


@dataclass(frozen=True, kw_only=True)
class State:
    """One checkpoint's part of a score."""

    step: int
    weight: float
    engine: FeatureEngine
    correction: Correction | None
    queries: Queries


@dataclass(frozen=True, kw_only=True)
class LessScorer:
    """Score documents by their features' cosines with the target's at every checkpoint."""

    states: Sequence[State]
    columns: Sequence[str]
    """Of the parts at single checkpoints, after their step: "" for the whole target, then "_<group>"."""

    def __call__(self, encoded: Sequence[Encoded], batching: Batching) -> Scored:
        """Return every document's scores, and each checkpoint's part of them; loss and norm are the last's."""
        losses, norms = torch.zeros(len(encoded)), torch.zeros(len(encoded))
        by_state: list[Tensor] = []
        for state in self.states:
            values = state.queries.values
            products = torch.zeros(len(encoded), len(values), dtype=values.dtype)
            for features in state.engine(encoded, batching, state.correction):
                index = torch.tensor(features.documents)
                cosines = normalised(features.values) @ values.T
                cosines[~features.norms.isfinite()] = torch.nan
                products[index] = cosines.to(products)
                losses[index], norms[index] = features.losses.to(losses), features.norms.to(norms)
            by_state.append(products)
        return replace(self._scored(by_state), losses=losses, norms=norms)

    def stored(self) -> StoredQueries:
        """Return what gives these scores from stored features: one block of queries per checkpoint."""
        values = torch.block_diag(*(state.queries.values for state in self.states))
        return StoredQueries(values=values, scored=lambda products: self._scored(products.chunk(len(self.states), 1)))

    def _scored(self, by_state: Sequence[Float[Tensor, "documents queries"]]) -> Scored:
        total, more = torch.zeros(()), dict[str, Tensor]()
        for state, products in zip(self.states, by_state, strict=True):
            by_column = state.queries.columns(products)
            more |= {f"{AT_STEP}{state.step}{c}": by_column[:, j] for j, c in enumerate(self.columns)}
            total = total + state.weight * products
        return Scored(scores=self.states[0].queries.columns(total), more=more)


@dataclass(frozen=True, kw_only=True)
class FeaturePlan:
    """What whole gradients take."""

    entries: int
    group: int
    group_bytes: int
    checkpoint_bytes: int

    def rows(self) -> dict[str, int | float | str]:
        """Return its figures by description."""
        return {
            "numbers of a document's gradient": self.entries,
            "documents whose gradients exist at a time": self.group,
            "memory for them, and as much for a batch's": amounts.size(self.group_bytes),
            "checkpoints and moments in memory": amounts.size(self.checkpoint_bytes),
        }


def prepare(inputs: Inputs, settings: Settings) -> LessScorer:
    """Load the checkpoints, take the target's features at each, or read those kept in the run; return the scorer."""
    weights = weights_of(inputs.checkpoints, settings.weights)
    sketcher = StoreSketcher.of(inputs.proxy, inputs.checkpoints, settings)
    engines, corrections = sketcher.engines, sketcher.corrections
    _report(engines[0], inputs)
    rows = [_features(inputs, settings, c, e, inputs.target) for c, e in zip(inputs.checkpoints, engines, strict=True)]
    usable = usable_rows(inputs.target, torch.stack(rows, 1).isfinite().all(2).all(1).tolist(), inputs.reporter)
    groups = [inputs.target.groups[i] for i in usable]
    states: list[State] = []
    for i, checkpoint in enumerate(inputs.checkpoints):
        queries = inputs.aggregation.queries(normalised(rows[i][usable]), groups, inputs.target.names)
        if inputs.against is not None:
            queries = queries.less(_control(inputs, settings, checkpoint, engines[i], inputs.against))
        at_step = {"step": checkpoint.step, "weight": weights[i], "engine": engines[i], "correction": corrections[i]}
        states.append(State(**at_step, queries=queries))
    names = inputs.target.names
    return LessScorer(states=states, columns=["", *(f"_{slug(n)}" for n in names if len(names) > 1)])


def plan(inputs: Inputs, settings: Settings, whole: Sizes, seconds: Mapping[str, float]) -> FeaturePlan:
    """Return the memory that whole gradients and checkpoints take."""
    engine = FeatureEngine(inputs.proxy, whole_projection(settings.projection, settings.dim, settings.seed))
    group = min(engine.group, max(1, whole.pool))
    moments = 2 * engine.gradient_bytes * (settings.correction == "adam")
    trained = inputs.proxy.dtype.itemsize * engine.width
    return FeaturePlan(
        entries=engine.width,
        group=group,
        group_bytes=group * engine.gradient_bytes,
        checkpoint_bytes=len(inputs.checkpoints) * (moments + trained),
    )


def _report(engine: FeatureEngine, inputs: Inputs) -> None:
    size = engine.group * engine.gradient_bytes
    inputs.reporter.note(
        f"less: {len(inputs.checkpoints)} checkpoint(s), {engine.width:,} numbers a gradient; those of up to"
        f" {engine.group:,} documents at a time take {size / 1e9:.2g} GB, and a batch's as much again."
    )


def _features(
    inputs: Inputs, settings: Settings, checkpoint: Checkpoint, engine: FeatureEngine, target: EncodedTarget
) -> Float[Tensor, "targets dim"]:
    """Return the plain features of a target's rows at a checkpoint; not finite where a gradient is not."""
    keys = inputs.proxy_keys | {
        "checkpoint": checkpoint.fingerprint(),
        "target": target.fingerprint,
        "dim": settings.dim,
        "projection": settings.projection,
        "seed": settings.seed,
    }

    def make() -> dict[str, Tensor]:
        values = torch.zeros(len(target.encoded), settings.dim, dtype=engine.dtype)
        with inputs.reporter.stage("target", total=len(target.encoded), grows="target") as stage:
            for features in engine(target.encoded, inputs.batching):
                values[list(features.documents)] = features.values.cpu()
                stage.advance(len(features.documents))
        return {"values": values}

    return inputs.kept.get("target/features", keys, make)["values"].to(inputs.proxy.device)


def _control(
    inputs: Inputs, settings: Settings, checkpoint: Checkpoint, engine: FeatureEngine, against: EncodedTarget
) -> Float[Tensor, "dim"]:
    """Return the mean of a control set's unit features."""
    values = _features(inputs, settings, checkpoint, engine, against)
    return normalised(
        values[usable_rows(against.ungrouped(), values.isfinite().all(1).tolist(), inputs.reporter)]
    ).mean(0)
