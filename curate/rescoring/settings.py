"""The settings of a rescoring and of its training run."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import Field

from curate.proxies.settings import DEVICES, Device
from curate.settings import Count, Flag, Number, Words, least, option, settings
from curate.training.recipe import Rates, Recipe, rates_option, refuse_unchecked

METHODS = ("magic",)


@settings
class RescoreSettings:
    """A shortlist of runs' best documents, and the training run on it that is differentiated."""

    runs: Words = option(
        default=(),
        help="Finished run whose best documents are rescored; repeatable.",
        flags=("--from",),
        shown="the latest",
    )
    method: Literal["magic"] = option(default="magic", help="Method of the rescoring.")
    shortlist: Annotated[Count, least(1)] = option(
        default=5000, help="The best documents of each run that are rescored."
    )
    background: Annotated[Count, least(1)] | None = option(
        default=None, help="Other documents of the pool to train on.", shown="as many as the shortlist"
    )
    recipe: Recipe = option(factory=Recipe, help="YAML file of the training run.", metavar="FILE")
    repeats: Annotated[Count, least(1)] = option(default=1, help="Trainings in different orders to average over.")
    snapshot: Annotated[Number, Field(ge=0, lt=1)] = option(
        default=0.5, help="Where in the run the adjoint is taken, as a share of it."
    )
    model: str | None = option(default=None, help="Proxy to train: a folder or a hub id.", shown="the run's")
    pool: Words = option(default=(), help="Where the pool is now, if it has moved; repeatable.", shown="the run's")
    device: Device | None = option(default=None, help=f"Where to train: {DEVICES}", shown="the run's")
    batch_tokens: Annotated[Count, least(1)] | None = option(
        default=None, help="Tokens of one micro-batch.", shown="by device"
    )
    per_token: Flag = option(
        default=False,
        help="Write every token's own score, that of predicting it, too (SQL view `tokens`).",
    )
    checkpoints: Literal["sqrt", "all", "log"] = option(default="sqrt", help="States kept for the way back.")
    keep_gradients: Flag = option(
        default=True, help="Keep no gradients on disk: less room, a quarter more time.", flags=("--recompute",)
    )
    seed: Count = option(default=0, help="Seed of the background sample; the recipe has its own.")
    accept_rough: Flag = option(default=False, help="Accept a training run that is not smooth.")
    check: Annotated[Count, least(0)] = option(
        default=3,
        help="Retrainings without 5 % of the first one's documents, against what their scores predict; 0: none.",
    )
    rates: Rates = rates_option()

    def __post_init__(self) -> None:
        refuse_unchecked(self.rates, self.check)

    def method_settings(self) -> dict[str, Any]:
        """Return for run.json the settings that decide the scores beside pool, target and model."""
        names = ("shortlist", "repeats", "snapshot", "accept_rough", "check", "rates")
        return {n: getattr(self, n) for n in names} | {"recipe": asdict(self.recipe)}
