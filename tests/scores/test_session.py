import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.documents import open_pool
from curate.errors import CurateError
from curate.folders.folder import put_json
from curate.scores.run import SHARDS, Run
from curate.scores.session import open_session
from tests.small_runs import FINGERPRINTS, SETTINGS, rows, skipped, write


@pytest.fixture
def run(start):
    run = start()
    first = rows("a", 0, [1.0, 2.0, 3.0], skipped_none=[1, 2, 3], source=["x", "y", "x"], score_math=[0.0, 1.0, 2.0])
    write(run, "a", 0, first, skipped(("a", 3, "empty text")), end=4)
    write(run, "b", 1, rows("b", 0, [4.0], source=["y"], score_math=[5.0]))
    return run


def test_views_hold_what_was_scored(run):
    with open_session(run) as session:
        assert session.query("SELECT source, count(*), avg(score) FROM scores GROUP BY source ORDER BY 1").rows() == [
            ("x", 2, 2.0),
            ("y", 2, 3.0),
        ]
        assert session.query("SELECT reason FROM skipped").rows() == [("empty text",)]
        assert session.query("SELECT count(*) FROM candidates").rows() == [(4,)]
        assert session.query("SELECT run, method, settings->>'dim' FROM runs").rows() == [("run", "dot", "16")]


def test_shards_have_statistics_of_every_group(run):
    with open_session(run) as session:
        columns = "shard, documents, tokens, mean, sum, min, max, q25, q50, mean_math, q95_math"
        assert session.query(f"SELECT {columns} FROM shards ORDER BY 1").rows() == [
            ("a", 3, 60, 2.0, 6.0, 1.0, 3.0, 1.5, 2.0, 1.0, pytest.approx(1.9)),
            ("b", 1, 10, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 5.0, 5.0),
        ]


def test_several_runs_share_views_and_have_one_each(run, start):
    other = start("2nd run!", dim=32)
    write(other, "a", 0, rows("a", 0, [9.0], year=[1999]))
    with open_session([run, other]) as session:
        assert session.query("SELECT run, count(*), max(year) FROM scores GROUP BY ALL ORDER BY run").rows() == [
            ("run", 4, None),
            ("run_2nd_run", 1, 1999),
        ]
        assert session.query("SELECT r.score, o.score FROM run r JOIN run_2nd_run o USING (shard, row)").rows() == [
            (1.0, 9.0)
        ]
        assert session.query("SELECT run, shard, documents FROM shards ORDER BY ALL").rows()[-1] == (
            "run_2nd_run",
            "a",
            1,
        )


def test_parts_of_different_types_are_one_view(start):
    run = start()
    write(run, "a", 0, rows("a", 0, [1.0], when=pa.array([None]), n=[1]))
    write(run, "b", 1, rows("b", 0, [2.0], when=[7], n=["seven"]))
    write(run, "c", 2, rows("c", 0, [3.0], when=pa.array([0], pa.timestamp("us", "UTC")), n=[True]))
    with open_session(run) as session:
        table = session.query('SELECT "when", n FROM scores ORDER BY shard').arrow()
    assert table.column("n").to_pylist() == ["1", "seven", "true"]
    assert table.column("when").to_pylist()[:2] == [None, "7"]


@pytest.mark.parametrize(
    ("sql", "seen"),
    [
        ("COPY scores TO '{run}/x.csv'", "COPY is not a query"),
        ("WITH a AS (COPY scores TO '{run}/x.csv') SELECT * FROM a", "COPY inside WITH"),
        ("EXPLAIN ANALYZE COPY scores TO '{run}/x.csv'", "COPY is not a query"),
        ("FROM query('WITH a AS (COPY scores TO ''{run}/x.csv'') FROM a')", "runs SQL from a string"),
        ("WITH a AS (DELETE FROM runs RETURNING *) SELECT * FROM a", "DELETE inside WITH"),
        ("ATTACH '{run}/x.db'", "ATTACH is not a query"),
        ("INSTALL httpfs", "LOAD is not a query"),
        ("SET threads = 1", "SET is not a query"),
        ("PRAGMA database_list", "PRAGMA is not a query"),
        ("CREATE TABLE t AS SELECT 1", "CREATE is not a query"),
        ("DROP VIEW scores", "DROP is not a query"),
        ("SELECT 1; SELECT 2", "There are 2 SQL statements; expected one"),
        ("EXPORT DATABASE '{run}/x'", "EXPORT is not a query"),
        ("PREPARE p AS SELECT 1", "PREPARE is not a query"),
    ],
)
def test_anything_but_a_query_is_refused(run, sql, seen):
    before = sorted(run.path.rglob("*"))
    with open_session(run) as session, pytest.raises(CurateError, match=seen):
        session.query(sql.format(run=run.path))
    assert sorted(run.path.rglob("*")) == before


@pytest.mark.parametrize("sql", ["SELECT * FROM read_text('{file}')", "FROM '{file}'", "FROM read_csv('{file}')"])
def test_other_files_are_closed_unless_allowed(run, tmp_path, sql):
    (tmp_path / "other").mkdir()
    file = tmp_path / "other" / "f.csv"
    file.write_text("a,b\n1,2\n")
    with open_session(run) as session, pytest.raises(CurateError) as error:
        session.query(sql.format(file=file)).rows()
    assert "--allow" in error.value.hint
    with open_session(run, allow=[file.parent]) as session:
        assert len(session.query(sql.format(file=file)).rows()) == 1


@pytest.mark.parametrize(
    "sql",
    ["DESCRIBE scores", "SUMMARIZE scores", "SHOW TABLES", "EXPLAIN FROM scores", "VALUES (1)", "FROM shards",
     "PIVOT scores ON source IN ('x') USING sum(score)", "EXPLAIN ANALYZE FROM runs",
     "WITH a AS (FROM runs) FROM a"],
)  # fmt: skip
def test_every_kind_of_query_runs(run, sql):
    with open_session(run) as session:
        assert session.query(sql).rows()


def test_python_variables_of_the_caller_are_not_tables(run):
    secret = pa.table({"x": [1]})
    assert secret.num_rows == 1
    with open_session(run) as session, pytest.raises(CurateError, match="secret"):
        session.query("SELECT * FROM secret")


def test_sql_errors_carry_duckdbs_hint(run):
    with open_session(run) as session, pytest.raises(CurateError, match="score"):
        session.query("SELECT scor FROM scores")


def test_a_long_result_is_not_computed_to_its_end(run):
    with open_session(run) as session:
        assert len(session.query("SELECT * FROM range(1000000000000)").rows(5)) == 5
        assert session.query("SELECT 1").rows() == [(1,)]
        assert session.count("SELECT * FROM range(7)") == 7


def test_documents_are_the_pools_own_rows(tmp_path):
    pool = tmp_path / "pool"
    pool.mkdir()
    (pool / "a.jsonl").write_text('{"text": "one", "n": 1, "tags": ["x"]}\n{"text": "two", "n": "b"}\n')
    pa.parquet.write_table(pa.table({"text": ["three"], "n": [3], "row": [5]}), pool / "b.parquet")
    address = [str(pool)]
    prints = {**FINGERPRINTS, "pool": open_pool(address).fingerprint()}
    run = Run.start(tmp_path / "r", settings={**SETTINGS, "pool": address}, fingerprints=prints)
    write(run, "a.jsonl", 0, rows("a.jsonl", 0, [1.0, 2.0], n=["1", "b"]))
    write(run, "b.parquet", 1, rows("b.parquet", 0, [3.0], n=[3], pool_row=[5]))
    with open_session(run) as session:
        listed = {"candidates", "documents", "runs", "scores", "shards", "skipped"}
        assert {name for (name,) in session.query("SHOW TABLES").rows()} == listed
        columns = "d.text, d.n, d.tags, d.pool_row"
        query = f"SELECT {columns} FROM documents d JOIN scores s USING (shard, row) ORDER BY score"
        expected = [("one", "1", ["x"], None), ("two", "b", None, None), ("three", "3", None, 5)]
        assert session.query(query).rows() == expected
        assert session.query(query).rows() == expected
        assert {name for (name,) in session.query("SHOW TABLES").rows()} == listed
    moved = tmp_path / "moved"
    pool.rename(moved)
    with open_session(run, pool=[str(moved)]) as session:
        assert session.query("SELECT count(*) FROM documents").rows() == [(3,)]
    (moved / "a.jsonl").write_text('{"text": "other"}\n')
    with (
        open_session(run, pool=[str(moved)]) as session,
        pytest.raises(CurateError, match="not the pool that"),
    ):
        session.query("SELECT count(*) FROM documents")


@pytest.mark.parametrize(
    "name", ['it\'s 100 % "odd", {x}; --', "source=all", "a*c [x] ?", "[!a]", "c4:train", "Größe 大 #1", "a\\\\b"]
)
def test_folders_with_odd_names_are_read_and_give_no_column(start, name):
    run = start(name)
    write(run, "s", 0, rows("s", 0, [1.0], source=["web"]))
    with open_session(run) as session:
        assert session.query("SELECT source, count(*) FROM scores GROUP BY 1").rows() == [("web", 1)]
        assert "all" not in session.schema.names
        with pytest.raises(CurateError, match="disabled by configuration"):
            session.query("SELECT * FROM read_text('/etc/hostname')").rows()


def test_a_run_is_read_through_a_link(start, tmp_path):
    run = start("real")
    write(run, "s", 0, rows("s", 0, [1.0]))
    (tmp_path / "linked").symlink_to(run.path, target_is_directory=True)
    with open_session(Run.open(tmp_path / "linked")) as session:
        assert session.query("SELECT count(*) FROM scores").rows() == [(1,)]


def late_run(tmp_path) -> Run:
    """A run of a pool whose objects and lists change after the rows that are looked at first."""
    (tmp_path / "pool").mkdir()
    early = {"text": "t", "meta": {"n": 1}, "tags": [1], "Name": 1, "": 2, "name": "x"}
    late = {"text": "t", "meta": {"lang": "de"}, "tags": ["x"], "more": {"a": [{"b": 2}]}}
    lines = "".join(json.dumps(row) + "\n" for row in [*[early] * 1500, late])
    (tmp_path / "pool" / "a.jsonl").write_text(lines)
    address = [str(tmp_path / "pool")]
    prints = {**FINGERPRINTS, "pool": open_pool(address).fingerprint()}
    run = Run.start(tmp_path / "r", settings={**SETTINGS, "pool": address}, fingerprints=prints)
    own = {"unnamed": [2] * 1501, "Name": [1] * 1501, "pool_name": ["x"] * 1501}
    write(run, "a.jsonl", 0, rows("a.jsonl", 0, [1.0] * 1501, **own))
    return run


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT count(*) FROM documents WHERE meta.lang = 'de'", [(1,)]),
        ("SELECT count(*) FROM documents WHERE list_contains(tags, 'x')", [(1,)]),
        ("SELECT more.a[1].b FROM documents WHERE more IS NOT NULL", [(2,)]),
        ("SELECT tags FROM documents WHERE row IN (0, 1500) ORDER BY row", [(["1"],), (["x"],)]),
        ("SELECT sum(unnamed), sum(Name) FROM documents", [(3000, 1500)]),
    ],
)
def test_nested_keys_and_types_that_come_late_can_be_asked_for(tmp_path, sql, expected):
    with open_session(late_run(tmp_path)) as session:
        assert session.query(sql).rows() == expected
        assert "pool_name" not in session.query("FROM documents").columns


def test_columns_that_differ_by_case_from_each_other_and_are_named_like_a_score_keep_apart(tmp_path):
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "a.jsonl").write_text('{"text": "t", "score": 1, "SCORE": 2, "Score": 3}\n')
    address = [str(tmp_path / "pool")]
    prints = {**FINGERPRINTS, "pool": open_pool(address).fingerprint()}
    run = Run.start(tmp_path / "r", settings={**SETTINGS, "pool": address}, fingerprints=prints)
    own = {"pool_SCORE": [2], "pool_pool_Score": [3], "pool_pool_pool_score": [1]}
    write(run, "a.jsonl", 0, rows("a.jsonl", 0, [1.0], **own))
    with open_session(run) as session:
        found = session.query("SELECT * EXCLUDE (shard, row, text) FROM documents")
        assert dict(zip(found.columns, found.rows()[0], strict=True)) == {name: value for name, (value,) in own.items()}


def test_a_pool_too_large_to_look_at_whole_says_what_is_not_seen(tmp_path, monkeypatch):
    monkeypatch.setattr("curate.scores.pool_rows._WHOLE_BYTES", 1000)
    with open_session(late_run(tmp_path)) as session, pytest.raises(CurateError, match="lang") as error:
        session.query("SELECT meta.lang FROM documents")
    assert "come later are not seen" in error.value.hint


@pytest.mark.parametrize("name", ['it\'s 100 % "odd", {x}; --', "a*c", "a?[b]", "source=all", "läuft {1,2}", "x]["])
def test_folders_of_any_name_are_read_and_tell_nothing_of_their_rows(start, name):
    other = start("abc")
    write(other, "other", 0, rows("other", 0, [9.0, 9.0, 9.0]))
    run = start(name)
    write(run, "s", 0, rows("s", 0, [1.0], source=["web"]))
    with open_session(run) as session:
        assert session.query("SELECT shard, source FROM scores").rows() == [("s", "web")]
    assert run.scores().select("source").collect().rows() == [("web",)]


def test_a_file_of_another_folder_stays_closed_beside_one_of_an_odd_name(start):
    run, other = start("a*c"), start("abc")
    for each in (run, other):
        write(each, "s", 0, rows("s", 0, [1.0]))
    with open_session(run) as session, pytest.raises(CurateError, match="disabled"):
        session.query(f"FROM '{next(iter(other.all_parts())).path}'").rows()


def test_room_on_disk_is_taken_only_when_needed(run):
    with open_session(run) as session:
        folder = session.connection.execute("SELECT current_setting('temp_directory')").fetchall()[0][0]
        assert not Path(folder).exists()
        assert session.query("SELECT count(*) FROM scores").rows() == [(4,)]
    assert not Path(folder).exists()


def by_token(shard: str, first: int, tokens: list[list[float]], **columns) -> pa.Table:
    texts = [[f" {shard}{i}" for i in range(len(t))] for t in tokens]
    lists = {"token_scores": pa.array(tokens, pa.list_(pa.float32())), "token_texts": pa.array(texts)}
    return rows(shard, first, [sum(t) for t in tokens], **columns, **lists)


@pytest.fixture
def token_run(start):
    run = start("by_token", method="ekfac")
    write(run, "a", 0, by_token("a", 0, [[0.5, -1.0, 2.0], [0.25]]))
    math = pa.array([[8.0, 9.0]], pa.list_(pa.float32()))
    write(run, "b", 1, by_token("b", 0, [[4.0, 5.0]], source=["x"], score_math=[17.0], token_scores_math=math))
    return run


def test_tokens_are_a_row_each_in_order(token_run):
    with open_session(token_run) as session:
        assert session.query("SELECT token, score FROM tokens WHERE doc_id = 'a/0' ORDER BY position").rows() == [
            (" a0", 0.5),
            (" a1", -1.0),
            (" a2", 2.0),
        ]
        found = session.query("SELECT * FROM tokens WHERE shard = 'b' ORDER BY position")
        assert found.columns == ["doc_id", "shard", "row", "position", "token", "score", "score_math"]
        assert found.rows() == [("b/0", "b", 0, 0, " b0", 4.0, 8.0), ("b/0", "b", 0, 1, " b1", 5.0, 9.0)]
        together = "SELECT bool_and(abs(s.score - t.sum) < 1e-6) FROM scores s JOIN "
        together += "(SELECT shard, row, sum(score) AS sum FROM tokens GROUP BY ALL) t USING (shard, row)"
        assert session.query(together).rows() == [(True,)]


def test_no_other_view_shows_the_lists(token_run):
    with open_session(token_run) as session:
        for view in ("scores", "candidates", "shards"):
            columns = session.query(f"SELECT * FROM {view}").columns
            assert not [c for c in columns if c.startswith("token_")]
        assert "tokens" in session.views
    assert "token_scores" in token_run.scores().collect_schema().names()  # Python has them
    assert token_run.scores().collect()["token_scores"].to_list()[0] == [0.5, -1.0, 2.0]


def test_tokens_of_several_runs_say_which(token_run, run):
    with open_session([run, token_run]) as session:
        found = session.query("SELECT DISTINCT run FROM tokens").rows()
        assert found == [("by_token",)]  # the other was scored by document alone
        assert session.query("SELECT run, count(*) FROM scores GROUP BY run ORDER BY run").rows() == [
            ("by_token", 3),
            ("run", 4),
        ]
        assert "token_texts" not in session.query("SELECT * FROM by_token").columns


def test_without_scores_per_token_the_error_says_how_to_have_them(run):
    with open_session(run) as session:
        assert "tokens" not in session.views
        with pytest.raises(CurateError, match="no scores per token in run") as error:
            session.query("SELECT * FROM tokens")
        assert "--per-token" in error.value.hint
        assert session.query("WITH tokens AS (SELECT 1 AS a) SELECT a FROM tokens").rows() == [(1,)]
        with pytest.raises(CurateError, match="nope"):
            session.query("SELECT * FROM nope")


def test_maps_that_have_a_key_twice_and_names_with_null_characters_can_be_asked_for(tmp_path):
    pairs = [("k", 1), ("k", 2)]
    table = pa.table({"text": ["a"], "m": pa.array([pairs], pa.map_(pa.string(), pa.int8())), "n\0": [5], "n": [6]})
    (tmp_path / "pool").mkdir()
    pq.write_table(table, tmp_path / "pool" / "a.parquet")
    address = [str(tmp_path / "pool")]
    prints = {**FINGERPRINTS, "pool": open_pool(address).fingerprint()}
    run = Run.start(tmp_path / "run", settings={**SETTINGS, "pool": address}, fingerprints=prints)
    write(run, "a.parquet", 0, rows("a.parquet", 0, [1.0]))
    run.finish({"documents": 1})
    with open_session(run) as session:
        query = 'SELECT m, "n\u2400", n FROM documents'
        assert session.query(query).rows() == [([{"key": k, "value": v} for k, v in pairs], 5, 6)]


def test_of_a_pool_that_has_changed_the_shards_are_named(tmp_path):
    pool = tmp_path / "changing"
    pool.mkdir()
    for name in ("a", "b", "c"):
        (pool / f"{name}.jsonl").write_text('{"text": "one"}\n')
    opened = open_pool(pool)
    prints = {**FINGERPRINTS, "pool": opened.fingerprint()}
    run = Run.start(tmp_path / "r", settings={**SETTINGS, "pool": [str(pool)]}, fingerprints=prints)
    put_json(run.folder, SHARDS, opened.shard_fingerprints())
    write(run, "a.jsonl", 0, rows("a.jsonl", 0, [1.0]))
    (pool / "a.jsonl").write_text('{"text": "two"}\n')
    (pool / "b.jsonl").unlink()
    for i in range(7):
        (pool / f"new-{i}.jsonl").write_text('{"text": "one"}\n')
    with open_session(run) as session, pytest.raises(CurateError) as refused:
        session.query("SELECT count(*) FROM documents")
    assert "scored: changed: a.jsonl; gone: b.jsonl; new: new-0.jsonl, new-1.jsonl" in refused.value.message
    assert refused.value.message.endswith("new-4.jsonl ….")
