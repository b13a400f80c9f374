"""Scores that a run takes from one that narrows its pool, where both score alike: that of a sample, of a cascade.

What else is in a batch decides a score's rounding. So that equal settings give equal bytes, a run that has begun to
take scores takes them to its end.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from curate.errors import CurateError
from curate.executors.contract import Chunk
from curate.folders.record import differences
from curate.gradients.scored import Scored, in_order
from curate.pipeline.narrowing import Narrowing, identity
from curate.pipeline.origin import decisions
from curate.proxies.tokens import Encoded
from curate.schema import AT_STEP, TOKEN_TEXTS, is_token_column, token_column
from curate.score_settings import NARROWING
from curate.scores.run import Run


def decide(run: Run, narrowing: Narrowing) -> Run | None:
    """Decide once for a run whose scores it takes, keep that in its record, and return that run; None: no run's."""
    if run.record.details.taken_from is None and narrowing.only is not None:
        alike = (identity(other) for other in narrowing.lineage if not _differences(run, other))
        run.add_details(taken_from=next(alike, ""))
    return decided(run, narrowing)


def decided(run: Run, narrowing: Narrowing | None) -> Run | None:
    """Return the run whose scores a run takes, as its record says. Raises CurateError where that one is gone."""
    if narrowing is None or not run.record.details.taken_from:
        return None
    for other in narrowing.lineage:
        if identity(other) == run.record.details.taken_from:
            return other
    raise CurateError(
        f"The run whose scores {run.address} takes is gone, or another has its place.",
        hint="Put it back, or score into another folder (--out).",
    )


def _differences(run: Run, other: Run) -> list[str]:
    """Return what makes two runs score a document differently, in more than rounding."""
    ours, theirs = (
        decisions(r, but=("pool", "fit_from", *NARROWING), but_contents=("only",))
        | {"versions": r.record.json["details"].get("versions")}
        for r in (run, other)
    )
    return differences(theirs, ours)


@dataclass(frozen=True, kw_only=True)
class Taking:
    """Takes the scores of documents that a run has, and computes those of the others."""

    run: Run
    columns: Sequence[str]
    """Of scores, `score` first."""

    def __call__(self, chunk: Chunk, score: Callable[[Sequence[Encoded]], Scored]) -> Scored:
        """Return the scores of a chunk's documents."""
        table, positions = self._taken(chunk)
        others = sorted(set(range(len(chunk.documents))) - set(positions))
        parts = [(positions, self._scored(table))] if positions else []
        parts += [(others, score([chunk.encoded[i] for i in others]))] if others or not parts else []
        return in_order(parts)

    def _taken(self, chunk: Chunk) -> tuple[pa.Table, list[int]]:
        """Return the rows of a chunk's documents that are there, and the documents' positions."""
        span = chunk.span
        parts = [p for p in self.run.parts(span.shard) if p.start < span.end and p.end > span.start]
        if not parts:
            return pa.table({}), []
        names = [n for n in parts[0].schema.names if n in ("row", "content_hash", "n_tokens", "loss", "grad_norm")]
        names += [n for n in parts[0].schema.names if n in self.columns or n.startswith(AT_STEP)]
        names += [n for n in parts[0].schema.names if is_token_column(n) and n != TOKEN_TEXTS]
        table = pa.concat_tables([part.rows(names).replace_schema_metadata() for part in parts])
        keys = zip(*(table[n].to_pylist() for n in ("row", "content_hash", "n_tokens")), strict=True)
        places = {key: place for place, key in enumerate(keys)}
        wanted = [(d.row, d.content_hash, e.num_scored) for d, e in zip(chunk.documents, chunk.encoded, strict=True)]
        positions = [i for i, key in enumerate(wanted) if key in places]
        return table.take(pa.array([places[wanted[i]] for i in positions], pa.int64())), positions

    def _scored(self, table: pa.Table) -> Scored:
        values = {n: table[n].to_numpy() for n in table.column_names if not is_token_column(n) and n != "content_hash"}
        losses = _computed(values["loss"])
        names = [token_column(c) for c in self.columns]
        tokens = [
            torch.from_numpy(np.column_stack(lists).astype(np.float64))
            for lists in zip(*(table[n].to_pylist() for n in names if n in table.column_names), strict=True)
        ]
        return Scored(
            scores=torch.from_numpy(np.column_stack([values[c] for c in self.columns]).astype(np.float64)),
            losses=None if losses is None else losses * torch.from_numpy(values["n_tokens"].astype(np.float64)),
            norms=_computed(values["grad_norm"]),
            tokens=tokens or None,
            more={n: torch.from_numpy(v.astype(np.float64)) for n, v in values.items() if n.startswith(AT_STEP)},
        )


def _computed(values: np.ndarray) -> torch.Tensor | None:
    """Return a diagnostic in float64; None where the method computes none."""
    wide = values.astype(np.float64)
    return None if np.isnan(wide).all() else torch.from_numpy(wide)
