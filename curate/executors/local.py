"""Scoring a pool's missing parts in this process."""

from collections.abc import Sequence
from dataclasses import dataclass

from curate.errors import CurateError
from curate.executors.reading import Reader, Unreadable, ahead
from curate.executors.tables import part_tables, write_chunk
from curate.gradients.documents import Batching
from curate.methods._contract import Scorer
from curate.progress import Reporter
from curate.scores.run import Run
from curate.token_texts import TokenTexts


@dataclass(kw_only=True)
class Work:
    """What was done in one go."""

    documents: int = 0
    tokens: int = 0
    parts: int = 0


def score_parts(
    run: Run,
    reader: Reader,
    scorer: Scorer,
    batching: Batching,
    columns: Sequence[str],
    reporter: Reporter,
    *,
    total: float | None = None,
) -> Work:
    """Score and write every part that the run lacks, in order.

    A shard that cannot be read to its end does not stop the others; it is an error once they are done.
    """
    work, unreadable, texts = Work(), [], TokenTexts(reader.encoder.tokenizer)
    with reporter.stage("scoring", total=total) as stage:
        stage.advance(sum(p.end - p.start for p in run.all_parts()))
        for chunk in ahead(reader.missing(run)):
            if isinstance(chunk, Unreadable):
                unreadable.append(chunk)
                reporter.warn(f"{chunk.shard}: {chunk.error.message}")
                continue
            scores, skipped = part_tables(chunk, scorer(chunk.encoded, batching), columns, texts)
            write_chunk(run, chunk, scores, skipped)
            work.documents += scores.num_rows
            work.tokens += sum(e.num_scored for e in chunk.encoded)
            work.parts += 1
            stage.advance(chunk.end - chunk.start)
    if unreadable:
        first = unreadable[0]
        raise CurateError(
            f"{len(unreadable)} shard(s) could not be read to the end; all others are scored. {first.error.message}",
            hint=first.error.hint or "Repair or remove the shard, then score into a new folder (--out).",
        )
    return work
