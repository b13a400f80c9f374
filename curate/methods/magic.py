"""MAGIC: the adjoint of a training run on background documents, at a step in its middle.

Ilyas & Engstrom 2025, arXiv 2504.16430. A proxy is trained on a sample of the pool, and the target's loss after that
training is differentiated back to one step. A document's score is what a little weight on it at that step would have
changed: ⟨-∂φ/∂g_k, ∇ℓ_z(θ_k)⟩ / D_k, one directional derivative, so that a pool of any size takes one pass.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from curate.errors import SettingsError, nearest
from curate.methods._background_runs import BackgroundRuns, RunsScorer
from curate.methods._contract import Inputs
from curate.methods._directional import DirectionSettings
from curate.training.checkpoints import POLICIES
from curate.training.recipe import Recipe

OFFERS = frozenset({"against", "per_token"})
BACKGROUND = 1536
STEPS = 36


@dataclass(frozen=True, kw_only=True)
class Settings(DirectionSettings):
    """The training run that is differentiated, how many of them, and at which step."""

    recipe: Recipe = field(default_factory=lambda: Recipe(steps=STEPS))
    """What decides the training; its settings are given by their own names, or as `recipe=FILE.yaml`."""
    runs: int = 1
    """Runs on different documents, whose scores are averaged; each takes a pass over the pool.

    The background is dealt out to them (to two at least), and a document in it is scored by those that did not train
    on it; where `runs` is 1, the second one scores nothing but the first one's documents."""
    snapshot: float = 0.5
    """The step at which documents are scored, as a share of the run."""
    accept_rough: bool = False
    """Go on although the run is too rough for its derivatives to be trusted."""
    checkpoints: str = "sqrt"
    """Which states the run keeps for the way back: 'sqrt', 'all' or 'log'."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.runs < 1:
            raise SettingsError(f"runs is {self.runs}; expected at least 1.")
        if not 0 <= self.snapshot < 1:
            raise SettingsError(f"snapshot is {self.snapshot}; expected a share of the run, at least 0 and below 1.")
        if self.checkpoints not in POLICIES:
            raise SettingsError(
                f"checkpoints is {self.checkpoints!r}; expected one of {', '.join(POLICIES)}.",
                hint=nearest(str(self.checkpoints), POLICIES),
            )

    @classmethod
    def gathered(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Put the recipe's names and values together; all others stay as they are."""
        own = {f.name for f in fields(cls)} - {"recipe"}
        keys = {name: name.replace("-", "_") for name in given}
        rest = {name: value for name, value in given.items() if keys[name] not in own}
        return {k: given[name] for name, k in keys.items() if k in own} | {"recipe": Recipe.gathered(rest, steps=STEPS)}


def prepare(inputs: Inputs, settings: Settings) -> RunsScorer:
    """Train on the background and walk back from the target, or take both from the run; return the scorer.

    Raises CurateError where the training is too rough, unless that is accepted.
    """
    return BackgroundRuns(inputs, settings).scorer()
