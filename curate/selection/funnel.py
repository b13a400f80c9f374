"""Compose filters: each narrows the view `candidates` of a session; the funnel records what it dropped."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from curate.errors import CurateError
from curate.folders.values import as_text, python_values
from curate.schema import SCORE_COLUMNS, is_score
from curate.scores.guard import check_query, sql_error, without_semicolon
from curate.scores.narrowing import documents_stood_for
from curate.scores.neighbours import SCHEMA as NEIGHBOURS
from curate.scores.session import Session, no_neighbours
from curate.scores.views import quoted, score_columns, sql_type
from curate.selection.filters import Bound
from curate.selection.ranking import Ranking

# A query for each of very many small shards would take longer than reading them; rows of large ones fill the memory.
_SHARDS_AT_ONCE, _ROWS_AT_ONCE = 256, 1_000_000
_ROW_BITS = 40  # a document's position is its shard's number and its row: one integer, in pool order
NEARLY_ALL = 0.98
"""Share of a budget below which a selection is said to fall short of it."""
SHARD_STATISTICS = ("mean", "sum", "max", "q05", "q25", "q50", "q75", "q95")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One filter's parameters and its effect."""

    name: str
    values: dict[str, Any]
    asked: dict[str, Any]
    """Those of the values that are not the filter's defaults."""
    ranked_by: tuple[str, ...]
    """What the score columns that it names hold: `score_law per token`."""
    sql: str
    unit: str
    """'document', 'shard' where whole shards were the candidates, or 'token'; kept and dropped count those."""
    kept: int
    dropped: int
    documents: int
    tokens: int
    """Tokens that carry loss in these documents."""
    documents_dropped: int
    file: str | None = None
    """Of a filter that has no name of its own."""


class Funnel:
    """The candidates of one selection in a session on one run.

    Keeps, in the session's database: `_kept(pos, n_tokens, weight)` for the documents that are left, with their tokens
    that carry loss, and `_rejected(pos, stage)` for the others.
    """

    def __init__(self, session: Session, *, shard_score: str = "mean", ranking: Ranking | None = None) -> None:
        self.session = session
        self.ranking = ranking or Ranking()
        self.schema = session.schema
        self.unit = "document"
        self.stages: list[Stage] = []
        self._shard_score = shard_score
        self._con = session.connection
        self._block: tuple[int, pa.Table] | None = None
        self._shards_at_once = 1
        self.run = session.runs[0][1]
        self.shard_numbers = {p.shard: p.shard_index for p in self.run.all_parts()}
        self._register_shards(self.shard_numbers)
        pos = f'(_shards.shard_index << {_ROW_BITS}) + scores."row"'
        # What every stage reads, from the files, by the columns it needs.
        self._execute(
            f"CREATE VIEW _documents AS SELECT {pos} AS _pos, scores.* FROM scores JOIN _shards USING (shard)"
        )
        self._execute(
            "CREATE TABLE _kept AS "
            "SELECT _pos AS pos, n_tokens::BIGINT AS n_tokens, 1.0::DOUBLE AS weight FROM _documents"
        )
        self._execute("CREATE TABLE _rejected (pos BIGINT, stage VARCHAR)")
        self.documents, self.tokens = self._sums()
        self._shards = self._number(f"SELECT count(DISTINCT pos >> {_ROW_BITS}) FROM _kept")
        self._show_documents()

    @property
    def columns(self) -> list[str]:
        """The columns of the candidates, as filters may name them."""
        return [c for c in self._names("candidates") if c != "_pos"]

    @property
    def total(self) -> int:
        """Number of documents, or shards, before any filter; of a run of another's best, of what it was chosen from."""
        return documents_stood_for(self.run, self.documents) if self.unit == "document" else self._shards

    def use_shards(self) -> None:
        """Make whole shards the candidates: one row each, of the documents that are left."""
        self.unit = "shard"
        self._execute("CREATE VIEW _left AS SELECT _documents.* FROM _documents SEMI JOIN _kept ON _kept.pos = _pos")
        self._execute(f"CREATE TABLE _units AS {self._shards_sql()}")
        self._execute("CREATE TABLE _kept_units AS SELECT _pos AS pos, n_tokens, 1.0::DOUBLE AS weight FROM _units")
        self._execute(
            "CREATE OR REPLACE VIEW candidates AS "
            "SELECT _units.*, k.weight FROM _units JOIN _kept_units k ON k.pos = _pos"
        )

    def apply(self, bound: Bound) -> Stage:
        """Run one filter on the candidates. Raises CurateError where it returns other rows."""
        name = bound.filter.name
        tables = check_query(self._con, bound.sql)
        if "documents" in tables:
            self.session.provide_documents()
        if "neighbours" in tables:
            self._provide_neighbours(required=bound.filter.needs_neighbours(bound.values))
        sql = without_semicolon(bound.sql)
        self._collect(name, sql, bound)
        by_shard = self.unit == "shard"
        table = "_kept_units" if by_shard else "_kept"
        before = self._number(f"SELECT count(*) FROM {table}")
        self._narrow(table, name)
        if by_shard:
            self._drop_documents_of(name)
        kept = self._number(f"SELECT count(*) FROM {table}")
        return self._staged(
            name=name,
            values=dict(bound.values),
            asked=dict(bound.asked),
            ranked_by=tuple(self.ranking.label(c) for c in bound.named(score_columns(self.schema))),
            sql=bound.filter.sql,
            unit=self.unit,
            kept=kept,
            dropped=before - kept,
            file=None if bound.filter.has_name else str(bound.filter.path.resolve()),
        )

    def kept_positions(self) -> np.ndarray:
        """Return the positions of the documents that are left, sorted."""
        return self._con.sql("SELECT pos FROM _kept ORDER BY pos").to_arrow_table()["pos"].to_numpy()

    def keep_tokens(
        self,
        name: str,
        positions: np.ndarray,
        counts: np.ndarray,
        *,
        values: dict[str, Any],
        asked: dict[str, Any],
        ranked_by: str,
        dropped: int,
    ) -> Stage:
        """Keep those of the documents that have chosen tokens, and so many of them; `dropped` tokens are not."""
        self._con.register("_chosen", pa.table({"pos": positions, "n_tokens": counts}))
        self._execute("CREATE OR REPLACE TABLE _result AS SELECT pos, n_tokens, NULL::DOUBLE AS weight FROM _chosen")
        self._con.unregister("_chosen")
        self._narrow("_kept", name)
        self._execute("UPDATE _kept SET n_tokens = r.n_tokens FROM _result r WHERE r.pos = _kept.pos")
        return self._staged(
            name=name,
            values=values,
            asked=asked,
            ranked_by=(ranked_by,),
            sql="",
            unit="token",
            kept=int(counts.sum()),
            dropped=dropped,
        )

    def _staged(self, **described: Any) -> Stage:
        """Add a stage with the documents that are left now."""
        documents, tokens = self._sums()
        before = self.stages[-1].documents if self.stages else self.documents
        stage = Stage(**described, documents=documents, tokens=tokens, documents_dropped=before - documents)
        self.stages.append(stage)
        return stage

    def _provide_neighbours(self, *, required: bool) -> None:
        """Make an empty view `neighbours` where there are no pairs. Raises CurateError where the filter needs them."""
        if self.session.neighbours is not None:
            return
        if required:
            raise no_neighbours()
        columns = ", ".join(f"NULL::{sql_type(f.type)} AS {quoted(f.name)}" for f in NEIGHBOURS)
        self._execute(f"CREATE OR REPLACE TEMP VIEW neighbours AS SELECT {columns} WHERE false")

    @property
    def weighted(self) -> bool:
        """Whether a filter gave weights."""
        return bool(self._number("SELECT count(*) FROM _kept WHERE weight <> 1"))

    def materialise(self) -> None:
        """Put the rows that are left into one table in pool order, with their scores and weights."""
        self._block = None
        scores = ", ".join(f"d.{quoted(c)}" for c in score_columns(self.schema))
        weight = ", k.weight" if self.weighted else ""
        self._execute(
            f'CREATE OR REPLACE TABLE _selected AS SELECT k.pos, d."row", {scores}{weight} '
            "FROM _documents d JOIN _kept k ON k.pos = d._pos ORDER BY k.pos"
        )
        rows_of_each = self._number("SELECT count(*) FROM _selected") / max(1, len(self.shard_numbers))
        self._shards_at_once = max(1, min(_SHARDS_AT_ONCE, int(_ROWS_AT_ONCE / max(1, rows_of_each))))

    def selected_of(self, shard_index: int) -> pa.Table:
        """Return row, scores and weight of one shard's rows that are left, by row; after `materialise`."""
        rows = self._selected_near(shard_index // self._shards_at_once)
        places = rows["pos"].to_numpy()
        start, end = np.searchsorted(places, [shard_index << _ROW_BITS, (shard_index + 1) << _ROW_BITS])
        return rows.slice(start, end - start).drop_columns(["pos"])

    def _selected_near(self, block: int) -> pa.Table:
        """Return the rows that are left of a block of shards; the last block is kept."""
        if self._block is None or self._block[0] != block:
            low, high = (number * self._shards_at_once << _ROW_BITS for number in (block, block + 1))
            sql = f"SELECT * FROM _selected WHERE pos >= {low} AND pos < {high} ORDER BY pos"
            self._block = (block, self._con.sql(sql).to_arrow_table().combine_chunks())
        return self._block[1]

    def rejected(self) -> pa.RecordBatchReader:
        """Return every document that a filter dropped, with the filter's name, in pool order; close it after use."""
        sql = (
            'SELECT d.doc_id, d.shard, d."row", r.stage AS filter, d.score '
            "FROM _rejected r JOIN _documents d ON d._pos = r.pos ORDER BY r.pos"
        )
        return self._con.sql(sql).to_arrow_reader()

    def composition(self, by: str, column: str) -> list[tuple[Any, ...]]:
        """Return per value of `by`: documents and tokens of the run, those left, and the mean that ranks of these."""
        sql = (
            f"SELECT d.{quoted(by)}, count(*), sum(n_tokens)::BIGINT, count(k.pos), "
            "coalesce(sum(k.kept_tokens), 0)::BIGINT, "
            f"avg({self.ranking.of_document(column)}) FILTER (k.pos IS NOT NULL) "
            "FROM _documents d LEFT JOIN (SELECT pos, n_tokens AS kept_tokens FROM _kept) k ON k.pos = d._pos "
            "GROUP BY 1 ORDER BY 4 DESC, 2 DESC, 1"
        )
        # Through Arrow: of moments with a zone DuckDB makes Python's objects only where pytz is installed.
        columns = [python_values(column, as_text) for column in self._con.sql(sql).to_arrow_table().columns]
        return list(zip(*columns, strict=True))

    def _collect(self, name: str, sql: str, bound: Bound) -> None:
        """Put the positions that a filter returns into `_result`; check that each is a candidate, once."""
        used = duckdb.extract_statements(sql)[0].named_parameters
        parameters = {k: v for k, v in bound.binding.items() if k in used}
        if missing := sorted(set(used) - set(parameters)):
            raise CurateError(f"Filter {name!r} uses ${missing[0]}, which its header does not declare.")
        row = 'f."row"' if self.unit == "document" else "0"
        pos = f"(_shards.shard_index << {_ROW_BITS}) + {row}"
        names = self._output(name, sql, parameters)
        weight = "f.weight::DOUBLE" if "weight" in names else "NULL::DOUBLE"
        self._execute("DROP TABLE IF EXISTS _result")
        self._execute(
            f"CREATE TABLE _result AS SELECT {pos} AS pos, {weight} AS weight\n"
            f"FROM (\n{sql}\n) AS f LEFT JOIN _shards USING (shard)",
            parameters,
        )
        table = "_kept_units" if self.unit == "shard" else "_kept"
        returned, distinct, candidates = self._row(
            f"SELECT count(*), count(DISTINCT r.pos), count(k.pos) FROM _result r LEFT JOIN {table} k USING (pos)"
        )
        if returned != candidates:
            raise CurateError(
                f"Filter {name!r} returns {returned - candidates} rows that are not among its candidates."
            )
        if returned != distinct:
            raise CurateError(
                f"Filter {name!r} returns {returned - distinct} rows twice.",
                hint="A filter keeps each row at most once.",
            )

    def _output(self, name: str, sql: str, parameters: dict[str, Any]) -> list[str]:
        """Return the names of a filter's columns. Raises CurateError where shard or row is missing."""
        empty = f"SELECT * FROM (\n{sql}\n) LIMIT 0"
        try:
            relation = self._con.sql(empty, params=parameters) if parameters else self._con.sql(empty)
        except duckdb.Error as error:
            raise CurateError(f"Filter {name!r}: {sql_error(error).message}") from error
        names = relation.columns
        if missing := [c for c in ("shard", "row") if c not in names]:
            raise CurateError(
                f"Filter {name!r} returns no column {missing[0]!r}.",
                hint="A filter returns rows of candidates: SELECT * FROM candidates …",
            )
        return names

    def _narrow(self, table: str, name: str) -> None:
        if table == "_kept":
            self._execute("INSERT INTO _rejected SELECT pos, ? FROM _kept ANTI JOIN _result USING (pos)", [name])
        self._execute(
            f"CREATE OR REPLACE TABLE _next AS SELECT k.pos, k.n_tokens, coalesce(r.weight, k.weight) AS weight "
            f"FROM {table} k JOIN _result r USING (pos)"
        )
        # The view reads the table by its name: what it shows changes with it.
        self._execute(f"DROP TABLE {table}")
        self._execute(f"ALTER TABLE _next RENAME TO {table}")

    def _drop_documents_of(self, name: str) -> None:
        """Drop the documents of dropped shards; the others take their shard's weight."""
        shard = f"(k.pos >> {_ROW_BITS}) << {_ROW_BITS}"
        self._execute(
            f"INSERT INTO _rejected SELECT k.pos, ? FROM _kept k ANTI JOIN _kept_units u ON u.pos = {shard}",
            [name],
        )
        self._execute(
            "CREATE OR REPLACE TABLE _next AS SELECT k.pos, k.n_tokens, u.weight "
            f"FROM _kept k JOIN _kept_units u ON u.pos = {shard}"
        )
        self._execute("DROP TABLE _kept")
        self._execute("ALTER TABLE _next RENAME TO _kept")

    def _show_documents(self) -> None:
        columns = [c for c in self._names("_documents") if c != "weight"]
        scores = {c: f"{self.ranking.of_document(c)} AS {quoted(c)}" for c in score_columns(self.schema)}
        listed = ", ".join(scores.get(c, f"d.{quoted(c)}") for c in columns)
        # A pool's own column of this name would hide the weights that filters give.
        pool_weight = ", d.weight AS pool_weight" if "weight" in self._names("_documents") else ""
        self._execute(
            f"CREATE OR REPLACE VIEW candidates AS SELECT {listed}{pool_weight}, k.weight "
            "FROM _documents d JOIN (SELECT pos, weight FROM _kept) k ON k.pos = d._pos"
        )

    def _shards_sql(self) -> str:
        """Return the SQL of a row per shard in the columns of documents, each the shard's summary."""
        columns = [
            f"((_pos >> {_ROW_BITS}) << {_ROW_BITS}) AS _pos",
            "any_value(shard) AS doc_id", "any_value(shard) AS shard", "0::BIGINT AS row",
            "count(*) AS documents", "sum(n_tokens)::BIGINT AS n_tokens",
            "md5(string_agg(content_hash, '' ORDER BY \"row\")) AS content_hash",
            "bool_or(target_exact) AS target_exact", "max(target_overlap) AS target_overlap",
            "bool_or(truncated) AS truncated",
            "(sum(loss::DOUBLE * n_tokens) / nullif(sum(n_tokens), 0))::FLOAT AS loss",
            "avg(grad_norm)::FLOAT AS grad_norm",
        ]  # fmt: skip
        # In single precision, so that the order in which threads add up does not decide ties.
        columns += [
            f"({self.ranking.of_shard(c, self._shard_score)})::FLOAT AS {quoted(c)}" for c in score_columns(self.schema)
        ]
        for field in self.schema:
            if field.name in SCORE_COLUMNS or field.name in columns or is_score(field.name):
                continue
            column = quoted(field.name)
            # A shard has a pool column's value where all its documents have the same.
            same = f"count({column}) = count(*) AND min({column}) = max({column})"
            constant = f"CASE WHEN {same} THEN min({column}) END"
            columns.append(f"({constant})::{sql_type(field.type)} AS {quoted(_free(field.name))}")
        return f"SELECT {', '.join(columns)} FROM _left GROUP BY ALL ORDER BY 1"

    def _register_shards(self, numbers: dict[str, int]) -> None:
        # As lists and not as an Arrow table: making one from Python values imports pandas, which takes its time.
        parameters = {"names": list(numbers), "numbers": list(numbers.values())}
        self._execute(
            "CREATE TABLE _shards AS SELECT unnest($names::VARCHAR[]) AS shard, "
            "unnest($numbers::BIGINT[]) AS shard_index",
            parameters,
        )

    def _sums(self) -> tuple[int, int]:
        documents, tokens = self._row("SELECT count(*), coalesce(sum(n_tokens), 0) FROM _kept")
        return int(documents), int(tokens)

    def _names(self, view: str) -> list[str]:
        return self._con.sql(f"FROM {view} LIMIT 0").columns

    def _number(self, sql: str) -> int:
        return int(self._row(sql)[0])

    def _row(self, sql: str) -> tuple[Any, ...]:
        return self._execute(sql)[0]

    def _execute(self, sql: str, params: Sequence[Any] | dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        try:
            # fetchall, always: DuckDB 2 keeps a connection busy until a result is read to its end.
            return self._con.execute(sql, params).fetchall() if params else self._con.execute(sql).fetchall()
        except duckdb.Error as error:
            raise sql_error(error) from error


def position(shard_index: int, row: Any) -> Any:
    """Return the position of a row, or of an array of rows, of the shard of this number."""
    return (shard_index << _ROW_BITS) + row


def _free(name: str) -> str:
    return f"pool_{name}" if name in ("weight", "documents") else name
