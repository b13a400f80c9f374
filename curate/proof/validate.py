"""LDS and QLD of runs' methods, measured on one bank of retrainings."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from curate import threads
from curate.amounts import counted, duration, size
from curate.errors import CurateError
from curate.executors import Choice
from curate.executors.contract import Executor
from curate.executors.helpful import at_once
from curate.folders.folder import put_text
from curate.folders.local import open_folder
from curate.memory import peak_memory
from curate.progress import Reporter
from curate.proof.bank import Bank, Job, Laboratory
from curate.proof.in_run import in_run, kept_in_run
from curate.proof.lds import Lds, lds
from curate.proof.plots import predicted_against_measured
from curate.proof.predictions import Subject
from curate.proof.qld import Qld, best, qld
from curate.proof.settings import ValidateSettings, num_dropped
from curate.proof.subsets import left_out
from curate.schema import Document

IN_RUN = "MAGIC in the bank's own training"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One method's figures."""

    run: str
    method: str
    lds: Lds
    qld: Qld | None
    best_documents: float | None = None
    """The rise without as large a share of every query's best documents, where the others are of tokens."""


@dataclass(frozen=True, kw_only=True)
class ValidatePlan:
    """The cost of a validation, known before it starts."""

    documents: int
    queries: int
    steps: int
    """Of one retraining."""
    retrainings: int
    there: int
    """How many of these are in the bank already."""
    seconds_each: float
    """From one step that is measured."""
    seconds: float
    """Of the missing retrainings, one after another; scoring the sample by the methods is extra."""
    workers: int | str
    at_once: int
    """How many of the workers make headway at a time."""
    elapsed_seconds: float
    """Of the missing retrainings, so many at a time."""
    disk_bytes: int
    """Of the bank's losses."""
    memory_bytes: int
    """Measured on one step, per worker."""

    @property
    def sentence(self) -> str:
        """Say the totals."""
        more = f" ({self.there:,} more are there already, or equal to another)" if self.there else ""
        return (
            f"Validating takes {counted(self.retrainings - self.there, 'retraining')} of "
            f"{counted(self.steps, 'step')} each{more}: about {duration(self.elapsed_seconds)}{self._shared}, "
            f"{size(self.disk_bytes)} on disk and {size(self.memory_bytes)} of memory. "
            "Scoring the sample by every run's method comes on top."
        )

    @property
    def _shared(self) -> str:
        if self.workers == 1:
            return ""
        fewer = f", {self.at_once} at once" if self.at_once != self.workers else ""
        return f" ({self.workers} workers{fewer})"


@dataclass(frozen=True, kw_only=True)
class Validation:
    """All methods on one bank."""

    bank: str
    documents: int
    queries: int
    subsets: int
    dropped: int
    """Documents that each retraining leaves out, or tokens."""
    repeats: int
    unit: str
    units: int
    """How many documents there are, or tokens that carry loss."""
    judged: tuple[Judged, ...]
    predicted: dict[str, np.ndarray]
    """Summed scores of what was left out, by run, `[subsets, queries]`."""
    measured: np.ndarray
    """Changes of loss in nats per token, `[subsets, queries]`."""

    def record(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        names = ("bank", "documents", "queries", "subsets", "dropped", "repeats", "unit", "units")
        return {n: getattr(self, n) for n in names} | {"methods": [asdict(j) for j in self.judged]}

    def write(self, address: Path | str, plot: Path | str | None = None) -> None:
        """Write validation.json into a folder, and predicted.png there or to `plot`."""
        folder = open_folder(address)
        put_text(folder, "validation.json", json.dumps(self.record(), indent=2, sort_keys=True) + "\n")
        titles = {j.run: f"{Path(j.run).name}: LDS {j.lds.mean:.3f}" for j in self.judged}
        predicted_against_measured(self.predicted, self.measured, titles, plot or folder.child("predicted.png").address)


@dataclass(frozen=True, kw_only=True)
class Validating:
    """A laboratory, the subjects that are judged in it, and where its bank lies."""

    settings: ValidateSettings
    laboratory: Laboratory
    documents: Sequence[Document]
    """The laboratory's documents, unencoded: every method has its own tokens."""
    queries: Sequence[Document]
    subjects: Sequence[Subject]
    root: Path | str
    reporter: Reporter

    @cached_property
    def bank(self) -> Bank:
        return Bank(self.laboratory, self.root)

    @cached_property
    def units(self) -> np.ndarray:
        """What can be left out: positions of documents, or places of tokens that carry loss."""
        return self.laboratory.labels if self.settings.by_token else np.arange(len(self.documents))

    @property
    def dropped(self) -> int:
        return num_dropped(len(self.units), self.settings.drop, self.settings.unit)

    def subset(self, number: int) -> tuple[int, ...]:
        drawn = left_out(len(self.units), self.settings.drop, number, self.settings.seed)
        return tuple(self.units[list(drawn)].tolist())

    def repeated(self, left: Sequence[tuple[int, ...]], *, by_token: bool | None = None) -> list[Job]:
        """Return the retrainings without each of these (None: of what is judged), in every order of the documents."""
        by_token = self.settings.by_token if by_token is None else by_token
        repeats = range(self.settings.repeats)
        return [Job(repeat, places, by_token=by_token and bool(places)) for places in left for repeat in repeats]

    def plan(self, choice: Choice) -> ValidatePlan:
        """Measure some steps and estimate the whole."""
        return self._planned(choice)[0]

    def _planned(self, choice: Choice) -> tuple[ValidatePlan, Executor]:
        """Return the plan, and the executor that the choice makes of so much work."""
        by_token = self.settings.by_token
        subsets = [self.subset(i) for i in range(self.settings.subsets)]
        retrainings = self.repeated([(), *subsets])
        folder = self.bank.folder.child("predictions")
        kept_scores = [s.kept(self.documents, self.queries, folder, by_token=by_token) for s in self.subjects]
        kept_scores += [kept_in_run(self.bank, by_token=by_token)] if self.settings.magic else []
        removals = min(self.settings.removals, len(self.queries)) * self.settings.repeats * len(kept_scores)
        removals *= 2 if by_token else 1
        removal_jobs = [job for scores in kept_scores if scores is not None for job in self._removals(scores)]
        unknown = removals - len(removal_jobs)  # their scores are not made yet
        missing = len(self.bank.missing([*retrainings, *removal_jobs])) + unknown
        proxy, each = self.laboratory.proxy, self.laboratory.job_seconds()
        device = proxy.settings.device
        executor = choice.make(parameters=proxy.coverage.total, seconds=missing * each, device=device)
        if not executor.is_here:  # its processes have fewer threads each
            with threads.as_one_of_several():
                each = self.laboratory.job_seconds()
        workers = executor.described()["workers"]
        together = at_once(workers, device) if isinstance(workers, int) else 1
        plan = ValidatePlan(
            documents=len(self.documents),
            queries=len(self.queries),
            steps=self.laboratory.training(Job(0)).steps,
            retrainings=len(retrainings) + removals,
            there=len(retrainings) + removals - missing,
            seconds_each=each,
            seconds=missing * each,
            workers=workers,
            at_once=together,
            elapsed_seconds=math.ceil(missing / together) * each,
            disk_bytes=missing * (8 * len(self.queries) + 128),
            memory_bytes=peak_memory(proxy.device),
        )
        return plan, executor

    def run(self, choice: Choice) -> Validation:
        """Fill the bank, score the sample by every method, and compare."""
        settings, bank = self.settings, self.bank
        with bank.folder.claim():
            plan, executor = self._planned(choice)
            self._announce(plan, executor)
            subsets = [self.subset(i) for i in range(settings.subsets)]
            by_token = settings.by_token
            baseline, *without = self._losses([(), *subsets], executor, by_token=by_token)
            measured = np.stack(without) - baseline
            scores = {s.run.address: self._predictions(s) for s in self.subjects}
            if settings.magic:
                scores[IN_RUN] = in_run(bank, self.reporter, by_token=by_token)
            predicted = {n: np.stack([values[list(left)].sum(0) for left in subsets]) for n, values in scores.items()}
            rises = self._rises(scores.values(), baseline, executor, by_token=by_token)
            judged = [self._judged(n, predicted[n], measured, r) for n, r in zip(scores, rises, strict=True)]
            if by_token and settings.removals:
                documents = self._rises(map(self._of_documents, scores.values()), baseline, executor, by_token=False)
                of_both = zip(judged, documents, strict=True)
                judged = [replace(j, best_documents=float(rises_of_one.mean())) for j, rises_of_one in of_both]
        return Validation(
            bank=bank.folder.address,
            documents=len(self.documents),
            queries=len(self.queries),
            subsets=settings.subsets,
            dropped=self.dropped,
            repeats=settings.repeats,
            unit=settings.unit,
            units=len(self.units),
            judged=tuple(judged),
            predicted=predicted,
            measured=measured,
        )

    def _announce(self, plan: ValidatePlan, executor: Executor) -> None:
        if plan.retrainings > plan.there:
            self.reporter.note(
                f"{plan.retrainings - plan.there} of {plan.retrainings} retrainings to make, of {plan.steps} steps on"
                f" {plan.documents:,} documents: about {duration(plan.seconds)} of one process's time"
                f" ({plan.seconds_each:.2g} s each); workers: {executor.described()['workers']}."
            )

    def _losses(self, left: Sequence[tuple[int, ...]], executor: Executor, *, by_token: bool) -> np.ndarray:
        """Return every query's loss without each of these, `[left, queries]`, averaged over the repeats."""
        losses = self.bank.fetch(self.repeated(left, by_token=by_token), self.reporter, executor)
        if not np.isfinite(losses).all():
            raise CurateError(
                "A retraining diverged: its losses are not numbers.",
                hint="Lower the recipe's learning_rate, or give it a longer warmup: --set learning_rate=1e-4.",
            )
        return losses.reshape(len(left), self.settings.repeats, -1).mean(1)

    def _predictions(self, subject: Subject) -> np.ndarray:
        if subject.adjoint:
            self.reporter.note(
                f"{subject.run.address} was rescored in a training of its own, which a walk back per query would have"
                " to repeat: judged is the adjoint of its recipe on background documents. --magic judges in-run scores."
            )
        folder, by_token = self.bank.folder.child("predictions"), self.settings.by_token
        scores = subject.predictions(self.documents, self.queries, folder, by_token=by_token)
        if not np.isfinite(scores).all():
            raise CurateError(
                f"The scores of {subject.run.address} in {self.bank.folder.address} are damaged.",
                hint="Delete the folder `predictions` there and start again.",
            )
        return scores

    def _of_documents(self, scores: np.ndarray) -> np.ndarray:
        """Add up tokens' scores by document."""
        return np.add.reduceat(scores, self.laboratory.corpus.starts[:-1])

    def _best(self, scores: np.ndarray, *, by_token: bool) -> list[tuple[int, ...]]:
        """Return the best documents, or tokens, of each query that QLD is measured on."""
        count = min(self.settings.removals, len(self.queries))
        units = self.units if by_token else np.arange(len(self.documents))
        dropped = num_dropped(len(units), self.settings.drop, "token" if by_token else "document")
        return [tuple(units[list(best(scores[units, q], dropped))].tolist()) for q in range(count)]

    def _removals(self, scores: np.ndarray) -> list[Job]:
        """Return the retrainings without queries' best by a method's scores."""
        if not self.settings.by_token:
            return self.repeated(self._best(scores, by_token=False))
        documents = self._best(self._of_documents(scores), by_token=False)
        return [*self.repeated(self._best(scores, by_token=True)), *self.repeated(documents, by_token=False)]

    def _rises(
        self, scores: Iterable[np.ndarray], baseline: np.ndarray, executor: Executor, *, by_token: bool
    ) -> list[np.ndarray]:
        """Return the rises of the queries' losses without their own best, `[removals]`, by every method."""
        best_of_methods = [self._best(values, by_token=by_token) for values in scores]
        left = [places for places_of_queries in best_of_methods for places in places_of_queries]
        if not left:
            return [np.empty(0) for _ in best_of_methods]
        losses = self._losses(left, executor, by_token=by_token)
        rises = (losses - baseline).reshape(len(best_of_methods), len(best_of_methods[0]), -1)
        return [rises_of_one.diagonal() for rises_of_one in rises]

    def _judged(self, name: str, predicted: np.ndarray, measured: np.ndarray, rises: np.ndarray) -> Judged:
        settings = self.settings
        method = next((s.method for s in self.subjects if s.run.address == name), "magic")
        deletion = None
        if count := len(rises):
            deletion = qld(rises, measured[:, :count], resamples=settings.resamples, seed=settings.seed)
        return Judged(
            run=name,
            method=method,
            lds=lds(predicted, measured, resamples=settings.resamples, seed=settings.seed),
            qld=deletion,
        )
