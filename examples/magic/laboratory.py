"""What one study is made on: a model, its training documents, others for background runs, and queries; all on disk."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawing import draw
from transformers import AutoModelForCausalLM, AutoTokenizer

from curate.errors import CurateError, SettingsError
from curate.folders.folder import put_text
from curate.folders.local import open_folder, put_file
from curate.proxies.room import Room
from curate.proxies.tokens import Encoded, TokenSettings
from curate.training.adjoint import target_loss
from curate.training.language import LanguageModel
from curate.training.microbatches import Corpus
from curate.training.optimisers import Tensors
from curate.training.recipe import Recipe
from curate.training.replay import Training

Arrays = dict[str, np.ndarray]
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
HELD_OUT = 128  # documents on which the learning rate is tuned


@dataclass(frozen=True, kw_only=True)
class Setup:
    """All that decides a study's figures, apart from how many retrainings there are of them."""

    model: str
    pools: tuple[str, ...]
    documents: int = 768
    """Of the run that is attributed, and of every background run."""
    background_runs: int = 4
    """Sets of background documents; the first two together are the doubled background."""
    queries: int = 20
    fewer_queries: int = 10
    """The first of them, on which background runs of other sizes and recipes are compared."""
    tokens: int = 64
    """Of every document: longer ones are cut, shorter ones left out."""
    steps: int = 36
    batch: int = 64
    drop: float = 0.02
    """Share of the documents that each retraining goes without."""
    learning_rate: float = 0.0
    """0: the one of `RATES` with the lowest loss on held-out documents."""
    epsilon: float = 1e-8
    """Inside AdamW's root. Much smaller, and single documents' derivatives hold for tiny weights only: STUDY.md."""
    lora: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("documents", "queries", "fewer_queries", "steps", "batch", "background_runs"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; expected at least 1.")
        if not 0 < self.drop < 1 or round(self.drop * self.documents) < 1:
            raise SettingsError(f"drop is {self.drop}; expected a share that is one document at least.")


class Laboratory:
    """The setup's documents, encoded, and the models to train; what was computed is kept in `folder`."""

    def __init__(self, setup: Setup, folder: Path, *, micro: int) -> None:
        """`micro` is the tokens of one micro-batch; it changes speed and last digits, no figure."""
        self.setup, self.folder, self.micro = setup, folder, micro
        folder.mkdir(parents=True, exist_ok=True)
        record, path = json.loads(json.dumps(asdict(setup))), folder / "setup.json"
        if not path.exists():
            put_text(open_folder(folder), path.name, json.dumps(record, indent=2) + "\n")
        elif json.loads(path.read_text(encoding="utf-8")) != record:
            raise CurateError(f"{folder} holds a study of another setup.", hint="Give another folder with --out.")
        sizes = {"own": setup.documents, "queries": setup.queries, "held out": HELD_OUT}
        sizes |= {f"background {i}": setup.documents for i in range(setup.background_runs)}
        self.tokenizer = AutoTokenizer.from_pretrained(setup.model)
        drawn = draw(setup.model, setup.pools, self.tokenizer, setup.tokens, sum(sizes.values()), setup.seed)
        self._drawn: dict[str, list[Encoded]] = {}
        for name, size in sizes.items():
            self._drawn[name], drawn = drawn[:size], drawn[size:]
        self.own = self.corpus(self._drawn["own"])
        self.queries = [self.corpus([query]) for query in self._drawn["queries"]]

    @property
    def query_documents(self) -> list[Encoded]:
        return self._drawn["queries"]

    def background(self, part: int, share: float = 1.0) -> list[Encoded]:
        """Return a background's documents: part of a set, or more than one set."""
        sets = [self._drawn[f"background {(part + i) % self.setup.background_runs}"] for i in range(int(share) or 1)]
        documents = [document for one in sets for document in one]
        return documents[: round(share * len(documents))] if share < 1 else documents

    def corpus(self, documents: list[Encoded]) -> Corpus:
        return Corpus(documents, TokenSettings(context=self.setup.tokens), room=Room(self.micro))

    @cached_property
    def model(self) -> LanguageModel:
        """The model before any training of the study."""
        loaded = AutoModelForCausalLM.from_pretrained(self.setup.model, dtype=torch.float32)
        return LanguageModel(loaded, self._recipe)

    @property
    def _recipe(self) -> Recipe:
        setup = self.setup
        return Recipe(
            steps=setup.steps,
            batch_size=setup.batch,
            epsilon=setup.epsilon,
            lora_rank=setup.lora,
            seed=setup.seed,
        )

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe that is attributed, with its learning rate."""
        rate = self.setup.learning_rate
        if not rate:
            tuned = self.kept("learning_rates", self._tuned)
            rate = float(tuned["rates"][tuned["losses"].argmin()])
        return replace(self._recipe, learning_rate=rate)

    def _tuned(self) -> Arrays:
        held_out, losses = self.corpus(self._drawn["held out"]), []
        for rate in RATES:
            try:
                end = Training(self.model, self.own, replace(self._recipe, learning_rate=rate)).run()
                losses.append(target_loss(self.model, end.parameters, held_out)[0])
            except CurateError:  # diverged
                losses.append(float("inf"))
        before = target_loss(self.model, self.model.parameters(), held_out)[0]
        return {"rates": np.array(RATES), "losses": np.array(losses), "before": np.array(before)}

    def losses(self, parameters: Tensors) -> np.ndarray:
        """Return every query's mean loss per token."""
        return np.array([target_loss(self.model, parameters, query)[0] for query in self.queries])

    def kept(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        """Return arrays of the study's folder, made now if they are not there."""
        path = self.folder / f"{name}.npz"
        if not path.exists():
            made: Any = make()

            def write(temporary: Path) -> None:
                with temporary.open("wb") as file:  # given a path, NumPy would add its suffix
                    np.savez(file, **made)

            put_file(path, write)
        with np.load(path) as file:
            return dict(file)
