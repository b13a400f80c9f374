"""Short retrainings of the proxy, each without some documents, against what a run's scores say of these documents.

For methods that do not differentiate through a training, which check themselves (`training.leaving_out`). All runs of
one proxy, pool and target are checked by the same retrainings, which a run takes from one that lies beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from curate.documents import sample_rows
from curate.errors import CurateError
from curate.executors import Choice
from curate.fidelity import Check
from curate.folders.codecs import ARRAY, JSON
from curate.folders.folder import Folder
from curate.folders.kept import Kept, workplace
from curate.methods.contract import EncodedTarget, Scorer
from curate.pipeline.workspace import Workspace
from curate.progress import Reporter
from curate.proof.bank import Bank, Job, Laboratory
from curate.proof.subsets import left_out
from curate.proxies.tokens import Encoded
from curate.scores.run import Run
from curate.training.recipe import Recipe

DOCUMENTS = 1024
"""Of the pool, in one pass of 16 steps."""
SHARE = 0.05
_LEAST_DOCUMENTS = 20


@dataclass(frozen=True, kw_only=True)
class Checking:
    """Documents to train on, which of them each retraining leaves out, and the target's rows that are measured."""

    laboratory: Laboratory
    left: Sequence[tuple[int, ...]]
    """By retraining, positions among the laboratory's documents."""
    target: EncodedTarget

    @classmethod
    def of(cls, workspace: Workspace, retrainings: int) -> "Checking":
        """Draw documents of the pool. Raises CurateError where they are too few."""
        settings = workspace.settings
        sample = workspace.encoder(sample_rows(workspace.pool, DOCUMENTS, settings.seed, settings.fields))
        documents = list({d.content_hash: d for d in sample if d.num_scored > 0}.values())
        if len(documents) < _LEAST_DOCUMENTS:
            raise CurateError(
                f"A sample of the pool has {len(documents)} usable documents; a check retrains on at least"
                f" {_LEAST_DOCUMENTS}.",
                hint="Leave --check out.",
            )
        control = () if workspace.against is None else workspace.against.encoded
        laboratory = Laboratory(
            proxy=workspace.proxy,
            recipe=Recipe(),
            documents=documents,
            queries=[*workspace.target.encoded, *control],
            tokens=workspace.batching.tokens,
            room=workspace.batching.room,
        )
        left = [left_out(len(documents), SHARE, i, settings.seed) for i in range(retrainings)]
        return cls(laboratory=laboratory, left=left, target=workspace.target)

    @property
    def jobs(self) -> list[Job]:
        """One training on all documents, and the retrainings."""
        return [Job(0), *(Job(0, positions) for positions in self.left)]

    @property
    def seconds(self) -> float:
        """How long all retrainings take one process, from measured steps."""
        return len(self.jobs) * self.laboratory.job_seconds()

    def compared(self, workspace: Workspace, scorer: Scorer, losses: np.ndarray) -> Check:
        """Compare the jobs' losses `[jobs, rows]` with the scores of what was left out."""
        positions = sorted({position for left in self.left for position in left})
        scores = self._by_group(workspace, scorer, [self.laboratory.documents[i] for i in positions])
        masks = np.array([np.isin(positions, left) for left in self.left], np.float64)
        means = np.stack([losses[:, rows].mean(1) for rows in self._rows_of_groups()], 1)
        if (target_rows := len(self.target.encoded)) < losses.shape[1]:
            means -= losses[:, target_rows:].mean(1, keepdims=True)
        return Check(
            groups=tuple(self.target.names),
            predicted=masks @ scores,
            measured=means[1:] - means[0],
            left_out=len(self.left[0]),
            documents=len(self.laboratory.documents),
            in_nats=False,
        )

    def _rows_of_groups(self) -> list[list[int]]:
        return list(self.target.by_group(range(len(self.target.encoded))).values())

    def _by_group(self, workspace: Workspace, scorer: Scorer, documents: Sequence[Encoded]) -> np.ndarray:
        """Return scores `[documents, groups]`; 0 for a document without a finite one."""
        scores = scorer(documents, workspace.batching).scores.cpu().double().numpy()
        groups = scores[:, 1:] if len(self.target.names) > 1 else scores
        return np.nan_to_num(groups, nan=0.0, posinf=0.0, neginf=0.0)


def check_scores(
    run: Run, workspace: Workspace, retrainings: int, scorer: Scorer, choice: Choice, reporter: Reporter
) -> None:
    """Retrain without documents of the pool, compare with their scores, and report and record how they agree.

    Retrainings and figures are kept in the run: another start makes neither again.
    """
    checking = Checking.of(workspace, retrainings)
    depends_on = {"laboratory": checking.laboratory.fingerprint(), "left": checking.left}

    def figures() -> dict[str, Any]:
        neighbours = workspace.neighbours(run.folder)
        losses = Kept(run.folder, ARRAY, neighbours).get(
            "check/losses", depends_on, lambda: _retrained(run.folder, checking, choice, reporter)
        )
        return checking.compared(workspace, scorer, losses).details()

    details = Kept(run.folder, JSON).get("check/figures", depends_on, figures)
    checked = Check.of(details)
    reporter.note(" ".join(filter(None, (checked.sentence, checked.advice))))
    run.add_details(checked={"check": details})


def _retrained(folder: Folder, checking: Checking, choice: Choice, reporter: Reporter) -> np.ndarray:
    """Have the workers make the retrainings; those that a killed start has made are not made again."""
    laboratory = checking.laboratory
    rows = len(checking.jobs) * len(laboratory.documents)
    executor = choice.make(
        parameters=laboratory.proxy.coverage.total, rows=rows, device=laboratory.proxy.settings.device
    )
    with workplace(folder, "check") as scratch:
        return Bank(laboratory, scratch).fetch(checking.jobs, reporter, executor)
