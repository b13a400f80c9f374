"""LESS: cosines of projected LoRA gradients along a warm-up, documents' corrected by Adam's moments.

At every checkpoint a document's feature is the gradient g of its mean token loss by all adapters as one vector, turned
into the step that Adam would take, Γ = (β₁m + (1-β₁)g) / √(β₂v + (1-β₂)g² + 1e-8), with the checkpoint's moments and
no bias correction; the target's features are plain gradients. Both are projected to `dim` numbers and brought to
norm 1; a score is the sum of their cosines over the checkpoints, weighted by the mean learning rates, averaged over a
group's rows, and the best of the groups (Xia et al. 2024, arXiv 2402.04333, §3 and §4, and its released code).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from curate import amounts
from curate.errors import CurateError
from curate.gradients.aggregation import Aggregation, Queries
from curate.gradients.documents import Batching
from curate.gradients.features import Correction, FeatureEngine, flattened
from curate.gradients.scored import Scored
from curate.gradients.whole_projections import Kind, whole_projection
from curate.methods.contract import EncodedTarget, Inputs, Sizes
from curate.methods.shared.target import usable_rows
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoded
from curate.schema import AT_STEP, slug
from curate.settings import Count, least, option, settings
from curate.training.moments import Moments
from curate.training.snapshots import directions_of
from curate.training.states import Checkpoint, sharing

OFFERS = frozenset({"against", "aggregate"})
NEEDS = frozenset({"model", "checkpoints"})
AGGREGATION = Aggregation(rows="mean", groups="max")
# Inside the root, as in the released code.
EPSILON = 1e-8


@settings
class Settings:
    """How gradients become features."""

    dim: Annotated[Count, least(1)] = option(default=8192, help="Numbers of a feature, per checkpoint.")
    projection: Kind = option(
        default="hadamard",
        help="hadamard: a fast transform; signs: the independent signs of the paper's code, as good and far slower.",
    )
    correction: Literal["adam", "none"] = option(
        default="adam", help="Turn documents' gradients into Adam's steps, or leave them plain (no moments needed)."
    )
    weights: Literal["rates", "equal"] = option(
        default="rates", help="Weigh checkpoints by their mean learning rates, or alike."
    )
    seed: Count = option(default=0, help="Seed of the projection.")


@dataclass(frozen=True, kw_only=True)
class AdamStep:
    """Adam's step along gradients, from one checkpoint's moments, without its length and bias correction."""

    first: Float[Tensor, "entries"]
    """β₁m."""
    second: Float[Tensor, "entries"]
    """β₂v + ε."""
    betas: tuple[float, float]

    @classmethod
    def of(cls, proxy: Proxy, moments: Moments) -> "AdamStep":
        """Read the moments of a proxy's tracked layers. Raises CurateError where one has none."""
        wide = torch.promote_types(proxy.dtype, torch.float32)
        flat: list[Tensor] = []
        for tensors in (moments.exp_avg, moments.exp_avg_sq):
            try:
                matrices = {n: m[0] for n, m in directions_of(proxy, [tensors]).items()}
            except KeyError as error:
                raise CurateError(
                    f"The checkpoint has no moments of {error.args[0]}, which is tracked.",
                    hint="Track only layers that were trained (--modules), or use --set correction=none.",
                ) from None
            flat.append(flattened(proxy, matrices).to(device=proxy.device, dtype=wide))
        first, second = moments.betas
        return cls(first=first * flat[0], second=second * flat[1] + EPSILON, betas=moments.betas)

    def __call__(self, gradients: Float[Tensor, "documents entries"]) -> Float[Tensor, "documents entries"]:
        first, second = self.betas
        roots = (gradients * gradients).mul_(1 - second).add_(self.second).sqrt_()
        return gradients.mul_(1 - first).add_(self.first).div_(roots)


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
        total, queries = torch.zeros(()), self.states[0].queries
        losses, norms = torch.zeros(len(encoded)), torch.zeros(len(encoded))
        more: dict[str, Tensor] = {}
        for state in self.states:
            products = torch.zeros(len(encoded), len(queries.values), dtype=queries.values.dtype)
            for features in state.engine(encoded, batching, state.correction):
                index = torch.tensor(features.documents)
                cosines = _unit(features.values) @ state.queries.values.T
                cosines[~features.norms.isfinite()] = torch.nan
                products[index] = cosines.to(products)
                losses[index], norms[index] = features.losses.to(losses), features.norms.to(norms)
            by_column = queries.columns(products)
            more |= {f"{AT_STEP}{state.step}{c}": by_column[:, j] for j, c in enumerate(self.columns)}
            total = total + state.weight * products
        return Scored(scores=queries.columns(total), losses=losses, norms=norms, more=more)


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
    weights = _weights(inputs.checkpoints, settings)
    projection = whole_projection(settings.projection, settings.dim, settings.seed)
    proxies = sharing(inputs.proxy, inputs.checkpoints)
    engines = [FeatureEngine(proxy, projection) for proxy in proxies]
    corrections = [_correction(c, p, settings) for c, p in zip(inputs.checkpoints, proxies, strict=True)]
    _report(engines[0], inputs)
    rows = [_features(inputs, settings, c, e, inputs.target) for c, e in zip(inputs.checkpoints, engines, strict=True)]
    usable = usable_rows(inputs.target, torch.stack(rows, 1).isfinite().all(2).all(1).tolist(), inputs.reporter)
    groups = [inputs.target.groups[i] for i in usable]
    states: list[State] = []
    for i, checkpoint in enumerate(inputs.checkpoints):
        queries = inputs.aggregation.queries(_unit(rows[i][usable]), groups, inputs.target.names)
        if inputs.against is not None:
            queries = queries.less(_control(inputs, settings, checkpoint, engines[i], inputs.against))
        at_step = {"step": checkpoint.step, "weight": weights[i], "engine": engines[i], "correction": corrections[i]}
        states.append(State(**at_step, queries=queries))
    names = inputs.target.names
    return LessScorer(states=states, columns=["", *(f"_{slug(n)}" for n in names if len(names) > 1)])


def plan(inputs: Inputs, settings: Settings, whole: Sizes, seconds: Mapping[str, float]) -> FeaturePlan:
    """Return the memory that whole gradients and checkpoints take."""
    engine = FeatureEngine(inputs.proxy, whole_projection(settings.projection, settings.dim, settings.seed))
    size = torch.promote_types(inputs.proxy.dtype, torch.float32).itemsize
    group = min(engine.group, max(1, whole.pool))
    moments = 2 * size * (settings.correction == "adam")
    trained = inputs.proxy.dtype.itemsize * engine.width
    return FeaturePlan(
        entries=engine.width,
        group=group,
        group_bytes=group * engine.width * size,
        checkpoint_bytes=len(inputs.checkpoints) * (moments * engine.width + trained),
    )


def _correction(checkpoint: Checkpoint, proxy: Proxy, settings: Settings) -> AdamStep | None:
    if settings.correction == "none":
        return None
    return AdamStep.of(proxy, checkpoint.moments(proxy.model))


def _weights(checkpoints: Sequence[Checkpoint], settings: Settings) -> list[float]:
    """Return the checkpoints' weights, which sum to 1."""
    rates = [c.mean_learning_rate if settings.weights == "rates" else 1.0 for c in checkpoints]
    known = [rate for rate in rates if rate is not None]
    if len(known) < len(rates) or sum(known) <= 0:
        lacking = next((c for c, rate in zip(checkpoints, rates, strict=True) if rate is None), checkpoints[0])
        raise CurateError(
            f"{lacking.folder} does not say at which learning rate it was trained.",
            hint="Weigh all checkpoints alike: --set weights=equal.",
        )
    return [rate / sum(known) for rate in known]


def _report(engine: FeatureEngine, inputs: Inputs) -> None:
    size = engine.group * engine.width * torch.promote_types(inputs.proxy.dtype, torch.float32).itemsize
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
        values = torch.zeros(
            len(target.encoded), settings.dim, dtype=torch.promote_types(inputs.proxy.dtype, torch.float32)
        )
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
    return _unit(values[usable_rows(against.ungrouped(), values.isfinite().all(1).tolist(), inputs.reporter)]).mean(0)


def _unit(values: Float[Tensor, "documents dim"]) -> Float[Tensor, "documents dim"]:
    norms = values.norm(dim=1, keepdim=True)
    return values / norms.where(norms != 0, torch.ones_like(norms))
