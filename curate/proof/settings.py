"""What a validation and a verification are asked for, checked as they are built."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from curate import methods
from curate.errors import SettingsError
from curate.folders.local import refuse_url
from curate.proof.arms import RANDOM
from curate.proof.subsets import num_dropped
from curate.proxies.proxy import ProxySettings
from curate.scores.run import Run
from curate.settings import ScoreSettings
from curate.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class ValidateSettings:
    """The runs whose methods are judged, and the retrainings that judge them."""

    runs: tuple[str, ...]
    """Folders of finished runs over one pool and target."""
    documents: int = 1024
    """Documents that the bank trains on: a seeded sample of those that all runs scored."""
    queries: int = 50
    """Rows of the target, each a query of its own; all where there are fewer."""
    subsets: int = 100
    """Retrainings, each without a random share of the documents."""
    drop: float = 0.01
    """That share; for claims about algorithms rather than about one training: 0.5, with several repeats."""
    removals: int = 10
    """Queries for which, per method, a retraining leaves out their best documents (QLD); 0: none."""
    repeats: int = 1
    """Orders of the documents over which every change of loss is averaged."""
    recipe: Recipe = field(default_factory=Recipe)
    magic: bool = False
    """Judge MAGIC in the bank's own training, too: a walk back per query."""
    model: str | None = None
    """Proxy that is retrained; None: that of the first run."""
    pool: tuple[str, ...] = ()
    """Where the pool is now, if it has moved."""
    banks: str | None = None
    """Folder of all banks; None: `banks/` beside the first run."""
    devices: tuple[str, ...] = ()
    """Where to retrain, a process each; empty: all GPUs, else the run's device."""
    batch_tokens: int | None = None
    """Tokens of a micro-batch; None: by device."""
    resamples: int = 1000
    """Of the bootstrap."""
    seed: int = 0
    """Seeds the sample, the queries, the subsets and the bootstrap; the order of training has the recipe's."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise SettingsError("There is no run to validate.")
        refuse_url(self.banks, "--banks")
        least = {"documents": 2, "queries": 1, "subsets": 3, "removals": 0, "repeats": 1, "resamples": 100}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise SettingsError(f"{name} is {getattr(self, name)}; expected at least {smallest}.")
        if not 0 < self.drop < 1:
            raise SettingsError(f"drop is {self.drop:g}; expected a share above 0 and below 1: 1% or 0.01.")
        num_dropped(self.documents, self.drop)

    def scored_like(self, run: Run) -> ScoreSettings:
        """Return the settings that a run was scored by, with the pool where it is now."""
        found = ScoreSettings.from_record(run.record.settings)
        background = methods.background_of(found.method) if run.record.is_rescoring else found.background
        return replace(found, pool=self.pool or found.pool, background=background, store=None)

    def proxy_like(self, asked: ScoreSettings) -> ProxySettings:
        """Return the proxy that is retrained: all of its weights, in no coarser type than single precision."""
        dtype = "float64" if asked.dtype == "float64" else "float32"
        same = self.model is None
        return ProxySettings(
            model=self.model or asked.model,
            revision=asked.revision if same else None,
            dtype=dtype,
            device=self.devices[0] if self.devices else asked.device,
        )


def default_validate_out(settings: ValidateSettings) -> Path:
    """Return where the figures go when no folder is given: `<first run>-validation`."""
    first = Path(settings.runs[0])
    return first.with_name(f"{first.resolve().name}-validation")


@dataclass(frozen=True, kw_only=True)
class VerifySettings:
    """A selection, what its training is measured on, and what it is compared with."""

    selection: str
    """Folder that `curate select` wrote."""
    target: tuple[str, ...] = ()
    """Rows that took no part in scoring; empty: those that the run kept aside (`score --holdout`)."""
    pool: tuple[str, ...] = ()
    """Where the pool is now, if it has moved."""
    other: tuple[str, ...] = ()
    """Text that is not the target's; empty: a sample of the pool, on which no arm trains."""
    other_documents: int = 256
    """Size of that sample."""
    seeds: int = 3
    """Orders of the documents, and draws of the random arms."""
    recipe: Recipe = field(default_factory=Recipe)
    """Its steps follow from the tokens; a batch has the tokens that its number of documents has on average."""
    tokens: int | None = None
    """Tokens that every arm trains on; None: as many as the selection has."""
    sweep: tuple[float, ...] = ()
    """Shares of the run's ranking to train on, too, by the same budget."""
    baselines: tuple[str, ...] = ("bm25", "embedding")
    """Methods whose choice of as many tokens as the selection has is trained on."""
    all_times: float = 4.0
    """How many budgets the arm `all` has at most for its one random pass over the pool; 0: no such arm."""
    points: int = 6
    """Of every learning curve, beside its start."""
    model: str | None = None
    """Proxy that is trained; None: that of the run."""
    device: str | None = None
    batch_tokens: int | None = None
    """Tokens of a micro-batch; None: by device."""
    allow_seen_target: bool = False
    """Go on though rows of the target took part in scoring."""
    seed: int = 0
    """Seeds the sample of other text, and the random arms; orders have the recipe's."""

    def __post_init__(self) -> None:
        for name, least in (("seeds", 1), ("points", 1), ("other_documents", 1), ("tokens", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise SettingsError(f"{name} is {value}; expected at least {least}.")
        if self.recipe.steps is not None or self.recipe.epochs != 1:
            raise SettingsError(
                "The recipe gives steps or epochs; every arm trains on equal tokens.",
                hint="Leave them out, and say with --tokens how long to train.",
            )
        if wrong := [s for s in self.sweep if not 0 < s <= 1]:
            raise SettingsError(f"sweep has {wrong[0]:g}; expected shares above 0 and at most 1: 1%,5%,20%.")
        for name in self.baselines:
            methods.get(name)
        if RANDOM in self.baselines:
            raise SettingsError("random is an arm of its own already.", hint="Leave --baseline random out.")
        if self.all_times < 0:
            raise SettingsError(f"all_times is {self.all_times:g}; expected 0 or more.")


def default_verify_out(settings: VerifySettings) -> Path:
    """Return where a verification goes when no folder is given: `<selection>-verified`."""
    path = Path(settings.selection)
    return path.with_name(f"{path.resolve().name}-verified")
