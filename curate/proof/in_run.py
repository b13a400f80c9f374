"""MAGIC in the bank's own training: near the most that summed scores can predict, as a mark beside the methods."""

import shutil
from pathlib import Path

import numpy as np

from curate.folders.atomic import atomic_write
from curate.progress import Reporter
from curate.proof.bank import Bank, Job
from curate.training.adjoint import differentiate
from curate.training.microbatches import Corpus
from curate.training.replay import Replay


def in_run(bank: Bank, reporter: Reporter) -> np.ndarray:
    """Return scores `[documents, queries]` by walking back through the whole training once per query.

    Kept in the bank; a walk that was killed goes on where it was.
    """
    if (known := in_run_known(bank)) is not None:
        return known
    made, folder = bank.laboratory, bank.folder / "replay"
    replay = Replay(made.training(Job(0)), folder)
    with reporter.stage("training", total=replay.training.steps, unit="steps") as task:
        replay.run(task)
    found = []
    with reporter.stage("walking back", total=len(made.queries), unit="queries") as task:
        for i, query in enumerate(made.queries):
            aim = Corpus([query], made.tokens, budget=made.budget)
            found.append(differentiate(replay, aim, f"q{i:04d}").scores.numpy())
            task.advance(1)
    with atomic_write(_file(bank)) as temporary, temporary.open("wb") as file:
        np.save(file, np.stack(found, 1))
    shutil.rmtree(folder)  # gigabytes, and nobody walks that way again
    return np.load(_file(bank))


def in_run_known(bank: Bank) -> np.ndarray | None:
    """Return the scores that the bank keeps; None where they have not been made."""
    return np.load(_file(bank)) if _file(bank).exists() else None


def _file(bank: Bank) -> Path:
    return bank.folder / "magic.npy"
