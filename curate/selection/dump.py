"""The selection on disk: the pool's own columns and the scores of the documents that are left, in pool order.

train/…        the data, as `datasets.load_dataset(folder)` reads it (Arrow also with `load_from_disk`)
README.md      dataset card: the filters and what they left
HANDOVER.md    the lines that load it into trainers
manifest.json  all that it takes to reproduce the selection
rejected/      documents that a filter dropped, with the filter's name; no part of the dataset
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.documents import Pool, Shard, columns_metadata, documents, json_lines, raw_tables
from curate.errors import CurateError, SettingsError, nearest
from curate.fields import Fields
from curate.folders.atomic import atomic_folder
from curate.folders.record import canonical
from curate.progress import Task
from curate.schema import Document
from curate.selection.card import Described
from curate.selection.columns import LINE, MARK, Columns
from curate.selection.formats import FORMATS, MEGATRON, SPLIT, describe_arrow, write_files
from curate.selection.funnel import Funnel
from curate.selection.handover import NAME as HANDOVER
from curate.selection.handover import no_labels, of_megatron, of_rows, of_tokens
from curate.selection.kinds import Kind, Kinds
from curate.selection.labels import NO_LOSS
from curate.selection.lines import Lines
from curate.selection.megatron import write_megatron
from curate.selection.places import COLUMNS as PLACES
from curate.selection.places import Embed, places_of, with_places
from curate.selection.spool import Spool, gathered
from curate.selection.token_columns import IDS, LABELS
from curate.selection.tokenised import SCHEMA as TOKEN_SCHEMA
from curate.selection.tokenised import (
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
from curate.selection.typed import Typed, loadable

ByToken = tuple[pa.Schema, Iterator[dict[str, Any]]]
"""The columns of chosen tokens, and each document's, with its row's number as `row`."""
MANIFEST = "manifest.json"
KIND = "curate selection"
_NO_WEIGHTS = "The weights that filters give are left out: rows of tokens have no place for them."


def check_out(out: Path, *, overwrite: bool, format: str, view: TokenView | None) -> None:
    """Refuse, before any work, a folder with other content and a format that cannot be written."""
    if format not in FORMATS:
        raise SettingsError(f"The format is {format!r}; expected {', '.join(FORMATS)}.", hint=nearest(format, FORMATS))
    if format == MEGATRON or (view is not None and view.pack is not None):
        _refuse_endless(format, view)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST).is_file() or KIND not in (out / MANIFEST).read_text(encoding="utf-8"):
        raise SettingsError(f"{out} exists and is not a selection of curate.", hint="Give another folder with --out.")
    if not overwrite:
        raise SettingsError(
            f"{out} holds a selection already.", hint="Replace it with --overwrite, or give another --out."
        )


def _refuse_endless(format: str, view: TokenView | None) -> None:
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


def write_dump(
    funnel: Funnel,
    pool: Pool,
    fields: Fields,
    out: Path,
    *,
    format: str,
    manifest: dict[str, Any],
    card: Callable[[Described], str],
    task: Task,
    view: TokenView | None = None,
    embed: Embed | None = None,
    choice: TokenChoice | None = None,
) -> Described:
    """Write the whole selection beside `out`, then rename it, so that it appears complete or not at all.

    `card` makes the dataset card. With `view` its documents are written as tokens; with `embed` rows have places on a
    map; by `choice` only chosen tokens carry loss.
    """
    place = Path(os.path.abspath(out)).name
    with atomic_folder(out, by="Another selection") as folder:
        if view is not None:
            count = TokenCount()
            rows = _rows_of_tokens(funnel, pool, fields, view, count, choice, task)
            described, handover = _write_tokens(rows, count, folder, format, view, manifest["fingerprint"], place)
            if funnel.weighted:
                described = replace(described, changes=(*described.changes, _NO_WEIGHTS))
        else:
            kinds, places = Kinds(fields), None
            if embed is not None:
                places = places_of(_documents(funnel, pool, fields), embed, folder / "map")
            described = _write_rows(funnel, pool, kinds, places, choice, folder, format, manifest["fingerprint"], task)
            shutil.rmtree(folder / "map", ignore_errors=True)
            by_token = described.tokens
            of_kinds = [Kind("tokens", (by_token[IDS], by_token[LABELS]))] if by_token else kinds.sorted()
            handover = of_rows(of_kinds, place)
        _write_rejected(funnel, folder / "rejected")
        (folder / HANDOVER).write_text(handover, encoding="utf-8")
        (folder / "README.md").write_text(card(described), encoding="utf-8")
        told: dict[str, Any] = {"score_columns": described.scores, "changes": list(described.changes)}
        if described.token_count is not None:
            told["tokenised"] = {**manifest["tokenised"], **asdict(described.token_count)}
        if choice is not None and choice.figures is not None:
            told |= {"tokens": asdict(choice.figures), "token_columns": dict(described.tokens)}
        (folder / MANIFEST).write_text(canonical({**manifest, **told}), encoding="utf-8")
    return described


def _write_rows(
    funnel: Funnel,
    pool: Pool,
    kinds: Kinds,
    places: np.ndarray | None,
    choice: TokenChoice | None,
    folder: Path,
    format: str,
    fingerprint: str,
    task: Task,
) -> Described:
    """Write the pool's own rows with their scores; learn their kinds."""
    spool, columns = Spool(folder / "spool"), Columns()
    by_token = None if choice is None else (choice.schema, choice.rows(funnel))
    for table in _selected(_kept(funnel, pool, places), columns, kinds, by_token):
        spool.write(table)
        task.advance(table.num_rows)
    if by_token is not None and next(by_token[1], None) is not None:  # which ends the count of what was written, too
        raise AssertionError("a document with chosen tokens was not written")
    spool.close()
    writer = Lines(columns) if format == "jsonl.zst" else Typed(columns, parquet=format == "parquet")
    tables = gathered(writer.table(t) for t in spool.tables())
    names = write_files(tables, writer.schema, folder / SPLIT, format)
    shutil.rmtree(folder / "spool")
    if format == "arrow":
        describe_arrow(folder, writer.schema, names, fingerprint)
    names_by_column, of_tokens = columns.score_names, [] if choice is None else choice.schema.names
    return Described(
        scores=[name for column, name in names_by_column.items() if column not in (*PLACES, *of_tokens)],
        places=[name for column, name in names_by_column.items() if column in PLACES],
        tokens={column: names_by_column[column] for column in of_tokens},
        figures=None if choice is None else choice.figures,
        features=writer.front_matter() if isinstance(writer, Lines) else None,
        changes=columns.notes,
    )


def _write_tokens(
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
        schema = TOKEN_SCHEMA
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


def _rows_of_tokens(
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
        yield from masked(_advancing(_documents(funnel, pool, fields), task), view, count)
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


def _documents(funnel: Funnel, pool: Pool, fields: Fields) -> Iterator[Document]:
    """Yield the documents that are left, in pool order."""
    for shard, kept in _kept(funnel, pool):
        num_read = 0
        for document in documents(shard, fields, only=kept.column("row").to_pylist()):
            if isinstance(document, Document):
                yield document
                num_read += 1
        _refuse_fewer(shard, num_read, kept.num_rows)


def _kept(funnel: Funnel, pool: Pool, places: np.ndarray | None = None) -> Iterator[tuple[Shard, pa.Table]]:
    """Yield each shard of which rows are left, in pool order, with these rows' numbers, scores and places."""
    funnel.materialise()
    numbers, start = funnel.shard_numbers, 0
    for shard in pool.shards:
        if shard.name in numbers:
            kept = funnel.selected_of(numbers[shard.name])
            if places is not None:
                kept, start = with_places(kept, places[start : start + kept.num_rows]), start + kept.num_rows
            if kept.num_rows:
                yield shard, kept


def _selected(
    kept: Iterator[tuple[Shard, pa.Table]], columns: Columns, kinds: Kinds, by_token: ByToken | None
) -> Iterator[pa.Table]:
    """Yield the pool's rows that are left, with their scores, in pool order; learn their columns and kinds."""
    for shard, rows in kept:
        yield from _rows_of(shard, rows, columns, kinds, by_token)


def _rows_of(
    shard: Shard, kept: pa.Table, columns: Columns, kinds: Kinds, by_token: ByToken | None
) -> Iterator[pa.Table]:
    row_numbers = kept.column("row").to_numpy()
    scores = kept.drop_columns(["row"])
    columns.learn_scores([*scores.schema, *(by_token[0] if by_token else ())])
    num_read = 0
    for numbers, table in _pool_tables(shard, row_numbers.tolist(), columns, kinds):
        places = np.searchsorted(row_numbers, numbers)
        num_read += len(numbers)
        for name in scores.column_names:
            table = table.append_column(MARK + name, scores.column(name).take(places))
        yield table if by_token is None else _with_tokens(table, numbers, *by_token)
    _refuse_fewer(shard, num_read, len(row_numbers))


def _with_tokens(table: pa.Table, numbers: np.ndarray, schema: pa.Schema, rows: Iterator[dict[str, Any]]) -> pa.Table:
    """Append the columns of the next documents' tokens."""
    next_rows = list(islice(rows, table.num_rows))
    if [row.pop("row") for row in next_rows] != numbers.tolist():
        raise AssertionError("chosen tokens and rows of the pool come in different orders")
    for field in schema:
        table = table.append_column(MARK + field.name, pa.array([row[field.name] for row in next_rows], field.type))
    return table


def _refuse_fewer(shard: Shard, read: int, chosen: int) -> None:
    if read != chosen:
        raise CurateError(
            f"{shard.url} lacks {chosen - read} of its {chosen} selected rows.",
            hint="The shard has changed since it was scored: score the pool again.",
        )


def _pool_tables(
    shard: Shard, only: list[int], columns: Columns, kinds: Kinds
) -> Iterator[tuple[np.ndarray, pa.Table]]:
    if lines := json_lines(shard, only=only):
        for numbers, texts, rows in lines:
            columns.learn_lines(rows)
            kinds.learn(rows)
            yield numbers, pa.table({LINE: pa.array(texts, pa.large_binary())})
        return
    metadata = columns_metadata(shard)
    for numbers, table in raw_tables(shard, only=only):
        table = loadable(table, columns)
        columns.learn_table(table, metadata)
        kinds.learn_table(table)
        yield numbers, table


def _write_rejected(funnel: Funnel, folder: Path) -> None:
    folder.mkdir()
    with (
        funnel.rejected() as reader,
        pq.ParquetWriter(folder / "rejected.parquet", reader.schema, compression="zstd") as writer,
    ):
        for batch in reader:
            writer.write_batch(batch)
