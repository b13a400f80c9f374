"""Why one document has its score: figures for the terminal, JSON and a page."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from curate import __version__
from curate.folders.record import as_json
from curate.reports.page import environment
from curate.reports.tokens import TokenScore
from curate.scores.standing import Standing

MADE_HERE = "<!-- made by `curate why` -->"
"""A mark in the page, so that an explanation replaces no other file."""
SHOWN = 600
"""The most characters of a target row, or of a neighbour, that a page shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowScore:
    """One target row, and the score that the document would have were the row the whole target."""

    shard: str
    row: int
    group: str
    score: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A document whose gradient lies near."""

    doc_id: str
    shard: str
    row: int
    cosine: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why one document of a run has its score."""

    run: str
    method: str
    doc_id: str
    shard: str
    row: int
    n_tokens: int
    truncated: bool
    preview: str
    column: str
    """By which tokens, rows and rank are meant."""
    standings: tuple[Standing, ...]
    """By every score column of the run."""
    left_out: str
    """What it would cost to leave the document out."""
    tokens: tuple[TokenScore, ...]
    """They sum to the score."""
    tokens_note: str | None
    """Why there are no scores of tokens."""
    helps: tuple[RowScore, ...]
    """Target rows with the largest scores, the largest first."""
    hurts: tuple[RowScore, ...]
    """Target rows with negative scores, the lowest first."""
    rows_scored: int
    rows_of: int
    """Target rows of the column."""
    rows_mean: float | None
    """Mean score of the rows that were scored."""
    rows_note: str | None
    """What must be known of the rows, or why there are none."""
    neighbours: tuple[Neighbour, ...]
    store: str | None

    @property
    def standing(self) -> Standing:
        """How it stands by the column that is explained."""
        return next(s for s in self.standings if s.column == self.column)

    def record(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return as_json(asdict(self))

    def html(self) -> str:
        """Return one self-contained page; foreign text is escaped, its control characters shown."""
        template = environment().get_template("why.html.j2")
        css = Markup((Path(__file__).parent / "page.css").read_text(encoding="utf-8"))
        return template.render(e=self, shown=SHOWN, css=css, version=__version__)
