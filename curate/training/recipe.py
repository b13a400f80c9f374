"""The training run that MAGIC differentiates: what decides its every step, apart from the documents."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from curate.errors import SettingsError, nearest

OPTIMISERS = ("adamw", "sgd", "muon")
SCHEDULES = ("cosine", "linear", "constant")
PRECISIONS = ("float32", "float64")
DEFAULT_MOMENTUM = {"sgd": 0.9, "muon": 0.95, "adamw": 0.0}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A fine-tune of a warm-started model; the defaults are those under which its outcome is a smooth function.

    What helps smoothness (Engstrom et al. 2025, arXiv 2503.13751, §4): ε inside AdamW's root, a learning rate tuned
    on held-out loss or below it, batches of at least 32 documents, a warm start, no dropout, single precision.
    """

    optimiser: str = "adamw"
    """'adamw', 'sgd' (heavy-ball momentum), or 'muon' (matrices orthogonalised, AdamW for the rest)."""
    learning_rate: float = 1e-4
    """At its peak. Muon's matrices move as far per step as AdamW's would, so that one rate serves both."""
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-10
    """Of AdamW, inside the root: √ε is the size of gradient below which an entry's step shrinks.

    With 1e-17 a first step is the sign of a gradient: the few entries near 0 are so steep that some documents' scores
    hold for nothing but infinitely small weights. On real text MAGIC's LDS was .43 then, and .99 from 1e-10 on, while
    losses after training were the same (examples/magic/STUDY.md)."""
    epsilon_inside: bool = True
    """Whether AdamW divides by √(v + ε), which is smooth, or by √v + ε, where 1e-8 is usual."""
    momentum: float | None = None
    """Of SGD (None: 0.9) and of Muon's matrices (None: 0.95, Nesterov's)."""
    weight_decay: float = 0.01
    """Decoupled, times the learning rate; for matrices and embeddings, never for norms and biases."""
    schedule: str = "cosine"
    """How the rate falls after the warm-up: 'cosine' or 'linear' towards zero, or 'constant'."""
    warmup: float = 0.25
    """Below 1 a share of the steps, from 1 on a number of steps, over which the rate rises linearly."""
    clip: float | None = None
    """The largest norm of the gradient of all parameters together; None: no clipping."""
    batch_size: int = 64
    """Documents per step."""
    steps: int | None = None
    """None: as many as `epochs` takes."""
    epochs: int = 1
    """How often every document is seen, when no number of steps is given."""
    seed: int = 0
    """Seeds the order of the documents, and new adapters."""
    precision: str = "float32"
    lora_rank: int = 0
    """0: all parameters are trained; otherwise adapters of this rank, and nothing else."""
    lora_alpha: float | None = None
    """None: twice the rank."""
    lora_targets: tuple[str, ...] = ()
    """Ends of the names of layers that get adapters (`q_proj`); empty: every linear layer of the decoder."""

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_ranges()

    def _check_choices(self) -> None:
        for name, known in (("optimiser", OPTIMISERS), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            value = getattr(self, name)
            if value not in known:
                hint = nearest(str(value), list(known))
                if name == "precision":
                    hint = "The run is differentiated to its last step, which coarser arithmetic turns into noise."
                raise SettingsError(f"{name} is {value!r}; expected one of {', '.join(known)}.", hint=hint)

    def _check_ranges(self) -> None:
        for name in ("beta1", "beta2", "momentum"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise SettingsError(f"{name} is {value}; expected at least 0 and less than 1.")
        for name in ("learning_rate", "epsilon", "clip", "lora_alpha"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise SettingsError(f"{name} is {value}; expected a number above 0.")
        for name in ("weight_decay", "warmup"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise SettingsError(f"{name} is {value}; expected at least 0.")
        for name, least in (("batch_size", 1), ("steps", 1), ("epochs", 1), ("lora_rank", 0), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise SettingsError(f"{name} is {value}; expected at least {least}.")
        if self.warmup >= 1 and self.warmup != int(self.warmup):
            raise SettingsError(f"warmup is {self.warmup}; expected a share below 1 or a whole number of steps.")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Recipe":
        """Build a recipe from names and values as YAML or flags have them; what is not given keeps its default.

        Raises SettingsError for a name that there is not, with the nearest one that there is, or a value of another
        type. `1e-17`, which YAML reads as text, is a number here.
        """
        types, values = get_type_hints(cls), {}
        for name, value in given.items():
            key = str(name).replace("-", "_")
            if key not in types:
                raise SettingsError(f"A recipe has no setting {name!r}.", hint=nearest(key, list(types)))
            values[key] = _typed(value, types[key], key)
        return cls(**values)

    @classmethod
    def read(cls, path: Path) -> "Recipe":
        """Read a recipe from a YAML file of names and values."""
        return cls.of(_names_and_values(path))

    @classmethod
    def gathered(cls, given: Mapping[str, Any], *, steps: int | None = None) -> "Recipe":
        """Build a recipe from a file named under `recipe`, and names and values, which win over it.

        `steps` counts where neither steps nor epochs are given.
        """
        rest = dict(given)
        named = rest.pop("recipe", None) or {}
        if isinstance(named, cls):
            named = named.as_dict()
        elif isinstance(named, str | Path):
            named = _names_and_values(Path(named))
        whole = {str(n).replace("-", "_"): v for n, v in (dict(named) | rest).items()}
        if steps is not None and not {"steps", "epochs"} & whole.keys():
            whole["steps"] = steps
        return cls.of(whole)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"lora_targets": list(self.lora_targets)}

    @property
    def inertia(self) -> float:
        """The momentum in force: the optimiser's customary one unless another was given."""
        return DEFAULT_MOMENTUM[self.optimiser] if self.momentum is None else self.momentum

    def num_steps(self, documents: int) -> int:
        return self.steps or math.ceil(documents * self.epochs / self.batch_size)

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of step `step` of `steps`, counted from 0; it is never 0."""
        warm = min(self.warmup_steps(steps), steps)
        if step < warm:
            return self.learning_rate * (step + 1) / (warm + 1)
        done = (step - warm) / max(1, steps - warm)
        share = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[self.schedule]
        return self.learning_rate * share

    def warmup_steps(self, steps: int) -> int:
        return int(self.warmup) if self.warmup >= 1 else round(self.warmup * steps)


NAMES = frozenset(f.name for f in dataclasses.fields(Recipe))


def _names_and_values(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(found, dict):
        raise SettingsError(f"{path} holds {type(found).__name__}; expected names and values of a recipe.")
    return found


def _typed(value: Any, kind: Any, name: str) -> Any:
    """Turn a value of YAML or of a flag into the setting's type."""
    options = get_args(kind) or (kind,)
    if kind == tuple[str, ...]:
        return tuple(value.split(",")) if isinstance(value, str) else tuple(str(v) for v in value)
    if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
        if type(None) not in options:
            raise SettingsError(f"{name} is nothing; expected {_noun(options[0])}.")
        return None
    try:
        if options[0] is bool:
            return {"true": True, "false": False}[str(value).lower()]
        if options[0] is int and float(value) != int(float(value)):
            raise ValueError(value)
        if options[0] in (int, float) and not isinstance(value, bool):
            return options[0](float(value))
        if options[0] is str and isinstance(value, str):
            return value
    except (ValueError, TypeError, KeyError, OverflowError):
        pass
    raise SettingsError(f"{name} is {value!r}; expected {_noun(options[0])}.")


def _noun(kind: type) -> str:
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "a word")
