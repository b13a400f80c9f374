"""What the sketch methods do alike: sketch the target once, keep it in the run."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from curate.gradients.documents import document_sketches
from curate.gradients.scoring import group_means
from curate.gradients.shapes import DIM, RANK, check_shape
from curate.gradients.sketches import SketchEngine
from curate.methods.contract import EncodedTarget, Inputs
from curate.methods.shared.target import usable_rows
from curate.proxies.tokens import Encoded

OFFERS = frozenset({"against", "store"})


@dataclass(frozen=True, kw_only=True)
class SketchSettings:
    """How gradients are projected."""

    dim: int = DIM
    """Dimensions per side and layer; a layer's sketch has dim² entries. More is closer to the exact gradient."""
    rank: int = RANK
    """Of the approximation that stands for each layer of a document's sketch, in 2·dim·rank numbers; 0: all of it."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_shape(self.dim, self.rank)


@dataclass(frozen=True, kw_only=True)
class TargetSketches:
    """The target's usable documents."""

    values: Float[Tensor, "targets sketch"]
    """Gradients of the mean loss per scored token, projected."""
    num_scored: Float[Tensor, "targets"]
    """Tokens that carried loss; `values` times these are gradients of summed losses, as documents of the pool have."""
    groups: list[str]


def target_sketches(engine: SketchEngine, inputs: Inputs, settings: SketchSettings) -> TargetSketches:
    """Sketch every target document, or take the sketches from the run; set those aside that are not finite."""
    return _sketches(engine, inputs, settings, inputs.target)


def queries(
    engine: SketchEngine,
    inputs: Inputs,
    settings: SketchSettings,
    target: TargetSketches,
    ready: Callable[[Tensor], Tensor],
) -> Float[Tensor, "columns sketch"]:
    """Return the means of the target's prepared sketches, for all and by group, less the control set's mean."""
    means = group_means(ready(target.values), target.groups, inputs.target.names)
    if inputs.against is None:
        return means
    control = _sketches(engine, inputs, settings, inputs.against.ungrouped())
    return means - ready(control.values).mean(0)


def background_sketches(engine: SketchEngine, inputs: Inputs) -> Iterator[Float[Tensor, "documents sketch"]]:
    """Yield the sketches of the background sample: computed, or read where a store has them."""
    if inputs.stored is not None:
        for values in inputs.stored.background():
            yield values.to(inputs.proxy.device, engine.dtype)
        return
    encoded = inputs.background()
    with inputs.reporter.stage("background", total=len(encoded)) as stage:
        for found in document_sketches(engine, encoded, inputs.batching):
            yield found.values
            stage.advance(len(found.documents))


def _sketches(engine: SketchEngine, inputs: Inputs, settings: SketchSettings, target: EncodedTarget) -> TargetSketches:
    keys = depends_on(inputs, settings) | {"target": target.fingerprint}
    kept = inputs.kept.get("target/sketches", keys, lambda: _sketch(engine, inputs, target.encoded))
    values = kept["values"].to(inputs.proxy.device)
    rows = usable_rows(target, torch.isfinite(values).all(1).tolist(), inputs.reporter)
    num_scored = torch.tensor([e.num_scored for e in target.encoded]).to(values)
    groups = [target.groups[i] for i in rows]
    return TargetSketches(values=values[rows], num_scored=num_scored[rows], groups=groups)


def depends_on(inputs: Inputs, settings: SketchSettings) -> dict[str, object]:
    """Return all that sketches depend on beside whose they are, for `Kept`."""
    return {
        "proxy": inputs.proxy_fingerprint,
        "tracked": inputs.proxy.tracked,
        "batching": inputs.batching,
        "device": str(inputs.proxy.device),
        "dim": settings.dim,
        "seed": settings.seed,
    }


def _sketch(engine: SketchEngine, inputs: Inputs, encoded: Sequence[Encoded]) -> dict[str, Tensor]:
    rows: dict[int, Tensor] = {}
    with inputs.reporter.stage("target", total=len(encoded)) as stage:
        for found in document_sketches(engine, encoded, inputs.batching):
            for i, row in zip(found.documents, found.values, strict=True):
                rows[i] = (row / encoded[i].num_scored).cpu()
            stage.advance(len(found.documents))
    return {"values": torch.stack([rows[i] for i in range(len(encoded))])}
