"""The selection on disk: the pool's own columns and the scores of the documents that are left, in pool order.

train/…        the data, as `datasets.load_dataset(folder)` reads it (Arrow also with `load_from_disk`)
README.md      dataset card: the filters and what they left
manifest.json  all that it takes to reproduce the selection
rejected/      documents that a filter dropped, with the filter's name; no part of the dataset
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.documents import Pool, Shard, columns_metadata, json_lines, raw_tables
from curate.errors import CurateError, SettingsError, nearest
from curate.folders.atomic import atomic_folder
from curate.folders.record import canonical
from curate.progress import Task
from curate.selection.card import Described
from curate.selection.columns import LINE, MARK, Columns
from curate.selection.formats import ENDINGS, SPLIT, describe_arrow, write_files
from curate.selection.funnel import Funnel
from curate.selection.lines import Lines
from curate.selection.spool import Spool, gathered
from curate.selection.tokens import TokenChoice
from curate.selection.typed import Typed, loadable

ByToken = tuple[pa.Schema, Iterator[dict[str, Any]]]
"""The columns of chosen tokens, and each document's, with its row's number as `row`."""
MANIFEST = "manifest.json"
KIND = "curate selection"


def check_out(out: Path, *, overwrite: bool, format: str) -> None:
    """Refuse, before any work, a folder with other content and an unknown format."""
    if format not in ENDINGS:
        raise SettingsError(
            f"The format is {format!r}; expected {', '.join(ENDINGS)}.", hint=nearest(format, list(ENDINGS))
        )
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST).is_file() or KIND not in (out / MANIFEST).read_text(encoding="utf-8"):
        raise SettingsError(f"{out} exists and is not a selection of curate.", hint="Give another folder with --out.")
    if not overwrite:
        raise SettingsError(
            f"{out} holds a selection already.", hint="Replace it with --overwrite, or give another --out."
        )


def write_dump(
    funnel: Funnel,
    pool: Pool,
    out: Path,
    *,
    format: str,
    manifest: dict[str, Any],
    card: Callable[[Described], str],
    task: Task,
    tokens: TokenChoice | None = None,
) -> tuple[str, ...]:
    """Write the whole selection beside `out`, then rename it, so that it appears complete or not at all.

    `card` makes the dataset card. Chosen `tokens` add their columns. Return sentences on what is written otherwise than
    the pool has it.
    """
    with atomic_folder(out, by="Another selection") as folder:
        spool, columns = Spool(folder / "spool"), Columns()
        for table in _selected(funnel, pool, columns, tokens):
            spool.write(table)
            task.advance(table.num_rows)
        spool.close()
        writer = Lines(columns) if format == "jsonl.zst" else Typed(columns, parquet=format == "parquet")
        tables = gathered(writer.table(t) for t in spool.tables())
        names = write_files(tables, writer.schema, folder / SPLIT, format)
        shutil.rmtree(folder / "spool")
        if format == "arrow":
            describe_arrow(folder, writer.schema, names, manifest["fingerprint"])
        _write_rejected(funnel, folder / "rejected")
        scores = columns.score_names
        by_token = {} if tokens is None else {name: scores.pop(name) for name in tokens.schema.names}
        described = Described(
            scores=list(scores.values()),
            tokens=by_token,
            figures=None if tokens is None else tokens.figures,
            features=writer.front_matter() if isinstance(writer, Lines) else None,
            changes=columns.notes,
        )
        (folder / "README.md").write_text(card(described), encoding="utf-8")
        written = {"score_columns": described.scores, "changes": list(described.changes)}
        if described.figures is not None:
            written |= {"tokens": asdict(described.figures), "token_columns": by_token}
        text = canonical({**manifest, **written})
        (folder / MANIFEST).write_text(text, encoding="utf-8")
    return described.changes


def _selected(funnel: Funnel, pool: Pool, columns: Columns, tokens: TokenChoice | None) -> Iterator[pa.Table]:
    """Yield the pool's rows that are left, with their scores, in pool order; learn their columns."""
    funnel.materialise()
    numbers = funnel.shard_numbers
    by_token = None if tokens is None else (tokens.schema, tokens.rows(funnel))
    for shard in pool.shards:
        if shard.name in numbers:
            kept = funnel.selected_of(numbers[shard.name])
            if kept.num_rows:
                yield from _rows_of(shard, kept, columns, by_token)
    if by_token is not None and next(by_token[1], None) is not None:  # which ends the count of what was written, too
        raise AssertionError("a document with chosen tokens was not written")


def _rows_of(shard: Shard, kept: pa.Table, columns: Columns, by_token: ByToken | None) -> Iterator[pa.Table]:
    row_numbers = kept.column("row").to_numpy()
    scores = kept.drop_columns(["row"])
    columns.learn_scores([*scores.schema, *(by_token[0] if by_token else ())])
    num_read = 0
    for numbers, table in _pool_tables(shard, row_numbers.tolist(), columns):
        places = np.searchsorted(row_numbers, numbers)
        num_read += len(numbers)
        for name in scores.column_names:
            table = table.append_column(MARK + name, scores.column(name).take(places))
        yield table if by_token is None else _with_tokens(table, numbers, *by_token)
    if num_read != len(row_numbers):
        raise CurateError(
            f"{shard.url} lacks {len(row_numbers) - num_read} of its {len(row_numbers)} selected rows.",
            hint="The shard has changed since it was scored: score the pool again.",
        )


def _with_tokens(table: pa.Table, numbers: np.ndarray, schema: pa.Schema, rows: Iterator[dict[str, Any]]) -> pa.Table:
    """Append the columns of the next documents' tokens."""
    next_rows = list(islice(rows, table.num_rows))
    if [row.pop("row") for row in next_rows] != numbers.tolist():
        raise AssertionError("chosen tokens and rows of the pool come in different orders")
    for field in schema:
        table = table.append_column(MARK + field.name, pa.array([row[field.name] for row in next_rows], field.type))
    return table


def _pool_tables(shard: Shard, only: list[int], columns: Columns) -> Iterator[tuple[np.ndarray, pa.Table]]:
    if lines := json_lines(shard, only=only):
        for numbers, texts, rows in lines:
            columns.learn_lines(rows)
            yield numbers, pa.table({LINE: pa.array(texts, pa.large_binary())})
        return
    metadata = columns_metadata(shard)
    for numbers, table in raw_tables(shard, only=only):
        table = loadable(table, columns)
        columns.learn_table(table, metadata)
        yield numbers, table


def _write_rejected(funnel: Funnel, folder: Path) -> None:
    folder.mkdir()
    with (
        funnel.rejected() as reader,
        pq.ParquetWriter(folder / "rejected.parquet", reader.schema, compression="zstd") as writer,
    ):
        for batch in reader:
            writer.write_batch(batch)
