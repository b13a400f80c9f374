"""MAGIC in the bank's own training: a reference near the most that summed scores can predict."""

from functools import partial
from pathlib import Path

import numpy as np

from curate.folders.codecs import ARRAY
from curate.folders.kept import Kept, workplace
from curate.progress import Reporter
from curate.proof.bank import Bank, Job, Laboratory
from curate.training.adjoint import differentiate
from curate.training.microbatches import Corpus
from curate.training.replay import Replay


def in_run(bank: Bank, reporter: Reporter, *, by_token: bool = False) -> np.ndarray:
    """Return scores `[documents, queries]` by walking back through the whole training once per query.

    By token they are those of all tokens of the corpus, `[all_tokens, queries]`.

    The scores are kept in the bank; a killed walk goes on where it stopped.
    """
    with workplace(bank.folder, "replay") as folder:
        walk = partial(_walked, bank.laboratory, folder, reporter, by_token)
        return Kept(bank.folder, ARRAY).at(_name(by_token), walk)


def kept_in_run(bank: Bank, *, by_token: bool = False) -> np.ndarray | None:
    """Return the scores that the bank keeps; None where it keeps none."""
    return Kept(bank.folder, ARRAY).find(_name(by_token))


def _name(by_token: bool) -> str:
    return "magic-tokens" if by_token else "magic"


def _walked(laboratory: Laboratory, folder: Path, reporter: Reporter, by_token: bool) -> np.ndarray:
    replay = Replay(laboratory.training(Job(0)), folder)
    with reporter.stage("training", total=replay.training.steps, unit="steps") as task:
        replay.run(task)
    scores = []
    with reporter.stage("walking back", total=len(laboratory.queries), unit="queries") as task:
        for i, query in enumerate(laboratory.queries):
            aim = Corpus([query], laboratory.tokens, room=laboratory.room)
            adjoint = differentiate(replay, aim, f"q{i:04d}")
            scores.append((adjoint.token_scores if by_token else adjoint.scores).numpy())
            task.advance(1)
    return np.stack(scores, 1)
