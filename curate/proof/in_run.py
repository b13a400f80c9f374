"""MAGIC in the bank's own training: near the most that summed scores can predict, as a mark beside the methods."""

from pathlib import Path

import numpy as np

from curate.folders.codecs import ARRAY
from curate.folders.kept import Kept, workplace
from curate.progress import Reporter
from curate.proof.bank import Bank, Job, Laboratory
from curate.training.adjoint import differentiate
from curate.training.microbatches import Corpus
from curate.training.replay import Replay


def in_run(bank: Bank, reporter: Reporter) -> np.ndarray:
    """Return scores `[documents, queries]` by walking back through the whole training once per query.

    Kept in the bank; a walk that was killed goes on where it was.
    """
    with workplace(bank.folder, "replay") as folder:
        return Kept(bank.folder, ARRAY).at("magic", lambda: _walked(bank.laboratory, folder, reporter))


def in_run_known(bank: Bank) -> np.ndarray | None:
    """Return the scores that the bank keeps; None where they have not been made."""
    return Kept(bank.folder, ARRAY).find("magic")


def _walked(made: Laboratory, folder: Path, reporter: Reporter) -> np.ndarray:
    replay = Replay(made.training(Job(0)), folder)
    with reporter.stage("training", total=replay.training.steps, unit="steps") as task:
        replay.run(task)
    found = []
    with reporter.stage("walking back", total=len(made.queries), unit="queries") as task:
        for i, query in enumerate(made.queries):
            aim = Corpus([query], made.tokens, budget=made.budget)
            found.append(differentiate(replay, aim, f"q{i:04d}").scores.numpy())
            task.advance(1)
    return np.stack(found, 1)
