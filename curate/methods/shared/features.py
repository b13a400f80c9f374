"""LESS's features: gradients of adapters, corrected by Adam's moments and projected; and what a store keeps of them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from curate.errors import CurateError
from curate.gradients.documents import Batching
from curate.gradients.features import Correction, DocumentFeatures, FeatureEngine, flattened
from curate.gradients.roots import ThinRoot, Whitening
from curate.gradients.scoring import normalised
from curate.gradients.sketches import Block
from curate.gradients.whole_projections import Kind, whole_projection
from curate.methods.contract import Inputs, StoredSketches, StoreKind
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoded
from curate.settings import Count, least, option, settings
from curate.training.moments import Moments
from curate.training.snapshots import directions_of
from curate.training.states import Checkpoint, sharing

# Inside the root, as in the released code.
EPSILON = 1e-8


@settings
class FeatureSettings:
    """How gradients become features."""

    dim: Annotated[Count, least(1)] = option(default=8192, help="Numbers of a feature, per checkpoint.")
    projection: Kind = option(
        default="hadamard",
        help="hadamard: a fast transform; signs: the independent signs of the paper's code, as good and far slower.",
    )
    correction: Literal["adam", "none"] = option(
        default="adam", help="Turn documents' gradients into Adam's steps, or leave them plain (no moments needed)."
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


def correction_of(checkpoint: Checkpoint, proxy: Proxy, settings: FeatureSettings) -> AdamStep | None:
    """Return how documents' gradients are corrected at a checkpoint."""
    if settings.correction == "none":
        return None
    return AdamStep.of(proxy, checkpoint.moments(proxy.model))


def weights_of(checkpoints: Sequence[Checkpoint], by: Literal["rates", "equal"]) -> list[float]:
    """Return the checkpoints' weights, which sum to 1."""
    rates = [c.mean_learning_rate if by == "rates" else 1.0 for c in checkpoints]
    total = sum(rate or 0 for rate in rates)
    if None in rates or total <= 0:
        lacking = next((c for c, rate in zip(checkpoints, rates, strict=True) if rate is None), checkpoints[0])
        raise CurateError(
            f"{lacking.folder} does not say at which learning rate it was trained.",
            hint="Weigh all checkpoints alike: --set weights=equal.",
        )
    return [(rate or 0) / total for rate in rates]


@dataclass(frozen=True, kw_only=True)
class StoreSketcher:
    """Compute what a store keeps: the unit features of documents at every checkpoint, one block each."""

    steps: Sequence[int]
    engines: Sequence[FeatureEngine]
    corrections: Sequence[Correction | None]

    @classmethod
    def of(cls, proxy: Proxy, checkpoints: Sequence[Checkpoint], settings: FeatureSettings) -> "StoreSketcher":
        """Load the checkpoints."""
        projection = whole_projection(settings.projection, settings.dim, settings.seed)
        proxies = sharing(proxy, checkpoints)
        return cls(
            steps=[c.step for c in checkpoints],
            engines=[FeatureEngine(p, projection) for p in proxies],
            corrections=[correction_of(c, p, settings) for c, p in zip(checkpoints, proxies, strict=True)],
        )

    @property
    def blocks(self) -> Sequence[Block]:
        dim = self.engines[0].projection.dim
        return [Block(name=_block(step), start=i * dim, rows=1, columns=dim) for i, step in enumerate(self.steps)]

    def __call__(self, encoded: Sequence[Encoded], batching: Batching) -> Iterator[StoredSketches]:
        yield from self._sketches(encoded, batching, self.corrections)

    def queries(self, encoded: Sequence[Encoded], batching: Batching) -> Iterator[StoredSketches]:
        """Yield plain features, as the target's are."""
        yield from self._sketches(encoded, batching, [None for _ in self.engines])

    def _sketches(
        self, encoded: Sequence[Encoded], batching: Batching, corrections: Sequence[Correction | None]
    ) -> Iterator[StoredSketches]:
        passes = (e(encoded, batching, c) for e, c in zip(self.engines, corrections, strict=True))
        for by_state in zip(*passes, strict=True):  # each takes the documents in the same groups
            yield _joined(by_state)


def _joined(by_state: Sequence[DocumentFeatures]) -> StoredSketches:
    """Return features at all checkpoints side by side; loss and norm are the last's, as in scores."""
    last, values = by_state[-1], torch.cat([normalised(f.values) for f in by_state], 1)
    finite = torch.stack([f.norms.isfinite() for f in by_state]).all(0) & values.isfinite().all(1)
    return StoredSketches(
        documents=last.documents,
        values=values,
        losses=last.losses.float(),
        norms=last.norms.float().where(finite, torch.nan),
    )


def _block(step: int) -> str:
    return f"step-{step}"


def _nearness(inputs: Inputs, settings: FeatureSettings) -> Whitening:
    """Return the roots of the checkpoints' weights: cosines of features that they scale are scores."""
    rates = [c.mean_learning_rate for c in inputs.checkpoints]
    by_rates = None not in rates and any(rates)
    if not by_rates:
        inputs.reporter.note("less: no learning rates are recorded; nearest documents weigh checkpoints alike.")
    weights = weights_of(inputs.checkpoints, "rates" if by_rates else "equal")
    return {_block(c.step): _scaling(w, settings.dim) for c, w in zip(inputs.checkpoints, weights, strict=True)}


def _scaling(weight: float, dim: int) -> ThinRoot:
    """Return what multiplies by the root of a weight."""
    damping = 1 / weight if weight else math.inf
    return ThinRoot(damping=damping, eigenvalues=torch.zeros(0).double(), vectors=torch.zeros(dim, 0))


STORE = StoreKind(
    method="less",
    Settings=FeatureSettings,
    sketcher=StoreSketcher.of,
    whitening=_nearness,
    plain_norms=False,
)
