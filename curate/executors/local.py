"""Scoring a pool's missing parts in this process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from curate.errors import CurateError
from curate.executors.reading import Chunk, Reader, Unreadable, ahead
from curate.executors.tables import part_tables, write_chunk
from curate.folders.part_folder import PartFolder
from curate.gradients.documents import Batching
from curate.methods.contract import Scorer
from curate.progress import Reporter
from curate.proxies.token_texts import TokenTexts
from curate.scores.run import Run


@dataclass(kw_only=True)
class Work:
    """What was done in one go."""

    documents: int = 0
    tokens: int = 0
    parts: int = 0


def work_through(
    folder: PartFolder,
    reader: Reader,
    do: Callable[[Chunk], None],
    reporter: Reporter,
    *,
    stage: str,
    done: str,
    hint: str,
    total: float | None = None,
) -> None:
    """Do something with every part that a folder lacks, in order.

    A shard that cannot be read to its end does not stop the others; it is an error once they are `done` (scored,
    indexed), with `hint` unless the shard's own error has one.
    """
    unreadable: list[Unreadable] = []
    with reporter.stage(stage, total=total) as task:
        task.advance(sum(p.end - p.start for p in folder.all_parts()))
        for chunk in ahead(reader.missing(folder)):
            if isinstance(chunk, Unreadable):
                unreadable.append(chunk)
                reporter.warn(f"{chunk.shard}: {chunk.error.message}")
                continue
            do(chunk)
            task.advance(chunk.end - chunk.start)
    if unreadable:
        first = unreadable[0]
        raise CurateError(
            f"{len(unreadable)} shard(s) could not be read to the end; all others are {done}. {first.error.message}",
            hint=first.error.hint or hint,
        )


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
    """Score and write every part that the run lacks, in order; see `work_through`."""
    work, texts = Work(), TokenTexts(reader.encoder.tokenizer)

    def score(chunk: Chunk) -> None:
        scores, skipped = part_tables(chunk, scorer(chunk.encoded, batching), columns, texts)
        write_chunk(run, chunk, scores, skipped)
        work.documents += scores.num_rows
        work.tokens += sum(e.num_scored for e in chunk.encoded)
        work.parts += 1

    hint = "Repair or remove the shard, then score into a new folder (--out)."
    work_through(run, reader, score, reporter, stage="scoring", done="scored", hint=hint, total=total)
    return work
