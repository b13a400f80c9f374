"""The selection on disk: the pool's own columns and the scores of the documents that are left, in pool order.

train/…        the data, as `datasets.load_dataset(folder)` reads it (Arrow also with `load_from_disk`)
README.md      dataset card: what was asked, what came of it
manifest.json  everything needed to make the selection again
rejected/      documents that a filter dropped, with the filter's name; no part of the dataset
"""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.documents import Pool, Shard, raw_tables
from curate.errors import CurateError, SettingsError, nearest
from curate.folders.atomic import fsync, fsync_tree
from curate.folders.record import canonical
from curate.progress import Task
from curate.selection.formats import ENDINGS, SPLIT, describe_arrow, write_files
from curate.selection.funnel import Funnel
from curate.selection.spool import Spool

MANIFEST = "manifest.json"
KIND = "curate selection"
_MARK = "\0"  # before a score's name until the names of all shards' own columns are known


def check_out(out: Path, *, overwrite: bool, kind: str) -> None:
    """Refuse, before any work, a folder that would be damaged and a format that is not known."""
    if kind not in ENDINGS:
        raise SettingsError(f"unknown format {kind!r}", hint=nearest(kind, list(ENDINGS)))
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST).is_file() or KIND not in (out / MANIFEST).read_text(encoding="utf-8"):
        raise SettingsError(f"{out} is there and is not a selection of curate", hint="Give another folder with --out.")
    if not overwrite:
        raise SettingsError(f"{out} holds a selection", hint="Replace it with --overwrite, or give another --out.")


def write_dump(
    funnel: Funnel,
    pool: Pool,
    out: Path,
    *,
    kind: str,
    manifest: dict[str, Any],
    card: Callable[[list[str]], str],
    task: Task,
) -> None:
    """Write the whole selection beside `out`, then rename it there: it is complete or not there at all.

    `card` makes the dataset card from the names that the score columns have in the dump.
    """
    with _replacing(out) as folder:
        spool = Spool(folder / "spool")
        for table in _selected(funnel, pool):
            spool.write(table)
            task.advance(table.num_rows)
        spool.close()
        columns = _final_names(spool.schema.names)
        schema = pa.schema([spool.schema.field(old).with_name(new) for old, new in columns.items()])
        tables = (pa.table([t.column(old) for old in columns], schema=schema) for t in spool.tables())
        names = write_files(tables, schema, folder / SPLIT, kind)
        shutil.rmtree(folder / "spool")
        if kind == "arrow":
            describe_arrow(folder, schema, names, manifest["fingerprint"])
        _write_rejected(funnel, folder / "rejected")
        scores = [new for old, new in columns.items() if old.startswith(_MARK)]
        (folder / "README.md").write_text(card(scores), encoding="utf-8")
        (folder / MANIFEST).write_text(canonical({**manifest, "score_columns": scores}), encoding="utf-8")


def _final_names(names: list[str]) -> dict[str, str]:
    """The dump's columns: the pool's own as trainers know them, then the scores; one of the same name makes way."""
    own = [n for n in names if not n.startswith(_MARK)]
    scores = [n for n in names if n.startswith(_MARK)]
    bare = {n: n.removeprefix(_MARK) for n in scores}
    return {n: n for n in own} | {n: f"curate_{b}" if b in own else b for n, b in bare.items()}


def _selected(funnel: Funnel, pool: Pool) -> Iterator[pa.Table]:
    """The pool's rows that are left, with their scores, in pool order."""
    funnel.materialise()
    numbers = funnel.shard_numbers
    for shard in pool.shards:
        if shard.name in numbers:
            kept = funnel.selected_of(numbers[shard.name])
            if kept.num_rows:
                yield from _rows_of(shard, kept)


def _rows_of(shard: Shard, kept: pa.Table) -> Iterator[pa.Table]:
    wanted = kept.column("row").to_numpy()
    scores = kept.drop_columns(["row"])
    found = 0
    for rows, table in raw_tables(shard, only=wanted.tolist()):
        places = np.searchsorted(wanted, rows)
        found += len(rows)
        for name in scores.column_names:
            table = table.append_column(_MARK + name, scores.column(name).take(places))
        yield table
    if found != len(wanted):
        raise CurateError(
            f"{shard.url}: {len(wanted) - found} of the {len(wanted)} selected rows are not there any more",
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


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """Yield a new folder beside `out` that takes its place when the block ends without an error."""
    out.parent.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex[:8]
    folder, old = out.with_name(f".{out.name}.{mark}.tmp"), out.with_name(f".{out.name}.{mark}.old")
    folder.mkdir()
    try:
        yield folder
        fsync_tree(folder)
        if out.exists():
            os.replace(out, old)
        os.replace(folder, out)
        fsync(out.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
