"""Make every arm of a comparison: the selection, other methods' selections, draws from the pool."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from curate import methods
from curate.documents import Pool
from curate.errors import CurateError
from curate.folders.folder import Folder
from curate.progress import Reporter
from curate.proof.arms import (
    ALL,
    BEST_DOCUMENTS,
    RANDOM_TOKENS,
    SELECTION,
    SWEPT,
    Arm,
    select_best,
    selected_documents,
)
from curate.proof.masking import chosen_tokens
from curate.proof.places import draw
from curate.proof.selection import Selected
from curate.proof.settings import RANDOM
from curate.proof.spool import key_of
from curate.schema import Document
from curate.score_settings import ScoreSettings
from curate.scores.run import Run, list_runs
from curate.scores.session import pool_of
from curate.settings import changed

_BEST = "best-documents"


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Makes the arms; the runs and selections behind them are kept in the comparison's folder and reused."""

    selected: Selected
    settings: ScoreSettings
    """As the selection's run was scored, with pool and model as they are now."""
    baselines: Sequence[str]
    sweep: Sequence[float]
    out: Folder
    seed: int
    score: Callable[..., Run]
    """The function that scores a pool: (settings, out, reporter=…)."""
    reporter: Reporter

    @cached_property
    def pool(self) -> Pool:
        """The pool that was scored. Raises CurateError where it has changed."""
        return pool_of(self.selected.run, self.settings.pool)

    @cached_property
    def index(self) -> Run:
        """The run that random documents are drawn from: one that has scored the whole pool."""
        without_model = [m for m in self.baselines if "model" not in methods.get(m).NEEDS]
        candidates = without_model or list(self.baselines)[:1]
        return self.scored(candidates[0]) if candidates else self._selection_run()

    def arms(self, tokens: int, all_times: float) -> list[Arm]:
        """Return all arms; `tokens` is the budget that each trains on."""
        pool = self.pool
        arms = [self._selection(), self._drawn(RANDOM, tokens, 1.0)]
        if self.selected.is_of_tokens:
            arms += [self._random_tokens(), self._best_documents()]
        for method in dict.fromkeys(self.baselines):
            budget, column = self.selected.budget, self.selected.column
            ranking = self.selected.ranking
            how: dict[str, Any] = {"column": column, "ranking": ranking, "tokens": budget, "pool": pool}
            key = select_best(self.scored(method), self._choices, method, **how)
            arms.append(self._dump(method, self._choices.child(method), key))
        for share in self.sweep:
            name = f"{SWEPT}{100 * share:g}%"
            file_name = name.replace(" ", "-").replace("%", "")
            key = select_best(
                self._selection_run(),
                self._choices,
                file_name,
                column=self.selected.column,
                ranking=self.selected.ranking,
                share=share,
                filters=self.selected.filters,
                pool=pool,
            )
            arms.append(self._dump(name, self._choices.child(file_name), key))
        if all_times:
            passes = (self.index.totals or {})["tokens"] / tokens
            arms.append(self._drawn(ALL, tokens, min(all_times, passes)))
        return arms

    def neighbour(self, method: str) -> Run | None:
        """Return a finished run beside the selection's of the same pool and target by another method, if any."""
        own_run = self.selected.run
        if not own_run.folder.is_here:  # in an object store none is looked for, at a request each
            return None
        neighbours = list_runs(own_run.path.parent) if own_run.path.parent.is_dir() else []
        for run in neighbours:
            fingerprints, own_fingerprints = run.record.fingerprints, own_run.record.fingerprints
            is_same = all(getattr(fingerprints, k) == getattr(own_fingerprints, k) for k in self._needs(method))
            is_default = run.record.method == method and self._is_default(run, method)
            if run.is_finished and is_same and is_default and self.selected.column in run.record.details.columns:
                return run
        return None

    def scored(self, method: str) -> Run:
        """Return a run of the same pool and target by another method: one beside the selection's, else a new one."""
        if (run := self.neighbour(method)) is not None:
            self.reporter.note(f"{method}: scored in {run.address} already.")
            return run
        offers = methods.get(method).OFFERS
        settings = changed(
            self.settings,
            method=method,
            method_settings={},
            background=None,
            per_token=False,
            against=self.settings.against if "against" in offers else (),
        )
        return self.score(settings, self.out.child("baselines").child(method).address, reporter=self.reporter)

    def _needs(self, method: str) -> tuple[str, ...]:
        """Return the fingerprints that must be equal; a method without a model needs none of the model."""
        needs = methods.get(method).NEEDS
        return ("pool", "target", *(name for name in ("model", "checkpoints") if name in needs))

    def _is_default(self, run: Run, method: str) -> bool:
        defaults = asdict(methods.get(method).Settings())
        return {k: v for k, v in run.record.method_settings.items() if k in defaults} == defaults

    @property
    def _choices(self) -> Folder:
        return self.out.child("choices")

    def _selection_run(self) -> Run:
        try:
            run = Run.open(self.selected.run.address)
        except CurateError as error:
            raise CurateError(
                f"{self.selected.run.address}: the selection's run is not there.",
                hint="Start this where the selection was made; only --sweep and runs without baselines need it.",
            ) from error
        record = self.selected.run.record.json
        run.refuse_other(record["settings"], record["fingerprints"])
        return run

    def _selection(self) -> Arm:
        fingerprint = self.selected.manifest["fingerprint"]
        if not self.selected.is_of_tokens:
            return self._dump(SELECTION, self.selected.folder, fingerprint)
        return Arm(
            name=SELECTION,
            key=fingerprint,
            documents=lambda _: chosen_tokens(self.selected, self.settings.fields),
        )

    def _random_tokens(self) -> Arm:
        return Arm(
            name=RANDOM_TOKENS,
            key=key_of(self.selected.manifest["fingerprint"], self.seed),
            per_seed=True,
            documents=lambda seed: chosen_tokens(self.selected, self.settings.fields, 1000 * (self.seed + 1) + seed),
        )

    def _best_documents(self) -> Arm:
        """Return the arm of the best documents, by the same filters and column, of as many tokens that carry loss."""
        key = select_best(
            self._selection_run(),
            self._choices,
            _BEST,
            column=self.selected.column,
            ranking=self.selected.ranking,
            tokens=self.selected.budget,
            filters=self.selected.filters,
            pool=self.pool,
        )
        return self._dump(BEST_DOCUMENTS, self._choices.child(_BEST), key)

    def _dump(self, name: str, folder: Folder, key: str) -> Arm:
        return Arm(name=name, key=key, documents=lambda _: selected_documents(folder, self.settings.fields))

    def _drawn(self, name: str, tokens: int, times: float) -> Arm:
        budget = round(times * tokens)

        def documents(seed: int) -> Iterator[Document]:
            places = draw([self.index], 1000 * (self.seed + 1) + seed, tokens=round(1.02 * budget))
            return places.read(self.pool, self.settings.fields)

        key = key_of(self.pool.fingerprint(), self.seed, budget)
        return Arm(name=name, key=key, times=times, per_seed=True, documents=documents)
