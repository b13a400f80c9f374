"""Score a sample by a run's method for single queries, a column per query.

A run keeps one column per group of its target, and a group is an average; retrainings differ by single queries. So the
method is prepared once more with every query as a group. Expensive values that do not depend on the target (curvature,
second moments) are read from the run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xxhash

from curate import methods
from curate.folders.codecs import ARRAY
from curate.folders.folder import Folder
from curate.folders.kept import Kept, workplace
from curate.folders.local import open_folder
from curate.folders.record import canonical
from curate.folders.tensors import TENSORS
from curate.methods.contract import EncodedTarget, Inputs
from curate.progress import Silent
from curate.proxies.tokens import Encoder
from curate.rescoring.settings import METHODS as RESCORED
from curate.schema import Document
from curate.scores.run import Run
from curate.settings import build

_DIRECTION_BYTES = 2e9  # of the directions of the queries that are prepared together
_UNKNOWN_TO_METHODS = ("shortlist", "repeats")  # a rescoring's own settings


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One run whose method is judged."""

    run: Run
    inputs: Inputs
    """As for the run itself; `kept` reads the values that the run keeps."""

    @property
    def method(self) -> str:
        return self.run.record.method or ""

    @property
    def encoder(self) -> Encoder:
        """Makes documents the tokens that the method scores."""
        return Encoder(self.inputs.proxy.tokenizer, self.inputs.batching.tokens)

    @property
    def adjoint(self) -> bool:
        """Whether this is a rescoring, whose in-run scores belong to another training: its adjoint is judged."""
        return self.method in RESCORED and self.run.record.is_rescoring

    def settings(self) -> Any:
        """Return the method's settings, as the run recorded them."""
        values = {n: v for n, v in self.run.record.method_settings.items() if v is not None}
        if self.adjoint:
            values = {n: v for n, v in values.items() if n not in _UNKNOWN_TO_METHODS}
            values["snapshots"] = values.pop("snapshot")  # a rescoring has one
        if values.pop("rates", None):
            values["recipe"] = {**values["recipe"], "learning_rate": self.run.record.of_method["learning_rate"]}
        owner = f"Method {self.method!r} of {self.run.address}"
        settings = build(methods.get(self.method).Settings, values, owner=owner)
        # Retrainings are what it is judged by here: it need not check itself.
        return replace(settings, check=0) if hasattr(settings, "check") else settings

    def key(self, documents: Sequence[Document], queries: Sequence[Document], *, by_token: bool = False) -> str:
        """Hash all that decides the scores."""
        hashes = [[d.content_hash for d in sample] for sample in (documents, queries)]
        record = self.run.record.json
        dependencies = {
            "run": record["settings"],
            "fingerprints": record["fingerprints"],
            "hashes": hashes,
            "version": 1,
        } | ({"unit": "token"} if by_token else {})
        return xxhash.xxh3_64_hexdigest(canonical(dependencies).encode())

    def kept(
        self, documents: Sequence[Document], queries: Sequence[Document], folder: Folder, *, by_token: bool = False
    ) -> np.ndarray | None:
        """Return the scores that are kept; None where there are none."""
        return Kept(folder, ARRAY).find(self.key(documents, queries, by_token=by_token))

    def predictions(
        self, documents: Sequence[Document], queries: Sequence[Document], folder: Folder, *, by_token: bool = False
    ) -> np.ndarray:
        """Return scores `[documents, queries]`, kept in `folder`; 0 for a document without a finite score.

        By token they are those of all tokens of the documents, one after another, `[all_tokens, queries]`.
        """
        key = self.key(documents, queries, by_token=by_token)
        return Kept(folder, ARRAY).at(key, lambda: self._scored(documents, queries, folder, by_token))

    def _scored(
        self, documents: Sequence[Document], queries: Sequence[Document], folder: Folder, by_token: bool
    ) -> np.ndarray:
        sample, rows = self.encoder(documents), self.encoder(queries)
        usable = [i for i, e in enumerate(sample) if e.num_scored > 0]
        units = np.cumsum([0, *(len(e.ids) if by_token else 1 for e in sample)])
        places = np.concatenate([np.arange(units[i], units[i + 1]) for i in usable])
        all_scores, settings = np.zeros((units[-1], len(queries))), self.settings()
        step = self._together(len(queries))
        with self.inputs.reporter.stage(f"scoring by {self.method}", total=len(queries), unit="queries") as task:
            for start in range(0, len(queries), step):
                block = rows[start : start + step]
                target = EncodedTarget(
                    encoded=block,
                    groups=[f"{i:06d}" for i in range(len(block))],
                    names=[f"{i:06d}" for i in range(len(block))],
                    fingerprint="queries:" + ",".join(e.content_hash for e in block),
                )
                with workplace(folder, "scratch") as scratch:  # beside, so that curvature is linked
                    neighbours = [self.run.folder, *self.inputs.kept.neighbours]
                    kept = Kept(open_folder(scratch), TENSORS, neighbours)
                    inputs = replace(
                        self.inputs, target=target, kept=kept, per_token=by_token, reporter=_Quiet(), whole=None
                    )
                    scorer = methods.get(self.method).prepare(replace(inputs, record=lambda _: None), settings)
                    scored = scorer([sample[i] for i in usable], inputs.batching)
                    values = torch.cat(scored.tokens) if by_token and scored.tokens else scored.scores
                    scores = values.cpu().double().numpy()
                all_scores[places, start : start + len(block)] = scores[:, 1:] if len(block) > 1 else scores
                task.advance(len(block))
        return np.nan_to_num(all_scores, nan=0.0, posinf=0.0, neginf=0.0)

    def _together(self, queries: int) -> int:
        if "training" in methods.get(self.method).NEEDS:
            return queries
        return int(min(queries, max(1, _DIRECTION_BYTES // (4 * self.inputs.proxy.coverage.tracked))))


class _Quiet(Silent):
    """Drops the warnings that the run itself gave when it was made."""

    def warn(self, message: str) -> None: ...
