"""Does training on a selection help? The same proxy, recipe and tokens on it, on random, on others' choices."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from curate import methods
from curate.atomic import remove_leftovers, write_text
from curate.documents import Overlap, read_target
from curate.errors import CurateError, SettingsError
from curate.gradients.documents import Batching, default_budget
from curate.methods._snapshots import in_proxys_precision, trainable
from curate.models import Proxy
from curate.progress import Reporter, Task
from curate.proof.arms import ALL, RANDOM, Arm
from curate.proof.choices import Choices
from curate.proof.fitting import Curve, Measure, fit
from curate.proof.places import draw
from curate.proof.reading import HELDOUT, scored_hashes, usable
from curate.proof.selection import Selected
from curate.proof.spool import Excluded, SpooledCorpus, key_of, spooled, token_batches
from curate.proof.verdict import Outcome, Verification
from curate.schema import Document, group_column
from curate.scores.lock import Lock
from curate.scores.run import Run
from curate.settings import ScoreSettings
from curate.tokens import Encoder
from curate.training.microbatches import Corpus
from curate.training.recipe import Recipe

_OTHER_SEED = 7919  # keeps the sample of other text apart from the random arms' draws


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


@dataclass(frozen=True, kw_only=True)
class Verifying:
    """A selection that was read and found fit to be verified."""

    settings: VerifySettings
    selected: Selected
    asked: ScoreSettings
    """As its run was scored, with pool and model as they are now."""
    held_out: list[Document]
    out: Path

    @classmethod
    def open(cls, settings: VerifySettings, out: Path) -> "Verifying":
        """Read the selection and the target. Raises CurateError where rows of the target took part in scoring."""
        selected = Selected.read(Path(settings.selection))
        _refuse_foreign(out)
        found = ScoreSettings.of_record(selected.run.settings)
        dtype = "float64" if found.dtype == "float64" else "float32"
        asked = replace(
            found,
            pool=settings.pool or found.pool,
            model=settings.model or found.model,
            revision=found.revision if settings.model is None else None,
            device=settings.device or found.device,
            dtype=dtype,
        )
        held_out = _held_out(settings, selected, found)
        if not settings.allow_seen_target:
            _refuse_seen(held_out, selected.run)
        return cls(settings=settings, selected=selected, asked=asked, held_out=held_out, out=out)

    def run(
        self,
        proxy: Proxy,
        encoder: Encoder,
        *,
        score: Callable[..., Run],
        reporter: Reporter,
        plot: Path | None = None,
    ) -> Verification:
        """Train all arms that are not there yet, compare them, and leave figures and curves in the folder."""
        budget = self.settings.batch_tokens or default_budget(proxy)
        batching = Batching(tokens=encoder.settings, budget=budget)
        (self.out / "arms").mkdir(parents=True, exist_ok=True)
        lock = Lock(self.out)
        try:
            remove_leftovers(self.out / "arms")
            choices = Choices(
                selected=self.selected,
                settings=self.asked,
                baselines=self.settings.baselines,
                sweep=self.settings.sweep,
                out=self.out,
                seed=self.settings.seed,
                score=score,
                reporter=reporter,
            )
            found = _Comparison(
                verifying=self, proxy=proxy, encoder=encoder, batching=batching, choices=choices, reporter=reporter
            ).compare()
        finally:
            lock.release()
        found.write(self.out, plot)
        return found


@dataclass(frozen=True, kw_only=True)
class _Comparison:
    """All arms on one proxy."""

    verifying: Verifying
    proxy: Proxy
    encoder: Encoder
    batching: Batching
    choices: Choices
    reporter: Reporter

    @property
    def settings(self) -> VerifySettings:
        return self.verifying.settings

    @cached_property
    def recipe(self) -> Recipe:
        return in_proxys_precision(self.settings.recipe, self.proxy)

    @cached_property
    def other(self) -> list[Document]:
        settings, fields = self.settings, self.verifying.asked.fields
        if settings.other:
            return read_target(settings.other, fields).documents
        places = draw([self.choices.index], settings.seed + _OTHER_SEED, documents=settings.other_documents)
        return list(places.read(self.choices.pool, fields))

    @cached_property
    def excluded(self) -> Excluded:
        held_out = self.verifying.held_out
        hashes = frozenset(d.content_hash for d in [*held_out, *self.other])
        return Excluded(hashes=hashes, overlap=Overlap(d.plain_text for d in held_out))

    @cached_property
    def measure(self) -> Measure:
        model = trainable(self.proxy, self.recipe)
        target, other = (
            self._corpus(usable(documents, self.encoder)[1]) for documents in (self.verifying.held_out, self.other)
        )
        return Measure(model=model, target=target, other=other)

    @property
    def tokens(self) -> int:
        return self.settings.tokens or self.verifying.selected.tokens

    @property
    def step_tokens(self) -> float:
        """Tokens of a batch: those of as many documents as the recipe says, of the run's mean length."""
        return self.recipe.batch_size * self.verifying.selected.mean_tokens

    def steps(self, times: float) -> int:
        return max(1, round(times * self.tokens / self.step_tokens))

    def compare(self) -> Verification:
        arms = self.choices.arms(self.tokens, self.settings.all_times)
        shared = self._shared_key()
        untrained = self._kept("untrained", key_of(shared), self._untrained)
        wanted = [(arm, seed) for arm in arms for seed in range(self.settings.seeds)]
        curves: dict[str, list[Curve]] = {arm.name: [] for arm in arms}
        counts: dict[str, dict[str, int]] = {}
        total, last = sum(self.steps(arm.times) for arm, _ in wanted), arms[-1]
        longer = f"; {ALL}: {last.times:.3g} times as many" if last.name == ALL else ""
        self.reporter.note(
            f"{len(wanted)} trainings ({len(arms)} arms, {self.settings.seeds} seeds) of {self.tokens:,} tokens in"
            f" {self.steps(1)} steps each{longer}."
        )
        with self.reporter.stage("training", total=total, unit="steps") as task:
            for arm, seed in wanted:
                key = key_of(shared, arm.key, arm.times, self.tokens, self.steps(arm.times), seed)
                make = partial(self._trained, arm, seed, untrained, task)
                made = self._kept(f"{arm.name}-{seed}", key, make)
                curves[arm.name].append(Curve(**made["curve"]))
                counts.setdefault(arm.name, made["counts"])
        shutil.rmtree(self.verifying.out / "spools", ignore_errors=True)
        outcomes = tuple(
            Outcome(name=a.name, times=a.times, counts=counts[a.name], curves=tuple(curves[a.name])) for a in arms
        )
        return Verification(
            selection=str(self.settings.selection),
            tokens=self.tokens,
            steps=self.steps(1),
            held_out=len(self.measure.target),
            others=len(self.measure.other),
            outcomes=outcomes,
            untrained=untrained,
            out=str(self.verifying.out),
        )

    def _trained(self, arm: Arm, seed: int, untrained: dict[str, float], task: Task) -> dict[str, Any]:
        """Train one arm from one seed."""
        which = f"{arm.name}-{seed}" if arm.per_seed else arm.name
        folder = self.verifying.out / "spools" / f"{which}-{key_of(self._shared_key(), arm.key, arm.per_seed and seed)}"
        counts = spooled(
            folder, lambda: arm.documents(seed), self.encoder, self.excluded, what=which, reporter=self.reporter
        )
        corpus = SpooledCorpus(folder, self.batching.tokens, budget=self.batching.budget)
        recipe = replace(self.recipe, seed=self.recipe.seed + seed)
        steps = self.steps(arm.times)
        batches = token_batches(corpus.scored, tokens=round(arm.times * self.tokens), steps=steps, seed=recipe.seed)
        curve = fit(self.measure, corpus, recipe, batches, points=self.settings.points, untrained=untrained, task=task)
        if arm.per_seed:
            shutil.rmtree(folder)
        return {"curve": curve.as_dict(), "counts": counts}

    def _untrained(self) -> dict[str, float]:
        target, other = self.measure(self.measure.model.parameters())
        return {"target": target, "other": other}

    def _kept(self, name: str, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what a file of these dependencies holds, making it if need be."""
        path = self.verifying.out / "arms" / f"{name.replace(' ', '-').replace('%', '')}-{key}.json"
        if not path.exists():
            write_text(path, json.dumps(make(), sort_keys=True) + "\n")
        return json.loads(path.read_text(encoding="utf-8"))

    def _shared_key(self) -> str:
        recipe: Mapping[str, Any] = self.recipe.as_dict()
        return key_of(
            1,
            self.proxy.fingerprint(),
            sorted(recipe.items()),
            self.batching,
            self.proxy.device.type,
            self.settings.points,
            self.measure.target.fingerprint(),
            self.measure.other.fingerprint(),
        )

    def _corpus(self, documents: Sequence[Any]) -> Corpus:
        return Corpus(documents, self.batching.tokens, budget=self.batching.budget)


def default_verify_out(settings: VerifySettings) -> Path:
    """Return where a verification goes when no folder is given: `<selection>-verified`."""
    path = Path(settings.selection)
    return path.with_name(f"{path.resolve().name}-verified")


def _held_out(settings: VerifySettings, selected: Selected, asked: ScoreSettings) -> list[Document]:
    """Read the rows to report on: those given, else what the run kept aside of the group that was selected for."""
    fields = asked.target_fields or asked.fields
    if settings.target:
        return read_target(settings.target, fields).documents
    aside = _kept_aside(selected.run)
    if selected.column == "score":
        return read_target(aside, fields).documents
    kept = read_target(aside, fields, group_by=asked.group_by)
    return [d for d, g in zip(kept.documents, kept.groups, strict=True) if group_column(g) == selected.column]


def _kept_aside(run: Run) -> str:
    path = run.path / HELDOUT
    if not path.exists():
        raise SettingsError(
            f"No target was given, and {run.path} kept no rows of its own aside.",
            hint="Give rows that took no part in scoring: --target heldout.jsonl. `score --holdout 30%` keeps some.",
        )
    return str(path)


def _refuse_seen(held_out: Sequence[Document], run: Run) -> None:
    hint = "Give other rows (`score --holdout 30%` keeps some aside), or accept it with --allow-seen-target."
    try:
        known = scored_hashes(run)
    except CurateError as error:
        message = f"Whether rows of the target took part in scoring cannot be told: {error.message}"
        raise CurateError(message, hint=hint) from error
    if seen := [d for d in held_out if d.content_hash in known]:
        first = f"the first is row {seen[0].row} of {seen[0].shard}"
        raise CurateError(f"{len(seen)} of {len(held_out)} rows took part in scoring; {first}.", hint=hint)


def _refuse_foreign(out: Path) -> None:
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "arms").is_dir())):
        raise SettingsError(f"{out} is there and is no verification.", hint="Give another folder with --out.")
