"""The figures of a report: plain records, which `--json` prints as they are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from curate.fidelity import Check
from curate.reports.tokens import TokenScore

VARIABLES = {"n_tokens": "length", "loss": "loss", "grad_norm": "gradient norm"}
"""Variables that scores are compared with: column and name for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Counts of equal bins between two values; the outermost bins include everything beyond."""

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Scores of documents whose variable lies between two of its quantiles."""

    low: float
    high: float
    quantiles: tuple[float, ...]
    """Of the score, at figures.BAND."""


BAND = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """One score column over the whole run."""

    column: str
    label: str
    mean: float | None
    std: float | None
    quantiles: Mapping[str, float | None]
    """q00 (the least) … q100 (the largest)."""
    positive: float
    """Share of documents with score > 0."""
    histogram: Histogram
    mass: float | None
    """Share of Σ|score| in the 1 % of documents with the largest |score|."""
    concentration: tuple[tuple[float, float], ...]
    """(share of documents, their share of Σ|score|), from the largest |score| on."""
    spearman: Mapping[str, float | None]
    """Rank correlation with every variable that the method computes."""
    spearman_of_size: Mapping[str, float | None]
    """The same of |score|; of `score` alone, empty for groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Typical:
    """A variable's median over the run, and over the best 5 %."""

    median: float | None
    median_of_best: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Documents with one value of a column of the pool."""

    value: str | None
    documents: int
    tokens: int
    mean: float | None
    quantiles: Mapping[str, float | None]
    """q05, q25, q50, q75, q95 of the score."""
    share: float
    """Of the run's documents."""
    share_of_best: Mapping[str, float]
    """Of the best 5 % by every score column."""
    enrichment: float | None
    """Its share of the best 5 % over its share of the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """Documents of equal content."""

    contents: int
    """Contents of more than one document."""
    copies: int
    """Documents beyond the first of their content."""
    largest: int
    """Documents of the commonest content."""
    copies_in_best: int
    """Among the best 5 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contamination:
    """Documents that hold the target."""

    exact: int
    """Documents that hold a whole target row."""
    overlapping: int
    """Documents that hold OVERLAP or more of a row's 13-grams, those with a whole row included."""
    in_best: int
    """How many of these are among the best 1 %."""


OVERLAP = 0.5
"""The threshold of filters/decontaminate.sql, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Excerpt:
    """One document at an end of the ranking."""

    column: str
    best: bool
    shard: str
    row: int
    doc_id: str
    score: float
    n_tokens: int
    loss: float | None
    source: str | None
    target_exact: bool
    target_overlap: float
    text: str
    cut: int
    """Characters of the text that are not shown."""
    tokens: tuple[TokenScore, ...] = ()
    """Its first tokens with their parts of the score; none where the run was not scored by token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """All figures of one run."""

    name: str
    path: str
    method: str
    model: str
    target: tuple[str, ...]
    pool: tuple[str, ...]
    method_settings: Mapping[str, Any]
    finished: bool
    documents: int
    tokens: int
    skipped: Mapping[str, int]
    truncated: int
    loss: float | None
    """Of the proxy over the run's text, per token."""
    frequency_loss: float | None
    """The same of a model that knows only how often each token comes."""
    sampled: int | None
    """Documents that distributions and rankings were computed on, where the run has too many for all of them."""
    target_rows: int | None
    heldout_rows: int | None
    scores: tuple[Scores, ...]
    bands: Mapping[str, tuple[Band, ...]]
    """Of `score`, by variable."""
    typical: Mapping[str, Typical]
    by: str
    sources: tuple[Source, ...]
    other_sources: int
    """Values of the column that are not listed."""
    between_groups: tuple[tuple[float | None, ...], ...]
    """Rank correlations of the score columns with each other, in their order."""
    duplicates: Duplicates
    contamination: Contamination
    coverage: Mapping[str, Any] | None
    arithmetic: str | None
    arithmetic_warning: str | None
    smoothness: tuple[float, ...]
    check: Check | None
    excerpts: tuple[Excerpt, ...]
    texts_note: str | None
    """Why excerpts are previews and not the pool's own text."""
    narrowed: str | None
    """Which of the pool's documents were scored; None: all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """How two runs rank the documents that both scored."""

    left: str
    right: str
    documents: int
    spearman: float | None
    overlap: Mapping[str, float | None]
    """Share of the best 1 % and 5 % that both choose: chance gives 0.01 and 0.05."""
