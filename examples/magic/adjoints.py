"""Scores by walking back through training: MAGIC in the attributed run, and adjoints of runs on other documents."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from laboratory import Arrays, Laboratory

from curate.methods.magic import SNAPSHOTS
from curate.training.adjoint import differentiate, snapshot
from curate.training.language import LanguageModel
from curate.training.microbatches import Corpus
from curate.training.optimisers import Tensors
from curate.training.replay import Replay, Training
from curate.training.smoothness import short_smoothness

KINDS = ("linear", "embeddings", "rest")
"""Kinds of parameters whose products are kept apart: layers that the whole-pool scorer tracks; matrices that it does
not (embeddings and the head); norms and biases."""


@dataclass(frozen=True, kw_only=True)
class Background:
    """A training run on documents that the attributed run does not see, and where on its way back it is looked at."""

    name: str
    part: int = 0
    """Which set of background documents."""
    share: float = 1.0
    """How much of the set: 0.5 half, 2 this one and the next."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the attributed run's recipe; `steps` and `learning_rate` as multiples of it."""
    positions: tuple[float, ...] = SNAPSHOTS
    """Steps of the snapshots, as shares of the run."""
    fewer: bool = False
    """Whether the setup's fewer queries do."""


def in_run(lab: Laboratory, positions: tuple[float, ...]) -> Arrays:
    """Return the scores of the attributed run itself, and of its own adjoint at some steps."""
    training = Training(lab.model, lab.own, lab.recipe)
    return lab.kept("adjoints/own run", lambda: _walked(lab, "own run", training, positions, lab.queries, whole=True))


def elsewhere(lab: Laboratory, background: Background) -> Arrays:
    """Return the adjoint scores of the attributed run's documents by a run on others."""
    changes = dict(background.recipe)
    if "steps" in changes:
        changes["steps"] = round(changes["steps"] * lab.setup.steps)
    if "learning_rate" in changes:
        changes["learning_rate"] = changes["learning_rate"] * lab.recipe.learning_rate
    documents = lab.corpus(lab.background(background.part, background.share))
    training = Training(lab.model, documents, replace(lab.recipe, **changes))
    queries = lab.queries[: lab.setup.fewer_queries] if background.fewer else lab.queries
    walk = partial(_walked, lab, background.name, training, background.positions, queries)
    return lab.kept(f"adjoints/{background.name}", walk)


def step_of(position: float, steps: int) -> int:
    """Return the step at a share of a run, as `score --method magic` counts."""
    return min(int(position * steps), steps - 1)


def _walked(
    lab: Laboratory,
    name: str,
    training: Training,
    positions: tuple[float, ...],
    queries: Sequence[Corpus],
    *,
    whole: bool = False,
) -> Arrays:
    """Train, and walk back from every query: to the start for the run's own scores, else to the first snapshot.

    A killed walk goes on where it was; the folder, which holds a gradient per step, is removed at the end.
    """
    folder = lab.folder / "replays" / name
    replay = Replay(training, folder)
    replay.run()
    steps = sorted({step_of(p, training.steps) for p in positions})
    found: Arrays = {"smoothness": np.array(short_smoothness(replay).agreement)}
    scores, losses = [], []
    for i, query in enumerate(queries):
        adjoint = differentiate(replay, query, f"query-{i}", snapshots=steps, until=0 if whole else steps[0])
        scores.append(adjoint.scores.numpy())
        losses.append(adjoint.loss)
        print(f"{name}: query {i + 1} of {len(queries)}", flush=True)
    found["losses"] = np.array(losses)
    if whole:
        found["scores"] = np.stack(scores)
    for step in steps:
        found[f"step {step}"] = _products(lab, replay, step, len(queries))
    shutil.rmtree(folder)
    return found


def _products(lab: Laboratory, replay: Replay, step: int, queries: int) -> np.ndarray:
    """Return ⟨directions, ∇ℓ_z⟩ `[kinds, queries, documents]`: every kind of parameter's part of the adjoint score."""
    kept = [snapshot(replay, f"query-{i}", step) for i in range(queries)]
    parameters, model = kept[0].parameters, lab.model
    kinds = kinds_of(model, parameters)
    rows = {name: torch.stack([k.directions[name].flatten() for k in kept]) for name in parameters}
    del kept
    found = torch.zeros(len(KINDS), queries, len(lab.own), dtype=torch.float64)
    for document in range(len(lab.own)):
        for name, gradient in document_gradient(model, parameters, lab.own, document).items():
            found[kinds[name], :, document] += (rows[name] @ gradient.flatten()).double()
    return found.numpy()


def document_gradient(model: LanguageModel, parameters: Tensors, corpus: Corpus, document: int) -> Tensors:
    """Return the gradient of a document's summed loss."""
    (batch,) = corpus.microbatches([document])
    return model.gradients(parameters, batch, batch.scored.to(next(iter(parameters.values())).dtype))[1]


def kinds_of(model: LanguageModel, parameters: Tensors) -> dict[str, int]:
    """Return each parameter's place in `KINDS`."""
    return {n: 0 if n in model.matrices else 1 if p.ndim > 1 else 2 for n, p in parameters.items()}
