"""What the sketch methods do alike: sketch the target once, keep it in the run."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from curate.errors import CurateError, SettingsError
from curate.gradients.documents import document_sketches
from curate.gradients.sketches import SketchEngine
from curate.methods._contract import Inputs


@dataclass(frozen=True, kw_only=True)
class SketchSettings:
    """How gradients are projected."""

    dim: int = 16
    """Dimensions per side and layer; a layer's sketch has dim² entries. More is closer to the exact gradient."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise SettingsError(f"dim is {self.dim}; expected at least 1.")


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
    kept = inputs.kept.get("target/sketches", depends_on(inputs, settings), lambda: _sketch(engine, inputs))
    values = kept["values"].to(inputs.proxy.device)
    finite = torch.isfinite(values).all(1)
    if not bool(finite.any()):
        raise CurateError(
            "No target row has a finite gradient.",
            hint="Use --dtype float32, and check that the model itself is whole.",
        )
    if not bool(finite.all()):
        inputs.reporter.warn(f"{int((~finite).sum())} target row(s) set aside: their gradient is not finite.")
    groups = [g for g, ok in zip(inputs.target.groups, finite.tolist(), strict=True) if ok]
    if empty := sorted(set(inputs.target.names) - set(groups)):
        raise CurateError(f"The target's group {empty[0]!r} has no row with a finite gradient.")
    num_scored = torch.tensor([e.num_scored for e in inputs.target.encoded]).to(values)
    return TargetSketches(values=values[finite], num_scored=num_scored[finite], groups=groups)


def depends_on(inputs: Inputs, settings: SketchSettings) -> dict[str, object]:
    """Return all that the target's sketches depend on, for `Kept`."""
    return {
        "proxy": inputs.proxy_fingerprint,
        "tracked": inputs.proxy.tracked,
        "target": inputs.target.fingerprint,
        "batching": inputs.batching,
        "device": str(inputs.proxy.device),
        "dim": settings.dim,
        "seed": settings.seed,
    }


def _sketch(engine: SketchEngine, inputs: Inputs) -> dict[str, Tensor]:
    encoded = inputs.target.encoded
    rows: dict[int, Tensor] = {}
    with inputs.reporter.stage("target", total=len(encoded)) as stage:
        for found in document_sketches(engine, encoded, inputs.batching):
            for i, row in zip(found.documents, found.values, strict=True):
                rows[i] = (row / encoded[i].num_scored).cpu()
            stage.advance(len(found.documents))
    return {"values": torch.stack([rows[i] for i in range(len(encoded))])}
