"""The result of a selection: what filters have left, and how it is composed."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from curate import __version__
from curate.errors import SettingsError, nearest
from curate.folders.record import as_json
from curate.scores.narrowing import narrowed_note
from curate.scores.run import Run
from curate.scores.views import score_columns
from curate.selection.dump import KIND
from curate.selection.funnel import Funnel, Stage
from curate.selection.ranking import Ranking, ranking_column
from curate.selection.token_columns import TokenFigures
from curate.selection.tokenised import TokenCount


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """One value of a column: its documents in the run, and those that are left."""

    value: Any
    pool_documents: int
    pool_tokens: int
    documents: int
    tokens: int
    mean_score: float | None
    """Of what ranked: `Selection.ranked_by`."""
    enrichment: float
    """Its share of the selection's documents (of its tokens, where tokens are chosen) over its share of the run's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The result of a selection: the funnel, and the documents that are left."""

    run: Run
    unit: str
    ranking: Ranking
    column: str
    """The run's score column that chose the documents."""
    stages: tuple[Stage, ...]
    documents_before: int
    tokens_before: int
    documents: int
    tokens: int
    by: str
    composition: tuple[Composition, ...]
    seconds: float
    out: Path | str | None
    """A URL where it lies in an object store."""
    changes: tuple[str, ...] = ()
    """Sentences on what is written otherwise than the pool has it."""
    token_figures: TokenFigures | None = None
    """Where tokens were chosen."""
    token_count: TokenCount | None = None
    """What was written as tokens."""

    @property
    def ranked_by(self) -> str:
        """What chose the documents: `score_law per token`."""
        return self.ranking.label(self.column)

    def record(self) -> dict[str, Any]:
        """Return the selection as JSON values, as manifest.json holds it."""
        tokenised = {} if self.token_count is None else {"tokenised": asdict(self.token_count)}
        return as_json(
            {
                "kind": KIND,
                "format": 1,
                "curate": __version__,
                "run": {"path": self.run.address, **self.run.record.json},
                "unit": self.unit,
                "ranking": {**asdict(self.ranking), "column": self.column},
                "filters": [asdict(s) for s in self.stages],
                "before": {"documents": self.documents_before, "tokens": self.tokens_before},
                "narrowed": narrowed_note(self.run.record),
                "after": {"documents": self.documents, "tokens": self.tokens},
                "composition": {"by": self.by, "rows": [asdict(c) for c in self.composition]},
                "changes": list(self.changes),
                "seconds": round(self.seconds, 3),
                **({} if self.token_figures is None else {"tokens": asdict(self.token_figures)}),
                **tokenised,
            }
        )


def composition_column(funnel: Funnel, by: str | None) -> str:
    """Return the given column, else that of the last `quota`, else `source`, else `shard`."""
    names = funnel.schema.names
    if by is None:
        divided = [s.values["by"] for s in funnel.stages if s.name == "quota" and s.values["by"] in names]
        return divided[-1] if divided else "source" if "source" in names else "shard"
    if by not in names:
        raise SettingsError(f"--by: no column {by!r}.", hint=nearest(by, list(names)))
    return by


def _enrichment(kept: int, kept_in_all: int, before: int, before_in_all: int) -> float:
    """Return a share of what is left over the same share before; 0.0 where nothing is left."""
    return (kept / kept_in_all) / (before / before_in_all) if kept_in_all and before else 0.0


def selection_of(run: Run, funnel: Funnel, unit: str, by: str, start: float, out: Path | str | None) -> Selection:
    """Return what a funnel has left; `start` is when the work began, by `time.perf_counter`."""
    last, ranking = funnel.stages[-1], funnel.ranking
    chosen_by = ranking_column([asdict(s) for s in funnel.stages], score_columns(funnel.schema))
    column = ranking.column if chosen_by == "score" else chosen_by
    rows = [
        Composition(
            value=value,
            pool_documents=documents,
            pool_tokens=tokens,
            documents=kept,
            tokens=kept_tokens,
            mean_score=score,
            enrichment=_enrichment(kept_tokens, last.tokens, tokens, funnel.tokens)
            if unit == "token"
            else _enrichment(kept, last.documents, documents, funnel.documents),
        )
        for value, documents, tokens, kept, kept_tokens, score in funnel.composition(by, column)
    ]
    return Selection(
        run=run,
        unit=unit,
        ranking=ranking,
        column=column,
        stages=tuple(funnel.stages),
        documents_before=funnel.documents,
        tokens_before=funnel.tokens,
        documents=last.documents,
        tokens=last.tokens,
        by=by,
        composition=tuple(rows),
        seconds=time.perf_counter() - start,
        out=out,
    )
