"""A bank of retrainings: one run on all documents, others without some of them, and every query's loss after each.

bank.json            model, recipe, documents and queries, for people
losses/K-S.npy       float64 [queries]: after the retraining of order K that left the documents of hash S out

A retraining is a file, which is there whole or not at all: a killed bank goes on with the next one, a larger one reuses
a smaller one's files, and all methods are judged by the same files.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash

from curate.folders.codecs import ARRAY
from curate.folders.folder import put_json
from curate.folders.kept import Kept
from curate.folders.local import open_folder
from curate.progress import Reporter
from curate.proof.subsets import indicator
from curate.proxies.proxy import Proxy
from curate.proxies.room import Room
from curate.proxies.tokens import Encoded, TokenSettings
from curate.training.losses import mean_losses
from curate.training.microbatches import Corpus
from curate.training.recipe import Recipe
from curate.training.replay import Training
from curate.training.snapshots import in_proxys_precision, trainable


@dataclass(frozen=True, order=True)
class Job:
    """One retraining."""

    repeat: int
    """Number of the order of the documents."""
    left: tuple[int, ...] = ()
    """Positions of the documents that it leaves out."""

    @property
    def name(self) -> str:
        return f"{self.repeat:02d}-{xxhash.xxh3_64_hexdigest(np.array(self.left, np.int64).tobytes())}"


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
    def model(self) -> Any:
        return trainable(self.proxy, self.fitted_recipe)

    @cached_property
    def fitted_recipe(self) -> Recipe:
        """The recipe in the proxy's precision, its batches no larger than the documents are many."""
        recipe = in_proxys_precision(self.recipe, self.proxy)
        return replace(recipe, batch_size=min(recipe.batch_size, len(self.documents)))

    def training(self, job: Job) -> Training:
        """Return a retraining, whose steps differ only in the weights of the documents left out."""
        recipe = replace(self.fitted_recipe, seed=self.fitted_recipe.seed + job.repeat)
        keep = torch.from_numpy(1 - indicator(job.left, len(self.corpus)))
        return Training(self.model, self.corpus, recipe, weights=self.corpus.spread(keep))

    def losses(self, job: Job) -> np.ndarray:
        """Retrain and return every query's mean loss per token afterwards."""
        return mean_losses(self.model, self.training(job).run().parameters, self.aims).numpy()

    def fingerprint(self) -> str:
        """Hash all that decides the losses."""
        parts = ["1", self.proxy.device.type, self.training(Job(0)).fingerprint(), self.aims.fingerprint()]
        return xxhash.xxh3_128_hexdigest(" ".join(parts).encode())

    def job_seconds(self) -> float:
        """Return the seconds of a retraining, from measuring one step and one evaluation of the queries."""
        training = self.training(Job(0))
        state = training.start()
        begun = time.perf_counter()
        state = training.optimiser.update(state, training.gradient(state)[1])
        middle = time.perf_counter()
        mean_losses(self.model, state.parameters, self.aims)
        return training.steps * (middle - begun) + time.perf_counter() - middle


class Bank:
    """The retrainings of one laboratory in a folder; `fetch` makes the missing ones."""

    def __init__(self, laboratory: Laboratory, root: Path) -> None:
        """Open or make the bank under `root`, in a folder named by its fingerprint."""
        self.laboratory = laboratory
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

    def fetch(
        self,
        jobs: Sequence[Job],
        reporter: Reporter,
        *,
        elsewhere: Callable[["Bank", Sequence[Job]], Any] | None = None,
    ) -> np.ndarray:
        """Return losses `[jobs, queries]`; retrain where they are missing.

        `elsewhere` makes missing ones in other processes and yields once for each; see `workers`.
        """
        missing = self.missing(jobs)
        if missing:
            with reporter.stage("retraining", total=len(missing), unit="models") as task:
                for _ in map(self.make, missing) if elsewhere is None else elsewhere(self, missing):
                    task.advance(1)
        return np.stack([self.make(job) for job in jobs])

    def make(self, job: Job) -> np.ndarray:
        """Return the losses after one retraining; keep them."""
        return self._kept.at(job.name, lambda: self.laboratory.losses(job))
