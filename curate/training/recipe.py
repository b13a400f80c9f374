"""The training run that MAGIC differentiates: what decides its every step, apart from the documents."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from curate.errors import SettingsError
from curate.settings import Count, Flag, Listed, Number, above, build, least, option, read_yaml, settings

PRECISIONS = ("float32", "float64")
DEFAULT_MOMENTUM = {"sgd": 0.9, "muon": 0.95, "adamw": 0.0}

Positive = Annotated[Number, above(0)]
NotNegative = Annotated[Number, Field(ge=0, allow_inf_nan=False)]
Decay = Annotated[Number, Field(ge=0, lt=1)]
_TENTATIVE = (1 / 3, 1.0, 3.0)
Rates = Annotated[tuple[Positive, ...], Listed, BeforeValidator(lambda given: _TENTATIVE if given == "auto" else given)]
"""Learning rates to try, as multiples of a recipe's."""


def rates_option() -> Any:
    """Return the option of a training that tries several learning rates."""
    return option(
        default=(),
        help="Learning rates to try, as multiples of the recipe's, of which the one is taken that the check favours"
        " among those of the best held-out loss; auto: a third, one and three.",
        metavar="auto|NUMBER,…",
        shown="the recipe's alone",
    )


def refuse_unchecked(rates: tuple[float, ...], check: int) -> None:
    """Raise SettingsError for several learning rates and no check to compare them by."""
    if rates and not check:
        raise SettingsError("rates are compared by the check, and check is 0.", hint="Leave --check 0 out.")


@settings
class Recipe:
    """A fine-tune of a warm-started model; the defaults are those under which its outcome is a smooth function.

    What helps smoothness (Engstrom et al. 2025, arXiv 2503.13751, §4): ε inside AdamW's root, a learning rate tuned
    on held-out loss or below it, batches of at least 32 documents, a warm start, no dropout, single precision.
    """

    optimiser: Literal["adamw", "sgd", "muon"] = option(
        default="adamw",
        help="'adamw', 'sgd' (heavy-ball momentum), or 'muon' (matrices orthogonalised, AdamW for the rest).",
    )
    learning_rate: Positive = option(
        default=1e-4,
        help="Peak learning rate. Muon's matrices move as far per step as AdamW's, so that one rate serves both.",
    )
    beta1: Decay = option(default=0.9, help="Decay of AdamW's first moment.")
    beta2: Decay = option(default=0.999, help="Decay of AdamW's second moment.")
    # With 1e-17 a first step is the sign of a gradient: the few entries near 0 are so steep that some documents' scores
    # hold for nothing but infinitely small weights. On real text MAGIC's LDS was .43 then, and .99 from 1e-10 on, while
    # losses after training were the same (examples/magic/STUDY.md).
    epsilon: Positive = option(
        default=1e-10, help="Of AdamW, inside the root: √ε is the size of gradient below which an entry's step shrinks."
    )
    epsilon_inside: Flag = option(
        default=True,
        help="Divide by √(v + ε), which is smooth; otherwise by √v + ε, where 1e-8 is usual.",
        flags=("--epsilon-outside",),
    )
    momentum: Decay | None = option(
        default=None, help="Of SGD, and of Muon's matrices (Nesterov's).", shown="0.9 and 0.95"
    )
    weight_decay: NotNegative = option(
        default=0.01,
        help="Decoupled, times the learning rate; for matrices and embeddings, never for norms and biases.",
    )
    schedule: Literal["cosine", "linear", "constant"] = option(
        default="cosine", help="How the rate falls after the warm-up: 'cosine' or 'linear' towards zero, or 'constant'."
    )
    warmup: NotNegative = option(
        default=0.25,
        help="Below 1 a share of the steps, from 1 on a number of steps, over which the rate rises linearly.",
    )
    clip: Positive | None = option(
        default=None, help="Largest norm of the gradient of all parameters together.", shown="none"
    )
    batch_size: Annotated[Count, least(1)] = option(default=64, help="Documents of one step.")
    steps: Annotated[Count, least(1)] | None = option(
        default=None, help="Steps of the training.", shown="as many as the epochs take"
    )
    epochs: Annotated[Count, least(1)] = option(default=1, help="Passes over the documents, where no steps are given.")
    seed: Annotated[Count, least(0)] = option(default=0, help="Of the order of the documents, and of new adapters.")
    precision: str = option(default="float32", help="float32 or float64.")
    lora_rank: Annotated[Count, least(0)] = option(
        default=0, help="0: all parameters are trained; otherwise adapters of this rank, and nothing else."
    )
    lora_alpha: Positive | None = option(default=None, help="Of the adapters.", shown="twice the rank")
    lora_targets: Annotated[tuple[str, ...], Listed] = option(
        default=(),
        help="Ends of the names of layers that get adapters: q_proj,v_proj.",
        shown="every linear layer of the decoder",
    )

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise SettingsError(
                f"precision is {self.precision!r}; expected one of {', '.join(PRECISIONS)}.",
                hint="The run is differentiated to its last step, which coarser arithmetic turns into noise.",
            )
        if self.warmup >= 1 and self.warmup != int(self.warmup):
            raise SettingsError(f"warmup is {self.warmup}; expected a share below 1 or a whole number of steps.")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Recipe":
        """Build a recipe from names and values as YAML or flags have them. Raises SettingsError."""
        return build(cls, values, owner="A recipe")

    @classmethod
    def read(cls, path: Path) -> "Recipe":
        """Read a recipe from a YAML file of names and values."""
        return cls.of(read_yaml(path))

    @staticmethod
    def over(values: Mapping[str, Any], base: dict[str, Any]) -> dict[str, Any]:
        """Return the values of a default recipe that hold beside given ones: not its steps where epochs are given."""
        return {n: v for n, v in base.items() if not (n == "steps" and "epochs" in values)}

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"lora_targets": list(self.lora_targets)}

    @property
    def inertia(self) -> float:
        """The given momentum, or else the optimiser's usual one."""
        return DEFAULT_MOMENTUM[self.optimiser] if self.momentum is None else self.momentum

    def num_steps(self, documents: int) -> int:
        """Return the steps, or how many the epochs take."""
        return self.steps or math.ceil(documents * self.epochs / self.batch_size)

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of step `step` of `steps`, counted from 0; it is never 0."""
        warmup = min(self.warmup_steps(steps), steps)
        if step < warmup:
            return self.learning_rate * (step + 1) / (warmup + 1)
        done = (step - warmup) / max(1, steps - warmup)
        share = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[self.schedule]
        return self.learning_rate * share

    def warmup_steps(self, steps: int) -> int:
        return int(self.warmup) if self.warmup >= 1 else round(self.warmup * steps)
