"""The selection on disk: the pool's own columns and the scores of the documents that are left, in pool order.

train/…        the data, as `datasets.load_dataset(folder)` reads it (Arrow also with `load_from_disk`)
README.md      dataset card: the filters and what they left
manifest.json  all that it takes to reproduce the selection
rejected/      documents that a filter dropped, with the filter's name; no part of the dataset
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.documents import Pool, Shard, raw_tables
from curate.errors import CurateError, SettingsError, nearest
from curate.folders.atomic import atomic_folder
from curate.folders.record import canonical
from curate.progress import Task
from curate.selection.formats import ENDINGS, SPLIT, describe_arrow, write_files
from curate.selection.funnel import Funnel
from curate.selection.spool import Spool

MANIFEST = "manifest.json"
KIND = "curate selection"
_MARK = "\0"  # before a score's name until the names of all shards' own columns are known


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
    card: Callable[[list[str]], str],
    task: Task,
) -> None:
    """Write the whole selection beside `out`, then rename it, so that it appears complete or not at all.

    `card` makes the dataset card from the names that the score columns have in the dump.
    """
    with atomic_folder(out, by="Another selection") as folder:
        spool = Spool(folder / "spool")
        for table in _selected(funnel, pool):
            spool.write(table)
            task.advance(table.num_rows)
        spool.close()
        columns = _final_names(spool.schema.names)
        schema = pa.schema([spool.schema.field(old).with_name(new) for old, new in columns.items()])
        tables = (pa.table([t.column(old) for old in columns], schema=schema) for t in spool.tables())
        names = write_files(tables, schema, folder / SPLIT, format)
        shutil.rmtree(folder / "spool")
        if format == "arrow":
            describe_arrow(folder, schema, names, manifest["fingerprint"])
        _write_rejected(funnel, folder / "rejected")
        scores = [new for old, new in columns.items() if old.startswith(_MARK)]
        (folder / "README.md").write_text(card(scores), encoding="utf-8")
        (folder / MANIFEST).write_text(canonical({**manifest, "score_columns": scores}), encoding="utf-8")


def _final_names(names: list[str]) -> dict[str, str]:
    """Return the dump's columns: the pool's unchanged, then the scores, renamed where the pool has the same name."""
    pool_columns = [n for n in names if not n.startswith(_MARK)]
    scores = [n for n in names if n.startswith(_MARK)]
    plain_names = {n: n.removeprefix(_MARK) for n in scores}
    return {n: n for n in pool_columns} | {n: f"curate_{b}" if b in pool_columns else b for n, b in plain_names.items()}


def _selected(funnel: Funnel, pool: Pool) -> Iterator[pa.Table]:
    """Yield the pool's rows that are left, with their scores, in pool order."""
    funnel.materialise()
    numbers = funnel.shard_numbers
    for shard in pool.shards:
        if shard.name in numbers:
            kept = funnel.selected_of(numbers[shard.name])
            if kept.num_rows:
                yield from _rows_of(shard, kept)


def _rows_of(shard: Shard, kept: pa.Table) -> Iterator[pa.Table]:
    row_numbers = kept.column("row").to_numpy()
    scores = kept.drop_columns(["row"])
    num_read = 0
    for numbers, table in raw_tables(shard, only=row_numbers.tolist()):
        places = np.searchsorted(row_numbers, numbers)
        num_read += len(numbers)
        for name in scores.column_names:
            table = table.append_column(_MARK + name, scores.column(name).take(places))
        yield table
    if num_read != len(row_numbers):
        raise CurateError(
            f"{shard.url} lacks {len(row_numbers) - num_read} of its {len(row_numbers)} selected rows.",
            hint="The shard has changed since it was scored: score the pool again.",
        )


def _write_rejected(funnel: Funnel, folder: Path) -> None:
    folder.mkdir()
    with (
        funnel.rejected() as reader,
        pq.ParquetWriter(folder / "rejected.parquet", reader.schema, compression="zstd") as writer,
    ):
        for batch in reader:
            writer.write_batch(batch)
