"""A bank of retrainings: one run on all documents, others without some of them, and every query's loss after each.

bank.json            model, recipe, documents and queries, for people
losses/K-S.npy       float64 [queries]: after the retraining of order K that left the documents of hash S out
losses/K-tokens-S.npy  the same without the loss of the tokens of hash S

A retraining is a file, which is there whole or not at all: a killed bank goes on with the next one, a larger one reuses
a smaller one's files, and all methods are judged by the same files.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash

from curate.errors import CurateError
from curate.executors.contract import Executor
from curate.executors.local import Local
from curate.folders.codecs import ARRAY
from curate.folders.folder import Folder, put_json
from curate.folders.kept import Kept
from curate.folders.local import open_folder
from curate.progress import Reporter
from curate.proof.subsets import indicator
from curate.proxies.proxy import Proxy, keep_freed_memory, load_proxy
from curate.proxies.room import Room
from curate.proxies.settings import ProxySettings
from curate.proxies.tokens import Encoded, TokenSettings
from curate.training.losses import mean_losses
from curate.training.microbatches import Corpus
from curate.training.recipe import Recipe
from curate.training.replay import DivergedError, Training
from curate.training.snapshots import in_proxys_precision, trainable

_MEASURED_STEPS = 3


@dataclass(frozen=True, order=True)
class Job:
    """One retraining."""

    repeat: int
    """Number of the order of the documents."""
    left: tuple[int, ...] = ()
    """Positions of the documents that it leaves out, or of the tokens among all of the corpus."""
    by_token: bool = False
    """Whether tokens are left out: they are read, and carry no loss."""

    @property
    def name(self) -> str:
        kind = "tokens-" if self.by_token else ""
        return f"{self.repeat:02d}-{kind}{xxhash.xxh3_64_hexdigest(np.array(self.left, np.int64).tobytes())}"


@dataclass(frozen=True, kw_only=True)
class Laboratory:
    """The ingredients of a retraining: a model, documents, a recipe, and queries to measure."""

    proxy: Proxy
    recipe: Recipe
    documents: Sequence[Encoded]
    queries: Sequence[Encoded]
    tokens: TokenSettings
    room: Room
    """How many tokens a micro-batch has."""

    @cached_property
    def corpus(self) -> Corpus:
        return Corpus(self.documents, self.tokens, room=self.room)

    @cached_property
    def aims(self) -> Corpus:
        return Corpus(self.queries, self.tokens, room=self.room)

    @cached_property
    def labels(self) -> np.ndarray:
        """The tokens that carry loss, int64 `[labels]`: their places among all of the corpus."""
        scored = np.concatenate([d.scored for d in self.documents])
        scored[self.corpus.starts[:-1]] = False  # nothing predicts a document's first token
        return np.flatnonzero(scored)

    @cached_property
    def model(self) -> Any:
        return trainable(self.proxy, self.fitted_recipe)

    @cached_property
    def fitted_recipe(self) -> Recipe:
        """The recipe in the proxy's precision, its batches no larger than the documents are many."""
        recipe = in_proxys_precision(self.recipe, self.proxy)
        return replace(recipe, batch_size=min(recipe.batch_size, len(self.documents)))

    def training(self, job: Job) -> Training:
        """Return a retraining, whose steps differ only in the weights of what is left out."""
        recipe = replace(self.fitted_recipe, seed=self.fitted_recipe.seed + job.repeat)
        keep = torch.from_numpy(1 - indicator(job.left, self.corpus.num_tokens if job.by_token else len(self.corpus)))
        weights = keep if job.by_token else self.corpus.spread(keep)
        return Training(self.model, self.corpus, recipe, weights=weights)

    def losses(self, job: Job) -> np.ndarray:
        """Retrain and return every query's mean loss per token afterwards; NaN where the training diverges."""
        try:
            return mean_losses(self.model, self.training(job).run().parameters, self.aims).numpy()
        except DivergedError:
            return np.full(len(self.queries), np.nan)

    def fingerprint(self) -> str:
        """Hash all that decides the losses."""
        parts = ["1", self.proxy.device.type, self.training(Job(0)).fingerprint(), self.aims.fingerprint()]
        return xxhash.xxh3_128_hexdigest(" ".join(parts).encode())

    def job_seconds(self) -> float:
        """Return the seconds of a retraining, from measuring some steps and one evaluation of the queries.

        The first step warms up and does not count: it may take ten times as long as the others.
        """
        training = self.training(Job(0))
        start = training.start()
        state = training.optimiser.update(start, training.gradient(start)[1])
        measured = min(_MEASURED_STEPS, training.steps - 1) or 1
        begun = time.perf_counter()
        for _ in range(measured):
            state = start if training.steps == 1 else state
            state = training.optimiser.update(state, training.gradient(state)[1])
        middle = time.perf_counter()
        mean_losses(self.model, state.parameters, self.aims)
        return training.steps * (middle - begun) / measured + time.perf_counter() - middle


class Bank:
    """The retrainings of one laboratory in a folder; `fetch` makes the missing ones."""

    def __init__(self, laboratory: Laboratory, root: Path | str) -> None:
        """Open or make the bank under `root`, in a folder named by its fingerprint."""
        self.laboratory, self.root = laboratory, root
        self.folder = open_folder(root).child(laboratory.fingerprint())
        self._kept = Kept(self.folder.child("losses"), ARRAY)
        record = {
            "model": laboratory.proxy.settings.model,
            "recipe": laboratory.fitted_recipe.as_dict(),
            "documents": [d.content_hash for d in laboratory.documents],
            "queries": [d.content_hash for d in laboratory.queries],
        }
        put_json(self.folder, "bank.json", record)

    def missing(self, jobs: Sequence[Job]) -> list[Job]:
        """Return the retrainings that are missing, each once."""
        return [j for j in dict.fromkeys(jobs) if not self._kept.has(j.name)]

    def fetch(self, jobs: Sequence[Job], reporter: Reporter, executor: Executor | None = None) -> np.ndarray:
        """Return losses `[jobs, queries]`; have an executor (None: this process) retrain where they are missing."""
        missing = self.missing(jobs)
        if missing:
            with reporter.stage("retraining", total=len(missing), unit="models") as task:
                work = Retraining.of(self)
                with (executor or Local()).hired(work, len(missing), reporter) as do_all:
                    do_all(missing, task)
        return np.stack([self.make(job) for job in jobs])

    def make(self, job: Job) -> np.ndarray:
        """Return the losses after one retraining; keep them."""
        return self._kept.at(job.name, lambda: self.laboratory.losses(job))


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """The retrainings of a bank, as work that other processes can do: it travels without the model."""

    proxy: ProxySettings
    recipe: Recipe
    documents: Sequence[Encoded]
    queries: Sequence[Encoded]
    tokens: TokenSettings
    room: Room
    root: Path | str
    folder: Folder
    bank: Bank | None = field(default=None, repr=False)
    """What this process has in memory already; it does not travel."""

    @classmethod
    def of(cls, bank: Bank) -> "Retraining":
        laboratory = bank.laboratory
        return cls(
            proxy=laboratory.proxy.settings,
            recipe=laboratory.recipe,
            documents=laboratory.documents,
            queries=laboratory.queries,
            tokens=laboratory.tokens,
            room=laboratory.room,
            root=bank.root,
            folder=bank.folder,
            bank=bank,
        )

    def open(self) -> Callable[[Job, Callable[[float], None]], None]:
        """Load the model and open the bank. Raises CurateError where the model is another than the bank's."""
        bank = self.bank or self._loaded()

        def retrain(job: Job, advance: Callable[[float], None]) -> None:
            bank.make(job)
            advance(1)

        return retrain

    def _loaded(self) -> Bank:
        keep_freed_memory()
        proxy = load_proxy(self.proxy)
        laboratory = Laboratory(
            proxy=proxy,
            recipe=self.recipe,
            documents=self.documents,
            queries=self.queries,
            tokens=self.tokens,
            room=self.room.elsewhere(proxy.device),
        )
        bank = Bank(laboratory, self.root)
        if bank.folder != self.folder:
            raise CurateError(f"The model at {self.proxy.model} has changed during the retraining.")
        return bank

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"bank": None}
