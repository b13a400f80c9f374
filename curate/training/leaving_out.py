"""Short retrainings without some documents, against what in-run scores say of them: a check of the derivatives.

A walk back that ends at step k differentiates by weights from that step on. So each retraining starts there, from the
run's own state, and takes a random twentieth of the documents of these steps out of all of them.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from curate.fidelity import Check
from curate.folders.codecs import ARRAY
from curate.folders.kept import Kept
from curate.folders.local import open_folder
from curate.progress import Reporter
from curate.training.adjoint import Adjoint
from curate.training.language import LanguageModel
from curate.training.losses import mean_losses
from curate.training.microbatches import Corpus
from curate.training.optimisers import State
from curate.training.replay import DivergedError, Replay, Training

SHARE = 0.05


def check(
    replay: Replay,
    targets: Mapping[str, Corpus],
    adjoints: Mapping[str, Adjoint],
    reporter: Reporter,
    *,
    retrainings: int,
    since: int = 0,
) -> Check:
    """Compare the rises of the targets' losses after retrainings with those that their adjoints predict.

    The adjoints need to have scores of the documents of `left_out` alone.
    `since` is the step, counted from 0, at which the walks back ended. Every retraining's losses are kept in the
    replay's folder: a killed check goes on with the next one and ends with the same figures.
    """
    training = replay.training
    subsets = left_out(training, retrainings, since=since)
    scores = torch.stack([adjoint.scores for adjoint in adjoints.values()], 1).numpy()
    kept = Kept(open_folder(replay.folder / f"retrainings-{since:06d}"), ARRAY)
    rows, steps = sum(map(len, targets.values())), training.steps - since
    total = num_documents(retrainings, steps, len(training.batches[since]), rows)
    with reporter.stage("check", total=total, grows="check") as task:
        end = kept.at("none", lambda: _losses(training, replay.state_at(training.steps), targets))
        task.advance(rows)
        rises = []
        for i, subset in enumerate(subsets):
            rises.append(kept.at(f"{i:04d}", partial(_retrained, replay, targets, subset, since)) - end)
            task.advance((total - rows) / retrainings)
    replay.forget_passing()
    return Check(
        groups=tuple(targets),
        predicted=np.stack([scores[subset].sum(0) for subset in subsets]),
        measured=np.stack(rises),
        left_out=len(subsets[0]),
        documents=len(_documents(training, since)),
    )


def left_out(training: Training, retrainings: int, *, since: int = 0) -> list[list[int]]:
    """Return the documents that each retraining leaves out."""
    return [_drawn(training, since, i) for i in range(retrainings)]


def num_documents(retrainings: int, steps: int, batch: int, rows: int) -> int:
    """Return how many documents a check passes through the model, those of the target included, once more for the run.

    `steps` are those that each retraining takes, of `batch` documents; `rows` are the target's.
    """
    return retrainings * steps * batch + (retrainings + 1) * rows if retrainings else 0


def as_tensors(checked: Check) -> dict[str, Tensor]:
    """Return a check's figures as tensors to keep; `reported` reads them."""
    return {
        "check.predicted": torch.from_numpy(checked.predicted),
        "check.measured": torch.from_numpy(checked.measured),
        "check.documents": torch.tensor([checked.left_out, checked.documents]),
    }


def reported(kept: Mapping[str, Tensor], groups: Sequence[str], reporter: Reporter) -> dict[str, Any]:
    """Say how a kept check of these groups came out, and return its details for the record."""
    left_out, documents = kept["check.documents"].tolist()
    predicted, measured = kept["check.predicted"].numpy(), kept["check.measured"].numpy()
    checked = Check(
        groups=tuple(groups), predicted=predicted, measured=measured, left_out=left_out, documents=documents
    )
    reporter.note(" ".join(filter(None, (checked.sentence, checked.advice))))
    return checked.details()


def _documents(training: Training, since: int) -> list[int]:
    """Return the documents of the steps from one on."""
    return sorted({document for batch in training.batches[since:] for document in batch})


def _drawn(training: Training, since: int, number: int) -> list[int]:
    documents = _documents(training, since)
    drawn = np.random.default_rng([training.recipe.seed, 4, number]).permutation(documents)
    return sorted(int(i) for i in drawn[: max(1, round(SHARE * len(documents)))])


def _retrained(replay: Replay, targets: Mapping[str, Corpus], left: list[int], since: int) -> np.ndarray:
    """Train without some documents from a step on, and return every target's loss afterwards; NaN where it diverges."""
    training = replay.training
    keep = torch.ones(len(training.corpus), dtype=torch.float64)
    keep[left] = 0
    weights = training.corpus.spread(keep)
    if training.weights is not None:
        weights = weights * training.weights
    without = Training(training.model, training.corpus, training.recipe, weights=weights, batches=training.batches)
    try:
        return _losses(training, without.run(replay.state_at(since)), targets)
    except DivergedError:
        return np.full(len(targets), np.nan)


def _losses(training: Training, state: State, targets: Mapping[str, Corpus]) -> np.ndarray:
    """Return each target's mean over its documents of their mean token loss, as it was differentiated."""
    model, means = training.model, []
    assert isinstance(model, LanguageModel)
    for corpus in targets.values():
        losses = mean_losses(model, state.parameters, corpus)
        means.append(float(losses.sum()) / max(1, int((corpus.scored > 0).sum())))
    return np.array(means)
