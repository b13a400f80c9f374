"""What makes an inverse curvature predict retraining: how it is damped, its power, and how exact it is."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from laboratory import Arrays, Laboratory
from peers import Told, inputs_of

from curate.curvature.ekfac import Ekfac, fit
from curate.curvature.refine import RefineSettings, refine
from curate.errors import SettingsError
from curate.gradients.direction_scoring import DirectionScorer
from curate.gradients.directions import DirectionEngine, Directions
from curate.gradients.materialised import weighted_gradients
from curate.methods.contract import Inputs
from curate.methods.shared.directional import CurvatureSettings, fitted, mean_weights


@dataclass(frozen=True, kw_only=True)
class Inverse:
    """From a query's gradient to a direction: (Λ + δ)^-power in EK-FAC's basis, or refined towards (G + δ)⁻¹."""

    damping: float = 0.1
    """δ as a share of the mean eigenvalue."""
    power: float = 1.0
    one: bool = False
    """Whether δ is one for all layers, by the mean eigenvalue of them all, and not one per layer."""
    rounds: int = 0
    """Of conjugate gradients; 0: EK-FAC as it is."""
    documents: int = 200
    """Background documents that conjugate gradients go by; 100 others watch."""

    def __post_init__(self) -> None:
        if self.rounds and self.power != 1:
            raise SettingsError(
                f"power is {self.power} with {self.rounds} rounds; conjugate gradients have none but 1."
            )

    @property
    def name(self) -> str:
        damped = f"damping {self.damping:g}{' of all layers' if self.one else ''}"
        if self.rounds:
            return f"EK-FAC + CG, {damped}, rounds {self.rounds}, documents {self.documents}"
        return f"EK-FAC, {damped}, power {self.power:g}"

    def solve(self, fit: Ekfac, gradients: Directions, inputs: Inputs) -> Directions:
        """Return the directions of gradients `[queries, d_out, d_in]` per layer, from a fit with this damping."""
        if self.one:
            sizes = {name: values.numel() for name, values in fit.eigenvalues.items()}
            delta = sum(fit.dampings[name] * size for name, size in sizes.items()) / sum(sizes.values())
            fit = replace(fit, dampings=dict.fromkeys(sizes, delta))
        if self.rounds:
            settings = RefineSettings(rounds=self.rounds, documents=self.documents)
            background = inputs.background()
            return refine(
                gradients, fit, inputs.proxy, background, inputs.batching, settings, reporter=Told()
            ).directions
        powers = {name: (values + fit.dampings[name]) ** self.power for name, values in fit.eigenvalues.items()}
        return replace(fit, eigenvalues=powers, dampings=dict.fromkeys(powers, 0.0)).solve(gradients)


DAMPINGS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
INVERSES = (
    *(Inverse(damping=d, power=p) for p in (1.0, 0.75, 0.5, 0.25) for d in DAMPINGS),
    *(Inverse(damping=d, one=True) for d in DAMPINGS),
    *(Inverse(rounds=r) for r in (1, 2, 6)),
    *(Inverse(damping=d, rounds=3) for d in (0.1, 1.0, 10.0, 30.0, 100.0)),
    *(Inverse(damping=d, rounds=3, one=True) for d in (0.1, 10.0)),
    Inverse(damping=10.0, rounds=3, documents=668),
)


def inverse_scores(lab: Laboratory) -> Iterator[Arrays]:
    """Yield the scores `[queries, documents]` of one inverse after another, all from one fit before the run."""
    inputs = inputs_of(lab, trained=False)
    target = inputs.target
    weights = mean_weights(target, list(range(len(target.encoded))))
    gradients = weighted_gradients(inputs.proxy, target.encoded, weights, inputs.batching)
    tensors = fitted(inputs, "ekfac", CurvatureSettings(), fit)

    def scores(inverse: Inverse) -> np.ndarray:
        directions = inverse.solve(Ekfac.of(tensors, damping=inverse.damping), gradients, inputs)
        engine = DirectionEngine(inputs.proxy, directions)
        scorer = DirectionScorer(engines=[engine], columns=torch.eye(len(target.encoded)))
        return scorer(list(lab.own.documents), inputs.batching).scores.double().numpy().T

    for inverse in INVERSES:
        yield lab.kept(f"curvature/{inverse.name}", lambda i=inverse: {i.name: scores(i)})
        print(f"{inverse.name}: scored", flush=True)
