"""SQL over runs: an in-memory DuckDB that reads and cannot write, reach the network or open other files.

Views: `scores`, `candidates` (the scores, as filters read them), `shards`, `skipped`, `runs`, `documents` (the pool's
own rows), `tokens` (one row per token, of runs that were scored by token), and `neighbours` (pairs of near documents,
of runs whose gradient store has them). The lists per token are in no other view, so that `SELECT * FROM scores` stays
readable; `Run.scores()` has them. With several runs each view has a column `run`, and each run's scores are a view of
the run's name, too.
"""

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any, Self

import duckdb
import pyarrow as pa

from curate.errors import CurateError
from curate.folders.folder import read_json
from curate.folders.unify import unify
from curate.folders.values import as_text, python_values
from curate.schema import MANY_COLUMNS, SCORE_FIELDS, SKIPPED_SCHEMA
from curate.scores.guard import check_query, sql_error, was_interrupted, without_semicolon
from curate.scores.neighbours import pairs_of
from curate.scores.run import SHARDS, Run
from curate.scores.views import (
    RUN_COLUMNS,
    as_pattern,
    files_sql,
    literal,
    parquet_sql,
    quoted,
    run_row,
    shards_sql,
    token_columns,
    tokens_sql,
)
from curate.visible import visible

if TYPE_CHECKING:
    from curate.documents import Pool
    from curate.scores.pool_rows import PoolRows

VIEWS = ("scores", "candidates", "shards", "tokens", "skipped", "runs", "documents", "neighbours")
_NAMED_SHARDS = 5
_ON_TYPES = (
    duckdb.BinderException, duckdb.ConversionException, duckdb.InvalidInputException, pa.ArrowException, CurateError,
    OSError,  # what arrives of DuckDB's errors through Arrow's stream
)  # fmt: skip
"""What a query raises on keys and types that the view `documents` does not have."""
_IN_DOCUMENTS = (
    "Lists and objects of the pool, and those of more than "
    f"{MANY_COLUMNS} columns that few rows have, are in `documents` alone: JOIN documents USING (shard, row)."
)
_UNION = "\nUNION ALL BY NAME\n"
TOKEN_LISTS = "_token_lists"
"""The view behind `tokens`: a row per document with its lists."""


class Result:
    """The rows of one query as a stream of record batches, read once."""

    def __init__(self, reader: pa.RecordBatchReader, *, ahead: bool = False) -> None:
        """`ahead`: compute the first batch at once, so that what fails there fails here."""
        self._reader = reader
        self.schema: pa.Schema = reader.schema
        self._ahead = next(reader, None) if ahead else None

    @property
    def columns(self) -> list[str]:
        return list(self.schema.names)

    def batches(self) -> Iterator[pa.RecordBatch]:
        with _as_curate_errors():
            if self._ahead is not None:
                yield self._ahead
            yield from self._reader

    def arrow(self) -> pa.Table:
        return pa.Table.from_batches(list(self.batches()), self.schema)

    def rows(self, limit: int | None = None) -> list[tuple[Any, ...]]:
        """Return the first `limit` rows as Python values; the rest is not computed where DuckDB can stop early."""
        rows: list[tuple[Any, ...]] = []
        for batch in self.batches():
            piece = batch if limit is None else batch.slice(0, limit - len(rows))
            columns = [python_values(c, as_text) for c in piece.columns]
            rows.extend(zip(*columns, strict=True))
            if limit is not None and len(rows) >= limit:
                break
        return rows

    def close(self) -> None:
        self._reader.close()


class Session:
    """An SQL session on runs, from `open_session`; `query` returns results and refuses all but queries."""

    def __init__(
        self,
        runs: Sequence[tuple[str, Run]],
        *,
        pool: Sequence[str] | None,
        threads: int | None,
        neighbours: Path | None = None,
    ) -> None:
        self.runs = list(runs)
        config: dict[str, Any] = {
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
            # Made only when a query outgrows memory, and removed with the session.
            "temp_directory": str(Path(gettempdir()) / f"curate-{uuid.uuid4().hex}"),
        }
        if threads:
            config["threads"] = threads
        self.connection = duckdb.connect(":memory:", config=config)
        self._pool_address = pool
        self._documents: PoolRows | None = None
        self._result: Result | None = None
        stores = {run.located_settings.get("store") for _, run in self.runs}
        self.neighbours = neighbours or (pairs_of(stores.pop()) if len(stores) == 1 else None)
        """The file behind the view of that name."""
        self.schema = self._make_views()

    def query(self, sql: str, params: Mapping[str, Any] | Sequence[Any] | None = None) -> Result:
        """Run one query. Closes the result before it; SQL errors are CurateErrors with DuckDB's message."""
        self._close_result()
        tables = check_query(self.connection, sql)
        if "documents" in tables:
            self.provide_documents()
        try:
            self._result = self._run(sql, params, rereads="documents" in tables)
        except (RuntimeError, duckdb.InterruptException) as error:
            if was_interrupted(error):
                raise KeyboardInterrupt from error
            raise
        except duckdb.CatalogException as error:
            if "tokens" in tables and self.tokens_query is None:
                for _, run in self.runs:
                    run.refuse_positions()
                raise _not_by_token(self.runs) from error
            if "neighbours" in tables and self.neighbours is None:
                raise no_neighbours() from error
            raise sql_error(error) from error
        except duckdb.BinderException as error:
            hint = None if "documents" in tables or "not found in FROM clause" not in str(error) else _IN_DOCUMENTS
            raise CurateError(sql_error(error).message, hint=hint) from error
        except duckdb.Error as error:
            raise sql_error(error) from error
        return self._result

    def _run(self, sql: str, params: Mapping[str, Any] | Sequence[Any] | None, *, rereads: bool) -> Result:
        """Run a query; where it fails on the pool's types, once more with those of all of the pool's rows."""
        try:
            relation = self.connection.sql(sql, params=params) if params else self.connection.sql(sql)
            return Result(relation.to_arrow_reader(), ahead=rereads)
        except _ON_TYPES as error:
            if not rereads or self._documents is None or self._documents.is_typed_whole:
                raise
            if not self._documents.can_be_typed_whole:
                raise _late_types(error) from error
        self._documents = self._documents.typed_whole()
        self.connection.unregister("documents")
        self.connection.register("documents", self._documents)
        return self._run(sql, params, rereads=True)

    @property
    def views(self) -> tuple[str, ...]:
        """The views of this session."""
        available = {"tokens": self.tokens_query is not None, "neighbours": self.neighbours is not None}
        return tuple(v for v in VIEWS if available.get(v, True))

    def count(self, sql: str) -> int | None:
        """Return how many rows a query has; None where that takes reading the pool, or it cannot be wrapped."""
        self._close_result()
        if "documents" in check_query(self.connection, sql):
            return None
        try:
            row = self.connection.execute(f"SELECT count(*) FROM ({without_semicolon(sql)}\n)").fetchall()
        except duckdb.Error:
            return None
        return row[0][0]

    def provide_documents(self) -> None:
        """Open the pool and make the view `documents`; `query` does so when a query names it."""
        if self._documents is None:
            from curate.scores.pool_rows import PoolRows

            self._documents = PoolRows(self.pool(), self.schema)
            self.connection.execute("DROP VIEW documents")
            self.connection.register("documents", self._documents)

    def pool(self) -> "Pool":
        """Open the pool that was scored. Raises CurateError where it has changed or gone, or the runs have several."""
        prints = {run.record.fingerprints.pool for _, run in self.runs}
        if len(prints) > 1:
            names = ", ".join(name for name, _ in self.runs)
            raise CurateError(
                f"The runs {names} have different pools; expected one.", hint="Query the documents of one run."
            )
        return pool_of(self.runs[0][1], self._pool_address)

    def close(self) -> None:
        self._close_result()
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _close_result(self) -> None:
        # DuckDB refuses a new query on a connection whose last result is still open.
        if self._result:
            self._result.close()
            self._result = None

    def _make_views(self) -> pa.Schema:
        con, several = self.connection, len(self.runs) > 1
        parts, lists, skipped_parts, schemas = [], [], [], []
        for name, run in self.runs:
            sql, schema = files_sql(run.rows_files(), empty=pa.schema(SCORE_FIELDS))
            tag = f"{literal(name)} AS run, " if several else ""
            if by_token := token_columns(schema):
                listed = ", ".join(quoted(c) for c in by_token)
                lists.append((f"SELECT {tag}doc_id, shard, row, {listed} FROM ({sql})", by_token))
                sql = f"SELECT * EXCLUDE ({listed}) FROM ({sql})"
            schemas.append(pa.schema([f for f in schema if f.name not in by_token]))
            skipped_sql, _ = files_sql(run.skipped_files(), empty=SKIPPED_SCHEMA)
            parts.append(f"SELECT {tag}* FROM ({sql})")
            skipped_parts.append(f"SELECT {tag}* FROM ({skipped_sql})")
            if several:
                con.execute(f"CREATE VIEW {quoted(name)} AS {sql}")
        schema = unify(schemas)
        by = ("run", "shard") if several else ("shard",)
        con.execute(f"CREATE VIEW scores AS {_UNION.join(parts)}")
        con.execute("CREATE VIEW candidates AS SELECT * FROM scores")
        # Stands for the pool's rows until a query reads them, so that lists of tables have it.
        con.execute(
            "CREATE VIEW documents AS SELECT error('The pool is not open.')::VARCHAR AS shard, 0::BIGINT AS row"
        )
        con.execute(f"CREATE VIEW skipped AS {_UNION.join(skipped_parts)}")
        self.shards_query = shards_sql(schema, by=by)
        con.execute(f"CREATE VIEW shards AS {self.shards_query}")
        self.tokens_query = self._make_tokens(lists)
        if self.neighbours is not None:
            con.execute(f"CREATE VIEW neighbours AS SELECT * FROM {parquet_sql([self.neighbours])}")
        columns = ", ".join(f"{column} {kind}" for column, kind in RUN_COLUMNS.items())
        con.execute(f"CREATE TABLE runs ({columns})")
        for name, run in self.runs:
            con.execute(f"INSERT INTO runs VALUES ({', '.join('?' * len(RUN_COLUMNS))})", run_row(name, run)).fetchall()
        return schema

    def _make_tokens(self, lists: Sequence[tuple[str, list[str]]]) -> str | None:
        """Make the view of the runs that have scores per token; return its SQL over TOKEN_LISTS.

        There is none where one of them has positions' instead, which are never mixed with labels'.
        """
        if not lists or any(run.record.scores_positions for _, run in self.runs):
            return None
        self.connection.execute(f"CREATE VIEW {TOKEN_LISTS} AS {_UNION.join(sql for sql, _ in lists)}")
        columns = list(dict.fromkeys(c for _, by_token in lists for c in by_token))
        by = ("run", "doc_id", "shard", "row") if len(self.runs) > 1 else ("doc_id", "shard", "row")
        query = tokens_sql(columns, source=TOKEN_LISTS, by=by)
        self.connection.execute(f"CREATE VIEW tokens AS {query}")
        return query

    def lock(self, allow: Sequence[Path | str]) -> None:
        """Close all files but those in the runs' folders and `allow`, for the rest of the session."""
        roots = [run.folder.root for _, run in self.runs]  # where copies lie of parts in an object store
        folders = [path for root in roots for path in (root.absolute(), root.resolve())]
        folders += [self.neighbours.absolute().parent] if self.neighbours else []
        folders += [Path(a).resolve() for a in allow]
        # DuckDB looks at a path both as it is given, as a pattern, and as it is opened.
        listed = ", ".join(literal(path) for f in folders for path in dict.fromkeys((str(f), as_pattern(str(f)))))
        self.connection.execute(f"SET allowed_directories = [{listed}]")
        self.connection.execute("SET enable_external_access = false")
        self.connection.execute("SET lock_configuration = true")


def open_session(
    runs: Run | Sequence[Run],
    *,
    allow: Sequence[Path | str] = (),
    pool: Sequence[str] | None = None,
    threads: int | None = None,
    neighbours: Path | None = None,
    lock: bool = True,
) -> Session:
    """Open SQL over one or several runs.

    `allow`: folders whose files queries may read besides the runs'. `pool`: where the pool is now, if it
    has moved. `neighbours`: pairs of near documents of a gradient store; by default those of the store that the runs
    were scored from. Close the session, or use it in a `with` block.
    """
    run_list = [runs] if isinstance(runs, Run) else list(runs)
    if not run_list:
        raise CurateError("No run was given; expected at least one.")
    for folder in allow:
        if not Path(folder).is_dir():
            raise CurateError(f"--allow {folder}: no such folder.")
    session = Session(_named(run_list), pool=pool, threads=threads, neighbours=neighbours)
    if lock:
        session.lock(allow)
    return session


def pool_of(run: Run, address: Sequence[str] | None = None) -> "Pool":
    """Open the pool that a run scored, at its own address or the one given; it must hold the same shards."""
    from curate.documents import open_pool

    by_line = run.record.fields.get("txt_lines", False)
    try:
        pool = open_pool(list(address or run.located_settings.get("pool") or ()), txt_lines=by_line)
    except CurateError as error:
        if address:
            raise
        folder = run.working_folder or "the folder that the run was made in (its log does not name it)"
        raise CurateError(
            f"The pool of {run.address} is not where it was: {error.message} Its address was given in {folder}.",
            hint="Say where the pool is now with --pool ADDRESS.",
        ) from error
    fingerprint, expected = pool.fingerprint(), run.record.fingerprints.pool
    if fingerprint != expected:
        where = ", ".join(pool.address)
        raise CurateError(
            f"{where}: not the pool that {run.address} scored: "
            f"{_changes(run, pool) or f'the fingerprint is {fingerprint}; expected {expected}'}.",
            hint="Give the same shards with --pool, or score the changed pool into another run.",
        )
    return pool


def _changes(run: Run, pool: "Pool") -> str:
    """Say which shards of a pool are others than those that a run scored; '' where it does not tell."""
    scored = read_json(run.folder, SHARDS) if run.folder.exists(SHARDS) else {}
    now = pool.shard_fingerprints()
    kinds = {
        "changed": [name for name in now if name in scored and scored[name] != now[name]],
        "gone": [name for name in scored if name not in now],
        "new": [name for name in now if name not in scored],
    }
    lists = ((kind, names[:_NAMED_SHARDS], len(names) > _NAMED_SHARDS) for kind, names in kinds.items() if names)
    clauses = (f"{kind}: {', '.join(names)}{' …' if is_cut else ''}" for kind, names, is_cut in lists)
    return visible("; ".join(clauses)) if scored else ""


def _named(runs: Sequence[Run]) -> list[tuple[str, Run]]:
    """Name each run by a plain identifier, unique and different from the views' names."""
    named: list[tuple[str, Run]] = []
    used_names: set[str] = set(VIEWS) if len(runs) > 1 else set()
    for run in runs:
        base = re.sub(r"\W+", "_", run.name).strip("_") or "run"
        base = f"run_{base}" if base[0].isdigit() or base.lower() in used_names & set(VIEWS) else base
        name, number = base, 2
        while name.lower() in used_names:
            name, number = f"{base}_{number}", number + 1
        used_names.add(name.lower())
        named.append((name, run))
    return named


def no_neighbours() -> CurateError:
    """Return the error of a query that needs pairs of near documents where there are none."""
    return CurateError(
        "This run has no pairs of near documents.",
        hint="Index its pool (curate index --pool FOLDER), then name the store: curate select … --store STORE.",
    )


def _late_types(error: Exception) -> CurateError:
    return CurateError(
        str(error).strip(),
        hint="The first rows of up to 32 shards tell what lists and objects of `documents` hold, in a pool of this "
        "size; keys and types that come later are not seen. Ask a run of the shards in question, or read their files "
        "with --allow FOLDER.",
    )


def _not_by_token(runs: Sequence[tuple[str, Run]]) -> CurateError:
    names = ", ".join(name for name, _ in runs)
    return CurateError(
        f"There are no scores per token in {names}, so there is no view tokens.",
        hint="Score with --per-token into a run of its own: curate score … --per-token --out runs/NAME.",
    )


@contextmanager
def _as_curate_errors() -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        if was_interrupted(error):
            raise KeyboardInterrupt from error
        raise sql_error(error) from error
    except (pa.ArrowException, OSError) as error:
        if was_interrupted(error):
            raise KeyboardInterrupt from error
        # The reader's batches come through Arrow's C stream, which carries DuckDB's message alone.
        raise CurateError(str(error).strip()) from error
