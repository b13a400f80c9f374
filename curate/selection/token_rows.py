"""A selection written as rows of tokens, for trainers that read no text."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from curate.errors import CurateError, SettingsError
from curate.fields import Fields
from curate.jobs import Advance
from curate.progress import Task
from curate.schema import Document
from curate.selection.card import Described
from curate.selection.formats import MEGATRON, SPLIT, describe_arrow, write_files
from curate.selection.funnel import Funnel
from curate.selection.handover import no_labels, of_megatron, of_tokens
from curate.selection.labels import NO_LOSS
from curate.selection.left import Left, RowsLeft, blocks, documents_of
from curate.selection.lines import Lines
from curate.selection.megatron import write_megatron
from curate.selection.spool import Spool, get_value, put_value, read, remove
from curate.selection.token_columns import IDS, LABELS
from curate.selection.tokenised import (
    SCHEMA,
    Row,
    TokenCount,
    TokenView,
    as_lines,
    ended,
    masked,
    packed,
    tables,
    with_loss,
)
from curate.selection.tokens import TokenChoice
from curate.selection.workers import Workers

_FACTS = "facts"


def refuse_endless(format: str, view: TokenView | None) -> None:
    """Raise where rows need the ends of documents, and no token says them."""
    if view is None:
        raise SettingsError(
            "Megatron's files hold tokens, and no tokenizer was given.", hint="Give `view`, or use `curate.select`."
        )
    if format == MEGATRON and view.pack is not None:
        raise SettingsError(
            f"--pack is {view.pack}; Megatron cuts rows itself.", hint="Leave --pack out, or give --seq-length there."
        )
    view.end_mark()


def write_tokens(
    rows: Iterator[Row], count: TokenCount, folder: Path, format: str, view: TokenView, fingerprint: str, place: str
) -> tuple[Described, str]:
    """Write ids and labels of documents; return what they are, and the text of the hand-over."""
    if format == MEGATRON:
        rows = with_loss(ended(rows, view.end_mark(), count), count)
        write_megatron((ids for ids, _ in rows), folder / SPLIT, vocabulary=view.vocabulary)
        unmasked = count.tokens - count.loss_tokens - count.documents  # every document's first token has no loss
        changes = (*count.sentences, *([no_labels(unmasked)] if unmasked else []))
        handover = of_megatron(view, count, unmasked, place)
    else:
        if view.pack is not None:
            rows = packed(ended(rows, view.end_mark(), count), view.pack)
        written = tables(with_loss(rows, count))
        schema = SCHEMA
        if format == "jsonl.zst":
            written, schema = map(as_lines, written), Lines.schema
        names = write_files(written, schema, folder / SPLIT, format)
        if format == "arrow":
            describe_arrow(folder, schema, names, fingerprint)
        changes, handover = count.sentences, of_tokens(view, count, format, place)
    if not count.rows:
        raise CurateError(
            f"No token of the {count.refused + count.without_loss:,} chosen documents carries loss by the tokenizer"
            f" {view.tokenizer}.",
            hint=count.reason or "Write the documents themselves: leave --tokenised out.",
        )
    return Described(scores=[], features=None, changes=changes, token_count=count), handover


def masked_rows(
    left: Left, view: TokenView, count: TokenCount, spools: Path, task: Task, workers: Workers | None
) -> Iterator[Row]:
    """Yield each document's ids and labels, as it is scored; `workers` keep theirs in `spools` until all are there."""
    if workers is None:
        yield from masked(_advancing(left.documents(), task.advance), view, count)
        return
    with workers(Masking(view)) as have_done:
        have_done((TokenBlock(r, left.fields, spools / f"{n:08d}") for n, r in enumerate(blocks(left.rows()))), task)
    for folder in sorted(spools.iterdir()):
        masked_count, pieces = get_value(folder / _FACTS)
        count.add(masked_count)
        for table in read(pieces):
            ids, labels = (table[name].combine_chunks() for name in (IDS, LABELS))
            ends = ids.offsets.to_numpy()
            columns = [column.flatten().to_numpy() for column in (ids, labels)]
            yield from (tuple(c[i:j] for c in columns) for i, j in pairwise(ends - ends[0]))  # type: ignore[misc]
        remove(folder)


@dataclass(frozen=True)
class Masking:
    """Work on blocks of shards, by one tokenizer."""

    view: TokenView

    def open(self) -> Callable[["TokenBlock", Advance], None]:
        return partial(TokenBlock.do, view=self.view)


@dataclass(frozen=True)
class TokenBlock:
    """The job to make the documents of some shards that are left rows of tokens."""

    rows: tuple[RowsLeft, ...]
    fields: Fields
    folder: Path

    @property
    def name(self) -> str:
        return f"the shards from {self.rows[0][0].name} to {self.rows[-1][0].name}"

    def do(self, advance: Advance, *, view: TokenView) -> None:
        spool, count = Spool(self.folder), TokenCount()
        documents = (d for shard, kept in self.rows for d in documents_of(shard, kept, self.fields))
        for table in tables(masked(_advancing(documents, advance), view, count)):
            spool.write(table)
        spool.close()
        put_value(self.folder / _FACTS, (count, spool.pieces))


def chosen_rows(choice: TokenChoice, funnel: Funnel, count: TokenCount, task: Task) -> Iterator[Row]:
    """Yield each document's ids and labels, of which those of chosen tokens carry loss."""
    for row in choice.rows(funnel):
        task.advance(1)
        labels = np.asarray(row[LABELS], np.int32)
        if (labels == NO_LOSS).all():
            count.without_loss += 1
            continue
        count.documents += 1
        yield np.asarray(row[IDS], np.int32), labels


def _advancing(chosen: Iterable[Document], advance: Advance) -> Iterator[Document]:
    for document in chosen:
        yield document
        advance(1)
