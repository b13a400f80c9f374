"""What is done to the spans of a pool whose scores are predicted: a student reads documents, a linear model scores.

Free of torch, for students that read text.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from curate import students
from curate.documents import Overlap, Pool, Split, Target
from curate.executors.chunks import ChunkEncoder
from curate.executors.contract import Chunk, PartTables, SpanRows
from curate.executors.tables import arrays_of, metadata_columns, skipped_table
from curate.folders.codecs import ARRAY, JSON
from curate.folders.folder import Folder
from curate.folders.kept import Kept
from curate.schema import SCORE_FIELDS, Document, Skipped
from curate.score_settings import ScoreSettings
from curate.students.contract import Inputs, Reader
from curate.students.fitting import TOKENS, Fitted
from curate.students.judging import LeftOut
from curate.students.lengths import Lengths
from curate.students.settings import PredictSettings

SOURCES = ("domain", "source")
"""Columns of a pool that say where a document comes from; the first that is there counts."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A prediction, resolved and checked. A value: it pickles, and holds no model."""

    settings: PredictSettings
    scoring: ScoreSettings
    """The teacher's, with addresses as they are found from here, and with the pool to predict."""
    pool: Pool
    target: Target
    """All rows: those kept aside may not be in the pool either."""
    split: Split
    columns: tuple[str, ...]
    source: str | None
    """The column that says where a document comes from; None: its shard does."""
    record: dict[str, Any]
    fingerprints: dict[str, str]
    kept: str
    """Names what is learned by all that it depends on."""

    def source_of(self, document: Document) -> str:
        """Return where a document comes from."""
        return document.shard if self.source is None else str(document.metadata.get(self.source))


@dataclass(frozen=True, kw_only=True)
class Learned:
    """The student that predicts, and how long texts are."""

    fitted: Fitted
    lengths: Lengths
    documents: int
    """How many it has learned from."""
    tried: Mapping[str, Any]
    """What a record tells of every student among which it is the best, by name."""

    def told(self) -> dict[str, Any]:
        """Return what a run's record tells of it."""
        figures = {"tried": self.tried, "lengths": asdict(self.lengths)}
        return {"student": self.fitted.student, "documents": self.documents, **figures}

    def keep(self, folder: Folder, name: str) -> None:
        """Keep it in a run's folder: the weights first, so that a record is never there without them."""
        left_out = self.fitted.left_out
        Kept(folder, ARRAY).keep(f"{name}-weights", self.fitted.weights)
        Kept(folder, ARRAY).keep(f"{name}-left-out", np.stack([left_out.truth, left_out.predicted]))
        of_left_out = {"columns": left_out.columns, "sources": left_out.sources}
        Kept(folder, JSON).keep(name, self.told() | {"fitted": self.fitted.as_dict(), "left_out": of_left_out})

    @classmethod
    def find(cls, folder: Folder, name: str) -> "Learned | None":
        """Return what a run's folder keeps; None where it does not."""
        weights, values = (Kept(folder, ARRAY).find(f"{name}-{what}") for what in ("weights", "left-out"))
        content = Kept(folder, JSON).find(name)
        if weights is None or values is None or content is None:
            return None
        columns, sources = tuple(content["left_out"]["columns"]), content["left_out"]["sources"]
        left_out = LeftOut(columns=columns, truth=values[0], predicted=values[1], sources=sources)
        return cls(
            fitted=Fitted.of(content["fitted"], weights, left_out),
            lengths=Lengths(**content["lengths"]),
            documents=content["documents"],
            tried=content["tried"],
        )


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a student reads documents: as texts, or encoded with a proxy in memory."""

    read: Reader
    encoder: Any = None
    """Makes tokens of documents, for a student that reads those."""


def open_reading(name: str, scoring: ScoreSettings, layers: int | None = None) -> Reading:
    """Load what a student needs, of a proxy as the teacher was scored with."""
    student = students.get(name)
    if not student.needs_model:
        return Reading(read=student.read(Inputs(layers=layers)))
    from curate.pipeline.workspace import load, make_batching  # imported here: reading text needs no torch

    proxy, encoder = load(scoring)
    batching = make_batching(scoring, proxy, encoder)
    return Reading(read=student.read(Inputs(proxy=proxy, batching=batching, layers=layers)), encoder=encoder)


def text_chunk(span_rows: SpanRows, overlap: Overlap) -> Chunk:
    """Return the chunk of a span's rows without tokens."""
    documents = [row for row in span_rows.rows if isinstance(row, Document)]
    return Chunk(
        span=span_rows.span,
        documents=documents,
        encoded=[],
        overlaps=overlap.measure_all([d.plain_text for d in documents]),
        skipped=[row for row in span_rows.rows if isinstance(row, Skipped)],
    )


@dataclass(frozen=True, kw_only=True)
class Predicting:
    """Predicts the scores of chunks."""

    encode: Callable[[SpanRows], Chunk]
    reading: Reading
    learned: Learned
    prediction: Prediction

    def __call__(self, chunk: Chunk) -> PartTables:
        """Return a chunk's predicted scores, and the rows that have none."""
        fitted, documents = self.learned.fitted, chunk.documents
        sources = [self.prediction.source_of(d) for d in documents]
        if self.reading.encoder is None:
            texts = [d.plain_text for d in documents]
            read = [self.learned.lengths.read(t) for t in texts]
            scores = fitted(self.reading.read(read), lengths_of(read), sources)
            tokens, truncated = self.learned.lengths.count(
                np.exp(scores[:, fitted.columns.index(TOKENS)]), lengths_of(texts)
            )
        else:
            scores = fitted(self.reading.read(chunk.encoded), lengths_of([e.ids for e in chunk.encoded]), sources)
            tokens = np.array([e.num_scored for e in chunk.encoded], np.int64)
            truncated = np.array([e.truncated for e in chunk.encoded], bool)
        return _tables(chunk, dict(zip(fitted.columns, scores.T, strict=True)), tokens, truncated)


def _tables(chunk: Chunk, scores: dict[str, np.ndarray], tokens: np.ndarray, truncated: np.ndarray) -> PartTables:
    """Return scores and skipped rows; a document without a finite score is set aside."""
    scores = {column: values for column, values in scores.items() if column != TOKENS}
    finite = np.isfinite(np.stack([*scores.values()])).all(0)
    kept = np.flatnonzero(finite).tolist()
    documents, overlaps = [chunk.documents[i] for i in kept], [chunk.overlaps[i] for i in kept]
    lost = [
        Skipped(
            shard=d.shard, row=d.row, doc_id=d.doc_id, reason="non-finite score", detail="of the student's features"
        )
        for d in (chunk.documents[i] for i in np.flatnonzero(~finite))
    ]
    values = {
        **{n: [getattr(d, n) for d in documents] for n in ("doc_id", "shard", "row", "content_hash", "preview")},
        "n_tokens": tokens[kept],
        "truncated": truncated[kept],
        "loss": None,
        "grad_norm": None,
        "score": scores.pop("score")[kept],
        "target_exact": [exact for exact, _ in overlaps],
        "target_overlap": [share for _, share in overlaps],
    }
    arrays = arrays_of(SCORE_FIELDS, values, len(kept))
    arrays |= {column: pa.array(of_column[kept].astype(np.float32)) for column, of_column in scores.items()}
    arrays |= metadata_columns(documents)
    return PartTables(pa.table(arrays), skipped_table([*chunk.skipped, *lost]))


@dataclass(frozen=True, kw_only=True)
class PredictWork:
    """Predicting a pool's scores by what was learned in a run's folder."""

    prediction: Prediction
    folder: Folder
    """The run's folder."""
    stage: str = "predicting"
    hint: str = "Repair or remove the shard, then predict into a new folder (--out)."
    opened: Predicting | None = field(default=None, repr=False)
    """What this process has in memory already; it does not travel."""

    def open(self) -> Predicting:
        """Load what the student needs, and the weights that the run keeps."""
        return self.opened or make_predicting(self.prediction, self.folder)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"opened": None}


def make_predicting(prediction: Prediction, folder: Folder, reading: Reading | None = None) -> Predicting:
    """Return what predicts, by what a run's folder keeps."""
    learned = Learned.find(folder, prediction.kept)
    assert learned is not None
    return predicting_by(learned, prediction, reading)


def predicting_by(learned: Learned, prediction: Prediction, reading: Reading | None = None) -> Predicting:
    """Return what predicts by a student that has learned; load what it needs to read unless that is given."""
    reading = reading or open_reading(learned.fitted.student, prediction.scoring, prediction.settings.layers)
    overlap = Overlap(d.plain_text for d in prediction.target.documents)
    if reading.encoder is None:
        return Predicting(
            encode=lambda span_rows: text_chunk(span_rows, overlap),
            reading=reading,
            learned=learned,
            prediction=prediction,
        )
    encode = ChunkEncoder(encoder=reading.encoder, overlap=overlap)
    return Predicting(encode=encode, reading=reading, learned=learned, prediction=prediction)


def lengths_of(items: Sequence[Any]) -> np.ndarray:
    """Return the length of each, int64."""
    return np.array([len(item) for item in items], np.int64)
