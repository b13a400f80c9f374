"""Training runs small enough to be repeated for every weight, and the slow truth about their scores."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from curate.proxies.room import Room
from curate.proxies.tokens import Encoded, TokenSettings
from curate.training.adjoint import Adjoint, differentiate, target_loss
from curate.training.language import LanguageModel
from curate.training.microbatches import Corpus, MicroBatch
from curate.training.optimisers import Tensors
from curate.training.recipe import Recipe
from curate.training.replay import Replay, Training
from tests.small_models import random_documents, tiny_model

# Fourth-order central differences: points in steps of the size, and their weights.
STENCIL = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
SMALL = {"num_hidden_layers": 1, "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2}
RECIPE = Recipe(
    precision="float64", batch_size=4, steps=5, learning_rate=0.01, epsilon=1e-5, warmup=2, schedule="linear"
)


def recipe(**changes: Any) -> Recipe:
    return replace(RECIPE, **changes)


def corpus(lengths: Sequence[int] = (5, 9, 12, 7, 3, 30, 8), *, seed: int = 0, budget: int = 40) -> Corpus:
    """Random documents, one of them of two windows."""
    return Corpus(random_documents(lengths, seed=seed), TokenSettings(context=16, long="windows"), room=Room(budget))


def target(seed: int = 9) -> Corpus:
    return corpus((6, 10), seed=seed)


def training(budget: int = 40, weights: Tensor | None = None, **changes: Any) -> Training:
    chosen = recipe(**changes)
    return Training(
        LanguageModel(tiny_model(num_key_value_heads=1, **SMALL), chosen),
        corpus(budget=budget),
        chosen,
        weights=weights,
    )


def adjoint(run: Training, folder: Path, *, aim: Corpus | None = None, **options: Any) -> Adjoint:
    replay = Replay(run, folder, **options)
    replay.run()
    return differentiate(replay, aim or target())


def slope(run: Training, direction: Tensor, *, aim: Corpus | None = None, size: float = 3e-4) -> float:
    """-dφ/ds of a whole retraining with token weights 1 + s·direction."""
    total = 0.0
    for steps, share in STENCIL.items():
        weights = 1 + steps * size * direction
        moved = Training(run.model, run.corpus, run.recipe, weights=weights).run()
        total -= share / size * target_loss(run.model, moved.parameters, aim or target())[0]
    return total


def one_document(corpus: Corpus, document: int) -> Tensor:
    """The direction that gives one document more weight."""
    values = torch.zeros(len(corpus), dtype=torch.float64)
    values[document] = 1
    return corpus.spread(values)


class Regression:
    """Least squares: document i says that y_i = ⟨x_i, θ⟩, in one token whose id is i."""

    matrices: frozenset[str] = frozenset()

    def __init__(self, inputs: Tensor, outputs: Tensor) -> None:
        self.inputs, self.outputs = inputs, outputs

    @staticmethod
    def corpus(rows: Sequence[int]) -> Corpus:
        documents = [
            Encoded(ids=np.array([0, i], np.int32), scored=np.array([False, True]), truncated=False) for i in rows
        ]
        return Corpus(documents, TokenSettings(context=2), room=Room(1000))

    def parameters(self) -> Tensors:
        return {"theta": torch.zeros(self.inputs.shape[1], 1, dtype=torch.float64)}

    def gradients(self, parameters: Tensors, batch: MicroBatch, coefficients: Tensor) -> tuple[Tensor, Tensors]:
        x, y = self._rows(batch)
        rest = x @ parameters["theta"] - y
        losses = torch.cat([rest**2 / 2, torch.zeros_like(rest)], 1)
        return losses, {"theta": x.T @ (rest * coefficients[:, :1])}

    def products(
        self, parameters: Tensors, directions: Tensors, batch: MicroBatch, coefficients: Tensor
    ) -> tuple[Tensor, Tensors]:
        x, _ = self._rows(batch)
        product = x.T @ (x @ directions["theta"] * coefficients[:, :1])
        return self.slopes(parameters, directions, batch), {"theta": product}

    def slopes(self, parameters: Tensors, directions: Tensors, batch: MicroBatch) -> Tensor:
        x, y = self._rows(batch)
        rest = x @ parameters["theta"] - y
        return torch.cat([rest * (x @ directions["theta"]), torch.zeros_like(rest)], 1)

    def _rows(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        rows = batch.batch.labels[:, 0]
        return self.inputs[rows], self.outputs[rows]
