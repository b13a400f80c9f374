"""A selection written as rows of tokens, for trainers that read no text."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from curate.documents import Pool
from curate.errors import CurateError, SettingsError
from curate.fields import Fields
from curate.progress import Task
from curate.schema import Document
from curate.selection.card import Described
from curate.selection.formats import MEGATRON, SPLIT, describe_arrow, write_files
from curate.selection.funnel import Funnel
from curate.selection.handover import no_labels, of_megatron, of_tokens
from curate.selection.labels import NO_LOSS
from curate.selection.left import documents_left
from curate.selection.lines import Lines
from curate.selection.megatron import write_megatron
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


def rows_of_tokens(
    funnel: Funnel,
    pool: Pool,
    fields: Fields,
    view: TokenView,
    count: TokenCount,
    choice: TokenChoice | None,
    task: Task,
) -> Iterator[Row]:
    """Yield each document's ids and labels: as it is scored, or with those of its chosen tokens."""
    if choice is None:
        yield from masked(_advancing(documents_left(funnel, pool, fields), task), view, count)
        return
    for row in choice.rows(funnel):
        task.advance(1)
        labels = np.asarray(row[LABELS], np.int32)
        if (labels == NO_LOSS).all():
            count.without_loss += 1
            continue
        count.documents += 1
        yield np.asarray(row[IDS], np.int32), labels


def _advancing(chosen: Iterable[Document], task: Task) -> Iterator[Document]:
    for document in chosen:
        yield document
        task.advance(1)
