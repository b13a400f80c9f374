"""The selection on disk: the pool's own columns and the scores of the documents that are left, in pool order.

train/…        the data, as `datasets.load_dataset(folder)` reads it (Arrow also with `load_from_disk`)
README.md      dataset card: the filters and what they left
HANDOVER.md    the lines that load it into trainers
manifest.json  all that it takes to reproduce the selection
rejected/      documents that a filter dropped, with the filter's name; no part of the dataset
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.documents import Pool, Shard, columns_metadata, json_lines, raw_tables
from curate.errors import SettingsError, nearest
from curate.fields import Fields
from curate.folders.local import open_folder, parent_of
from curate.folders.record import canonical
from curate.folders.whole import is_taken, new_folder
from curate.progress import Task
from curate.selection.card import Described
from curate.selection.columns import LINE, MARK, Columns
from curate.selection.formats import FORMATS, MEGATRON, SPLIT, describe_arrow, write_files
from curate.selection.funnel import Funnel
from curate.selection.handover import NAME as HANDOVER
from curate.selection.handover import of_rows
from curate.selection.kinds import Kind, Kinds
from curate.selection.left import documents_left, refuse_fewer, rows_left
from curate.selection.lines import Lines
from curate.selection.places import COLUMNS as PLACES
from curate.selection.places import Embed, places_of
from curate.selection.spool import Spool, gathered
from curate.selection.token_columns import IDS, LABELS
from curate.selection.token_rows import refuse_endless, rows_of_tokens, write_tokens
from curate.selection.tokenised import TokenCount, TokenView
from curate.selection.tokens import TokenChoice
from curate.selection.typed import Typed, loadable

ByToken = tuple[pa.Schema, Iterator[dict[str, Any]]]
"""The columns of chosen tokens, and each document's, with its row's number as `row`."""
MANIFEST = "manifest.json"
KIND = "curate selection"
_NO_WEIGHTS = "The weights that filters give are left out: rows of tokens have no place for them."


def check_out(out: Path | str, *, overwrite: bool, format: str, view: TokenView | None, option: str = "--out") -> None:
    """Refuse, before any work, a folder with other content and a format that cannot be written."""
    if format not in FORMATS:
        raise SettingsError(f"The format is {format!r}; expected {', '.join(FORMATS)}.", hint=nearest(format, FORMATS))
    if format == MEGATRON or (view is not None and view.pack is not None):
        refuse_endless(format, view)
    refuse_taken(out, overwrite=overwrite, option=option)


def refuse_taken(out: Path | str, *, overwrite: bool, option: str) -> None:
    """Raise SettingsError for a folder with other content than a selection that may be replaced."""
    folder = open_folder(out)
    is_file = folder.is_here and folder.root.is_file()
    if not is_file and not is_taken(folder):
        return
    if is_file or not folder.exists(MANIFEST) or KIND not in folder.read(MANIFEST).decode():
        raise SettingsError(
            f"{folder.address} exists and is not a selection of curate.", hint=f"Give another folder with {option}."
        )
    if not overwrite:
        raise SettingsError(
            f"{folder.address} holds a selection already.",
            hint=f"Replace it with --overwrite, or give another {option}.",
        )


def write_dump(
    funnel: Funnel,
    pool: Pool,
    fields: Fields,
    out: Path | str,
    *,
    format: str,
    manifest: dict[str, Any],
    card: Callable[[Described], str],
    task: Task,
    view: TokenView | None = None,
    embed: Embed | None = None,
    choice: TokenChoice | None = None,
) -> Described:
    """Write the whole selection into a new folder that takes the place of `out`, so that it is complete or not there.

    `card` makes the dataset card. With `view` its documents are written as tokens; with `embed` rows have places on a
    map; by `choice` only chosen tokens carry loss.
    """
    place = parent_of(out)[1]
    funnel.materialise()
    with new_folder(out, last=MANIFEST, by="Another selection") as folder:
        if view is not None:
            count = TokenCount()
            rows = rows_of_tokens(funnel, pool, fields, view, count, choice, task)
            described, handover = write_tokens(rows, count, folder, format, view, manifest["fingerprint"], place)
            if funnel.weighted:
                described = replace(described, changes=(*described.changes, _NO_WEIGHTS))
        else:
            kinds, places = Kinds(fields), None
            if embed is not None:
                places = places_of(documents_left(funnel, pool, fields), embed, folder / "map")
            described = _write_rows(funnel, pool, kinds, places, choice, folder, format, manifest["fingerprint"], task)
            shutil.rmtree(folder / "map", ignore_errors=True)
            by_token = described.tokens
            of_kinds = [Kind("tokens", (by_token[IDS], by_token[LABELS]))] if by_token else kinds.sorted()
            handover = of_rows(of_kinds, place)
        _write_rejected(funnel, folder / "rejected")
        (folder / HANDOVER).write_text(handover, encoding="utf-8")
        (folder / "README.md").write_text(card(described), encoding="utf-8")
        told = canonical({**manifest, **_told(described, manifest, choice)})
        (folder / MANIFEST).write_text(told, encoding="utf-8")
    return described


def _told(described: Described, manifest: dict[str, Any], choice: TokenChoice | None) -> dict[str, Any]:
    """Return what the manifest says of the data once they are written."""
    told: dict[str, Any] = {"score_columns": described.scores, "changes": list(described.changes)}
    if described.token_count is not None:
        told["tokenised"] = {**manifest["tokenised"], **asdict(described.token_count)}
    if choice is not None and choice.figures is not None:
        told |= {"tokens": asdict(choice.figures), "token_columns": dict(described.tokens)}
    return told


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
    for table in _selected(rows_left(funnel, pool, places), columns, kinds, by_token):
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
    refuse_fewer(shard, num_read, len(row_numbers))


def _with_tokens(table: pa.Table, numbers: np.ndarray, schema: pa.Schema, rows: Iterator[dict[str, Any]]) -> pa.Table:
    """Append the columns of the next documents' tokens."""
    next_rows = list(islice(rows, table.num_rows))
    if [row.pop("row") for row in next_rows] != numbers.tolist():
        raise AssertionError("chosen tokens and rows of the pool come in different orders")
    for field in schema:
        table = table.append_column(MARK + field.name, pa.array([row[field.name] for row in next_rows], field.type))
    return table


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
