import io
import json
import shutil
import sys

import duckdb
import polars as pl
import pyarrow as pa
import pytest

from curate.cli import main
from tests.selection.conftest import make_pool, make_run
from tests.small_runs import rows, write

GROUPED = "SELECT source, count(*) AS n, avg(score) AS mean FROM scores GROUP BY source ORDER BY 2 DESC, 1"


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A working folder with two runs under runs/."""
    monkeypatch.chdir(tmp_path)
    make_pool(tmp_path / "pool")
    (tmp_path / "runs").mkdir()
    for name in ("x", "y"):
        make_run(tmp_path / "runs" / name, tmp_path / "pool").close()
    return tmp_path


def test_query_of_the_latest_run(work, capsys):
    main(["sql", GROUPED])
    out, err = capsys.readouterr()
    assert "run: runs/" in err
    assert [line.split("│")[1].strip() for line in out.splitlines() if "│" in line] == ["web", "code", "wiki", ""]


def test_rows_as_json_csv_and_parquet(work, capsys):
    main(["sql", "runs/x", GROUPED, "--json"])
    assert json.loads(capsys.readouterr().out)[0] == {"source": "web", "n": 5, "mean": 0.4}
    main(["sql", "runs/x", GROUPED, "--csv"])
    assert capsys.readouterr().out.splitlines()[:2] == ["source,n,mean", "web,5,0.4"]
    odd = "SELECT sum(n_tokens) AS s, 1.5::DECIMAL(3, 1) AS d, ['nan'::FLOAT] AS n, 'inf'::FLOAT AS i FROM scores"
    main(["sql", "runs/x", odd, "--json"])
    whole = capsys.readouterr().out
    assert isinstance(json.loads(whole)[0].pop("s"), int)
    assert '"d": 1.5, "n": [null], "i": null' in whole
    main(["sql", "runs/x", "SELECT 1 WHERE false", "--json"])
    assert json.loads(capsys.readouterr().out) == []
    main(["sql", "runs/x", GROUPED, "--parquet", "out.parquet"])
    assert pl.read_parquet(work / "out.parquet")["n"].to_list() == [5, 2, 2, 1]


def test_long_results_say_how_many_more(work, capsys):
    main(["sql", "runs/x", "FROM scores", "--limit", "3"])
    assert "… and 7 more rows" in capsys.readouterr().out
    main(["sql", "runs/x", "FROM range(41);"])
    assert "… and 1 more rows" in capsys.readouterr().out


def test_several_runs_in_one_query(work, capsys):
    main(["sql", "runs/x", "runs/y", "SELECT count(*) AS n FROM x JOIN y USING (shard, row)", "--json"])
    assert json.loads(capsys.readouterr().out) == [{"n": 10}]


def test_documents_are_joined_on_demand(work, capsys):
    query = "SELECT text FROM documents JOIN scores USING (shard, row) ORDER BY scores.score DESC LIMIT 1"
    main(["sql", "runs/x", query, "--csv"])
    assert capsys.readouterr().out.splitlines() == ["text", "b 0"]
    (work / "pool").rename(work / "moved")
    main(["sql", "runs/x", "SELECT count(*) AS n FROM documents", "--pool", "moved", "--json"])
    assert json.loads(capsys.readouterr().out) == [{"n": 11}]


@pytest.mark.parametrize(
    ("arguments", "code", "seen"),
    [
        (["runs/x", "COPY scores TO 'x.csv'"], 1, "COPY is not a query"),
        (["runs/x", "SELECT scor FROM scores"], 1, "scor"),
        (["runs/z", "SELECT 1"], 1, "runs/z: no such folder"),
        (["runs/z"], 1, "runs/z: no such folder"),
        (["SELECT 1", "SELECT 2"], 2, "There are 2 queries; expected one"),
        (["runs/x", "FROM 'pool/b.parquet'"], 1, "--allow"),
        (["runs/x", "SELECT 1", "--db", "x.db"], 2, "takes no query"),
    ],
)
def test_what_is_refused_is_said(work, capsys, arguments, code, seen):
    with pytest.raises(SystemExit) as stopped:
        main(["sql", *arguments])
    assert stopped.value.code == code
    assert seen in " ".join(capsys.readouterr().err.split())


def test_allow_opens_one_folder(work, capsys):
    main(["sql", "runs/x", "SELECT count(*) AS n FROM 'pool/b.parquet'", "--allow", "pool", "--json"])
    assert json.loads(capsys.readouterr().out) == [{"n": 3}]


def test_shell_reads_statements_and_survives_errors(work, capsys, monkeypatch):
    monkeypatch.setattr("curate.cli._output.stdout.width", 200)
    lines = [".tables", ".schema runs", "SELECT", "  ';' AS semi,", "  count(*) -- all;", "FROM scores;"]
    lines += ["SELECT nope;", "SELECT 7 AS a; SELECT 8 AS b", ""]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    with pytest.raises(SystemExit) as stopped:  # a script hears that one of its statements failed
        main(["sql", "runs/x"])
    assert stopped.value.code == 1
    out, err = capsys.readouterr()
    assert "scores  candidates  shards" in out
    assert "fingerprints" in out
    assert "10" in out
    assert "nope" in err
    assert [n for n in ("7", "8") if f" {n} " in out] == ["7", "8"]


@pytest.mark.parametrize("runs", [["runs/x"], ["runs/x", "runs/y"]])
def test_database_opens_without_the_runs(work, capsys, runs):
    main(["sql", *runs, "--db", "scores.duckdb"])
    shutil.rmtree(work / "runs")
    with duckdb.connect(str(work / "scores.duckdb"), read_only=True) as client:
        assert client.sql("SELECT count(*) FROM scores").fetchall() == [(10 * len(runs),)]
        assert client.sql("SELECT documents FROM shards WHERE shard = 'a.jsonl'").fetchall() == [(5,)] * len(runs)
        assert client.sql("SELECT reason FROM skipped").fetchall() == [("empty text",)] * len(runs)
        assert client.sql("SELECT method FROM runs").fetchall() == [("dot",)] * len(runs)
        if len(runs) > 1:
            assert client.sql("SELECT count(*) FROM y").fetchall() == [(10,)]
    assert "written to scores.duckdb" in capsys.readouterr().err


@pytest.fixture
def by_token(tmp_path, monkeypatch):
    """A working folder with a run that has scores per token and no losses."""
    monkeypatch.chdir(tmp_path)
    make_pool(tmp_path / "pool")
    make_run(tmp_path / "runs" / "t", tmp_path / "pool", by_token=True).close()
    return tmp_path


def test_tokens_are_read_in_a_table(by_token, capsys):
    main(["sql", "runs/t", "SELECT token, score FROM tokens WHERE doc_id = 'a.jsonl/1' ORDER BY position"])
    cells = [line.strip("│ ").split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert [[c.strip() for c in row] for row in cells] == [['" the"', "3"], ['"\\n"', "-1"]]
    main(["sql", "runs/t", "SELECT token FROM tokens WHERE doc_id = 'a.jsonl/1' ORDER BY position", "--json"])
    assert [r["token"] for r in json.loads(capsys.readouterr().out)] == [" the", "\n"]
    main(["sql", "runs/t", "SELECT * FROM scores LIMIT 1", "--csv"])
    assert "token_" not in capsys.readouterr().out


def test_database_has_the_tokens(by_token):
    main(["sql", "runs/t", "--db", "scores.duckdb"])
    shutil.rmtree(by_token / "runs")
    with duckdb.connect(str(by_token / "scores.duckdb"), read_only=True) as client:
        assert client.sql("SELECT count(*), min(token) FROM tokens").fetchall() == [(20, "\n")]
        assert "token_texts" not in client.sql("SELECT * FROM scores").columns


def test_shell_names_the_view_of_tokens_where_there_is_one(by_token, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(".tables\n.schema\n"))
    main(["sql", "runs/t"])
    assert "shards  tokens  skipped" in capsys.readouterr().out


def test_a_query_may_be_longer_than_a_files_name(work, capsys):
    columns = ", ".join(f"avg(score + {i}) AS mean_of_the_score_plus_{i}" for i in range(60))
    main(["sql", "runs/x", f"SELECT {columns} FROM scores", "--json"])
    assert len(json.loads(capsys.readouterr().out)[0]) == 60


NASTY = "\x1b[31mred \x07\x9b \u202edesrever [bold] c4:train:17 :smile:"


@pytest.fixture
def nasty(start):
    run = start("runs/c4:train=[x]")
    table = rows("web:books [1].jsonl", 0, [1.0, 2.0, 3.0], source=[NASTY, "=1+1", "-5"])
    table = table.append_column('a"; DROP TABLE x; --\x1b', pa.array([-1, 2, 3]))
    write(run, "web:books [1].jsonl", 0, table)
    return run


def test_text_of_others_is_shown_as_it_is_and_never_reaches_the_terminal(nasty, capsys, monkeypatch):
    monkeypatch.setattr("curate.cli._output.stdout.width", 200)
    for style in ([], ["--json"]):
        main(["sql", str(nasty.path), "SELECT source, shard, COLUMNS('a.*x; .*') FROM scores", *style])
        out = capsys.readouterr().out
        assert not set("\x1b\x07\x9b\u202e") & set(out)
        assert "[bold] c4:train:17 :smile:" in out
        assert "web:books [1].jsonl" in out
    assert json.loads(out)[0]["source"] == NASTY
    assert json.loads(out)[0]['a"; DROP TABLE x; --\x1b'] == -1
    main(["sql", str(nasty.path), """SELECT "a""; DROP TABLE x; --\x1b" AS n FROM scores ORDER BY 1"""])
    assert "-1" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["sql", str(nasty.path), "SELECT 1 FROM \x1b[31m"])
    assert "\x1b" not in capsys.readouterr().err


def test_csv_gives_a_spreadsheet_no_formula_and_leaves_numbers(nasty, capsys):
    main(["sql", str(nasty.path), """SELECT source, -1.5 AS n, '@x' AS "=y" FROM scores WHERE row > 0""", "--csv"])
    assert capsys.readouterr().out == "source,n,'=y\n'=1+1,-1.5,'@x\n-5,-1.5,'@x\n"


@pytest.mark.parametrize("width", [30, 80, 100, 160])
def test_a_table_is_never_wider_than_the_terminal_and_says_what_it_leaves_out(work, capsys, monkeypatch, width):
    monkeypatch.setattr("curate.cli._output.stdout.width", width)
    long = ", ".join(f"repeat('wide {i} ', 40) AS column_{i}" for i in range(9))
    main(["sql", "runs/x", f"SELECT row, {long}, score FROM scores LIMIT 2"])
    shown = capsys.readouterr().out
    table = [line for line in shown.splitlines() if line[:1] in "┏┃┡│└"]
    assert {len(line) for line in table} == {len(table[0])}
    assert len(table) == 6  # a line for each row
    assert len(table[0]) <= width
    assert "of 11 columns shown" in " ".join(shown.split())
    assert "┃ … ┃" in shown
    main(["sql", "runs/x", f"SELECT row, {long}, score FROM scores LIMIT 1"])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= max(width, 40)
    assert [f"column_{i}" in shown for i in range(9)] == [True] * 9
    main(["sql", "runs/x", "SELECT 1 AS a, 'one line' AS b"])
    assert "columns shown" not in capsys.readouterr().out


@pytest.mark.parametrize("width", [40, 100])
def test_the_score_and_the_id_of_a_wide_row_are_always_shown(work, capsys, monkeypatch, width):
    monkeypatch.setattr("curate.cli._output.stdout.width", width)
    before, after = (", ".join(f"{side}{i}.x AS {side}_{i}" for i in range(9)) for side in ("l", "r"))
    tables = ", ".join(f"(SELECT repeat('w', 30) AS x) {side}{i}" for side in "lr" for i in range(9))
    main(["sql", "runs/x", f"SELECT {before}, doc_id, {after}, score, loss FROM scores, {tables} LIMIT 2"])
    head = capsys.readouterr().out.splitlines()[1]
    assert [name.strip() for name in head.split("┃") if name.strip() in ("doc_id", "score")] == ["doc_id", "score"]
    assert ("l_0" in head) == (width == 100)
    assert len(head) <= width


def test_text_of_many_lines_is_a_line_of_the_table(work, capsys):
    main(["sql", "runs/x", "SELECT 'a' || chr(10) || repeat('東京 ', 200) AS t FROM range(2)"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[3].startswith("│ a⏎東京 東京")
    assert "…" in lines[3]


def test_a_join_with_documents_may_say_score_where_the_pool_has_a_score_of_its_own(work, capsys):
    main(["sql", "runs/x", "SELECT text, score, pool_score FROM documents JOIN scores USING (shard, row)"])
    out, err = capsys.readouterr()
    assert "error" not in out + err


def test_a_sum_is_a_number_like_others(work, capsys):
    main(["sql", "SELECT sum(1000::BIGINT) AS total, 1.5::DECIMAL(4, 2) AS price FROM range(3)"])
    heading, row = (line for line in capsys.readouterr().out.splitlines() if line[0] in "┃│")
    assert row.replace("│", " ").split() == ["3,000", "1.50"]
    assert heading.index("total") + len("total") == row.index("3,000") + len("3,000")  # to the right
