"""Write results for other programs: JSON, CSV, Parquet, and a database file that any DuckDB client opens."""

import csv
import json
import math
import re
from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import duckdb
import pyarrow.parquet as pq

from curate.errors import CurateError
from curate.folders.local import parent_of, path_or_url, put_file, refuse_place
from curate.folders.values import as_text, python_values
from curate.scores.guard import sql_error
from curate.scores.run import Run
from curate.scores.session import TOKEN_LISTS, Result, Session, open_session
from curate.scores.views import literal, quoted
from curate.visible import escaped, visible

_BEGINS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def write_json(result: Result, stream: TextIO) -> None:
    """Write a JSON array, an object per row and line, as rows come. NaN, which JSON lacks, becomes null."""
    is_first = True
    for batch in result.batches():
        for values in zip(*(python_values(c, as_text) for c in batch.columns), strict=True):
            row = dict(zip(result.columns, values, strict=True))
            stream.write("[\n" if is_first else ",\n")
            stream.write(escaped(_row(row)))
            is_first = False
    stream.write("[]\n" if is_first else "\n]\n")


def write_csv(result: Result, stream: TextIO) -> None:
    """Write a header and one line per row, as rows come; null is empty.

    Text that a spreadsheet would run as a formula begins with an apostrophe; numbers stay as they are, also as text.
    """
    writer = csv.writer(stream, lineterminator="\n")
    shown = visible if stream.isatty() else str
    writer.writerow([shown(_no_formula(name)) for name in result.columns])
    for batch in result.batches():
        columns = [
            [shown(_no_formula(v)) if isinstance(v, str) else v for v in python_values(c, as_text)]
            for c in batch.columns
        ]
        writer.writerows(zip(*columns, strict=True))


def _no_formula(text: str) -> str:
    return f"'{text}" if text.startswith(_BEGINS_A_FORMULA) and not _NUMBER.fullmatch(text) else text


def write_parquet(result: Result, path: Path | str) -> int:
    """Write the rows atomically as they come; return how many."""
    refuse_place(path, "--parquet")
    num_rows = 0

    def write(temporary: Path) -> None:
        nonlocal num_rows
        with pq.ParquetWriter(temporary, result.schema, compression="zstd") as writer:
            for batch in result.batches():
                writer.write_batch(batch)
                num_rows += batch.num_rows

    put_file(path, write)
    return num_rows


def write_database(runs: Run | Sequence[Run], path: Path | str) -> None:
    """Write `scores`, `skipped`, `runs` as tables and `shards`, `candidates`, `tokens` as views into a new DuckDB file.

    The scores are in the file itself, so it opens anywhere, also where the runs are not; scores per token as a table of
    lists, which `tokens` unfolds. Several runs are one table with a column `run`, and a view per run. Raises
    CurateError where the file exists.
    """
    refuse_place(path, "--db")
    folder, name = parent_of(path)
    if folder.exists(name):
        raise CurateError(
            f"{path_or_url(path)} exists; expected a new file.", hint="Give another name with --db, or delete it."
        )
    try:
        with open_session(runs, lock=False) as session:
            put_file(path, partial(_copy_into, session))
    except duckdb.Error as error:
        raise sql_error(error) from error


def _copy_into(session: Session, path: Path) -> None:
    def execute(sql: str) -> list[Any]:
        return session.connection.execute(sql).fetchall()

    several = len(session.runs) > 1
    execute(f"ATTACH {literal(str(path))} AS file")
    by_token = session.tokens_query is not None
    for table in ("scores", "skipped", "runs", *([TOKEN_LISTS] if by_token else [])):
        execute(f"CREATE TABLE file.{table} AS SELECT * FROM memory.{table}")
    execute("USE file")
    execute("CREATE VIEW candidates AS SELECT * FROM scores")
    execute(f"CREATE VIEW shards AS {session.shards_query}")
    if by_token:
        execute(f"CREATE VIEW tokens AS {session.tokens_query}")
    if several:
        for name, _ in session.runs:
            execute(f"CREATE VIEW {quoted(name)} AS SELECT * EXCLUDE (run) FROM scores WHERE run = {literal(name)}")
    execute("USE memory")
    execute("DETACH file")


def _row(row: dict[str, Any]) -> str:
    try:
        return json.dumps(row, ensure_ascii=False, default=_plain, allow_nan=False)
    except ValueError:  # only then is it worth looking at every value
        return json.dumps(_finite(row), ensure_ascii=False, default=_plain)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):  # what DuckDB's sums of whole numbers arrive as, too
        return int(value) if value == value.to_integral_value() else float(value)
    return value.hex() if isinstance(value, bytes) else str(value)
