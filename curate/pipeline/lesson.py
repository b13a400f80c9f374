"""What a student learns from: documents of a finished run, the teacher, with their scores."""

import numpy as np
import polars as pl

from curate.documents import Pool, documents
from curate.errors import CurateError
from curate.fields import Fields
from curate.pipeline.predicting import Prediction, Reading, lengths_of
from curate.progress import Reporter
from curate.proxies.settings import MAX_DEFAULT_CONTEXT
from curate.schema import Document
from curate.score_settings import ScoreSettings
from curate.scores.run import Run
from curate.scores.session import open_session, pool_of
from curate.scores.views import quoted
from curate.students.fitting import TOKENS, Sample
from curate.students.lengths import Lengths

LEAST = 50
"""Documents that can be learned from."""


class Lesson:
    """Documents of the teacher, with their rows of its scores."""

    def __init__(self, frame: pl.DataFrame, documents: list[Document]) -> None:
        self.frame, self.documents = frame, documents

    def lengths(self, scoring: ScoreSettings) -> Lengths:
        """Return what the documents say about texts that the teacher reads."""
        return Lengths.of(
            [d.plain_text for d in self.documents],
            self.frame["n_tokens"].to_numpy(),
            self.frame["truncated"].to_numpy(),
            None if scoring.long == "windows" else scoring.context or MAX_DEFAULT_CONTEXT,
        )

    def sample(self, reading: Reading, lengths: Lengths, prediction: Prediction) -> Sample:
        """Return what a student learns from."""
        columns = {c: self.frame[c].cast(pl.Float64).to_numpy() for c in prediction.columns}
        if reading.encoder is None:
            texts = [lengths.read(d.plain_text) for d in self.documents]
            features, sizes = reading.read(texts), lengths_of(texts)
            columns[TOKENS] = np.log(self.frame["n_tokens"].to_numpy() / np.maximum(sizes, 1))
        else:
            encoded = reading.encoder(self.documents)
            features, sizes = reading.read(encoded), lengths_of([e.ids for e in encoded])
        return Sample(
            features=features,
            sizes=sizes,
            sources=[prediction.source_of(d) for d in self.documents],
            contents=[d.content_hash for d in self.documents],
            columns=columns,
        )


def lesson_of(teacher: Run, prediction: Prediction, reporter: Reporter) -> Lesson:
    """Draw documents of the teacher and read them again from its pool. Raises CurateError where they are gone."""
    frame = _drawn(teacher, prediction, reporter)
    is_same = prediction.fingerprints["pool"] == teacher.record.fingerprints.pool
    read = _read_again(prediction.pool if is_same else pool_of(teacher), prediction.scoring.fields, frame)
    if [d.content_hash for d in read] != frame["content_hash"].to_list():
        raise CurateError(
            f"The pool of {teacher.address} does not hold the documents that were scored.",
            hint="Their contents have changed: score a sample of the pool as it is now.",
        )
    return Lesson(frame, read)


def _drawn(teacher: Run, prediction: Prediction, reporter: Reporter) -> pl.DataFrame:
    """Draw rows of a run's scores, in the order of shards and rows; SQL holds no others but their places."""
    settings, columns = prediction.settings, prediction.columns
    finite = " AND ".join(f"isfinite({quoted(c)})" for c in columns)
    fields = ", ".join(map(quoted, ("shard", "row", "content_hash", "n_tokens", "truncated", *columns)))
    with open_session(teacher) as session:
        ((count,),) = session.query(f"SELECT count(*) FROM scores WHERE {finite}").rows()
        if count < LEAST:
            raise CurateError(
                f"{teacher.address} has {count} documents; expected at least {LEAST} to learn from.",
                hint="Score a larger sample.",
            )
        if count <= settings.documents:
            chosen, places = f"SELECT {fields} FROM scores WHERE {finite}", None
        else:
            numbered = 'SELECT shard, "row", row_number() OVER (ORDER BY shard, "row") - 1 AS place FROM scores'
            drawn = f'SELECT shard, "row" FROM ({numbered} WHERE {finite}) WHERE place IN (SELECT unnest($places))'
            chosen = f'SELECT {fields} FROM scores JOIN ({drawn}) USING (shard, "row")'
            order = np.random.default_rng([settings.seed, 4]).permutation(count)
            places = {"places": order[: settings.documents].tolist()}
            reporter.note(f"{settings.documents:,} documents of {teacher.address} are learned from, drawn by the seed.")
        table = session.query(f'{chosen} ORDER BY shard, "row"', places).arrow()
    return pl.DataFrame(table)


def _read_again(pool: Pool, fields: Fields, frame: pl.DataFrame) -> list[Document]:
    """Read rows of a pool, in the order of shards and rows that they have in a frame."""
    shards = {shard.name: shard for shard in pool.shards}
    rows = {name: part["row"].to_list() for (name,), part in frame.group_by("shard", maintain_order=True)}
    return [
        d
        for name, numbers in rows.items()
        if name in shards
        for d in documents(shards[str(name)], fields, only=numbers)
        if isinstance(d, Document)
    ]
