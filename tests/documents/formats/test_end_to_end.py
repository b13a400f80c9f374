"""Pools of csv and of plain text through scoring, selecting and SQL."""

import json
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

import curate
from curate.cli import group
from curate.documents import Fields
from curate.progress import Silent
from curate.score_settings import ScoreSettings
from curate.scores.run import Run
from curate.scores.session import open_session
from curate.selection.select import select
from tests.documents.writing import write
from tests.scoring import make_proxy_folder, make_rows, make_target

ROWS = [
    {**r, "id": f"{i:03d}", "note": None if i % 3 else 'a "note",\nof two lines'}
    for i, r in enumerate(make_rows(60, 1))
]
SHARDS = {"a": ROWS[:25], "b": ROWS[25:40], "c": ROWS[40:]}
ENDINGS = {"a": ".csv", "b": ".tsv.gz", "c": ".csv.zst"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    make_proxy_folder(folder / "proxy")
    make_target(folder / "val.jsonl")
    for name, rows in SHARDS.items():
        write(folder / "tables" / f"{name}{ENDINGS[name]}", rows)
        write(folder / "lines" / f"{name}.jsonl", rows)
    first = folder / "tables" / "a.csv"
    first.write_bytes(first.read_bytes() + b"cut,short\n")
    (folder / "texts").mkdir()
    for row in ROWS:
        (folder / "texts" / f"{row['id']}.txt").write_text(row["text"])
    (folder / "by-line.txt").write_text("\n\n".join(r["text"] for r in ROWS))
    target = [json.loads(line) for line in (folder / "val.jsonl").read_text().splitlines()]
    write(folder / "val.csv", target)
    return folder


def score(place: Path, name: str, pool: str, *, target: str = "val.jsonl", method: str = "trackstar", **changes) -> Run:
    settings = ScoreSettings(
        target=(str(place / target),),
        pool=(str(place / pool),),
        model=str(place / "proxy"),
        method=method,
        method_settings={"dim": 4} if method == "trackstar" else {},
        background=64,
        part_documents=8,
        device="cpu",
        **changes,
    )
    return curate.score(settings, place / "runs" / name, reporter=Silent())


@pytest.fixture(scope="module")
def tables(place: Path) -> Run:
    return score(place, "tables", "tables")


def scores_of(run: Run) -> dict[str, float]:
    found = run.scores().collect()
    return dict(zip(found["content_hash"], found["score"], strict=True))


def test_rows_of_csv_score_as_the_same_rows_of_jsonl(place: Path, tables: Run) -> None:
    lines = score(place, "lines", "lines")
    ours, theirs = tables.scores().collect(), lines.scores().collect()
    assert ours["doc_id"].to_list() == theirs["doc_id"].to_list() == [r["id"] for r in ROWS]
    assert ours["note"].to_list() == [r["note"] for r in ROWS]
    assert scores_of(tables) == pytest.approx(scores_of(lines), rel=1e-5, abs=1e-7)
    (aside,) = tables.skipped().collect().to_dicts()
    assert (aside["shard"], aside["row"], aside["reason"]) == ("a.csv", 25, "wrong number of fields")


@pytest.mark.parametrize("kind", ["arrow", "parquet", "jsonl.zst"])
def test_a_selection_of_csv_holds_the_pools_rows_and_loads_with_datasets(
    tables: Run, tmp_path: Path, kind: str
) -> None:
    import datasets

    datasets.disable_progress_bars()
    select(tables, top=20, out=tmp_path / "out", format=kind)
    found = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["train"]
    best = set(tables.scores().collect().top_k(20, by="score")["doc_id"])
    columns = list(ROWS[0])
    assert [{c: row[c] for c in columns} for row in found] == [r for r in ROWS if r["id"] in best]
    assert [row["score"] for row in found] == [scores_of(tables)[h] for h in _hashes(tables, [r["id"] for r in found])]


def _hashes(run: Run, ids: list[str]) -> list[str]:
    found = run.scores().collect()
    by_id = dict(zip(found["doc_id"], found["content_hash"], strict=True))
    return [by_id[i] for i in ids]


def test_sql_reads_the_rows_of_csv(tables: Run) -> None:
    with open_session(tables) as session:
        found = session.query("SELECT shard, row, id, text, note FROM documents ORDER BY shard, row").rows()
        joined = session.query("SELECT avg(d.id::INT) FROM documents d JOIN scores USING (shard, row)").rows()
    expected = [
        (f"{s}{ENDINGS[s]}", i, r["id"], r["text"], r["note"]) for s, rs in SHARDS.items() for i, r in enumerate(rs)
    ]
    assert found == expected
    assert joined == [(29.5,)]


def test_a_target_of_csv_is_grouped_and_held_out_like_one_of_jsonl(place: Path) -> None:
    runs = [
        score(place, f"target-{e}", "lines", target=f"val.{e}", group_by="task", holdout=0.3, method="bm25")
        for e in ("csv", "jsonl")
    ]
    assert [set(r.record.details.columns) for r in runs] == [{"score", "score_a", "score_b"}] * 2
    kept = [(r.path / "target" / "heldout.jsonl").read_text().splitlines() for r in runs]
    assert [len(lines) for lines in kept] == [3, 3]  # a third of eight and of four
    assert all(json.loads(line).keys() == {"text", "task"} for line in kept[0])


def test_a_file_or_a_line_is_a_document_and_scores_as_its_text_does(place: Path, tables: Run) -> None:
    files = score(place, "texts", "texts/*.txt", method="bm25")
    lines = score(place, "by-line", "by-line.txt", method="bm25", fields=Fields(txt_lines=True))
    rows = score(place, "rows", "lines", method="bm25")
    assert scores_of(files).keys() == scores_of(lines).keys() == scores_of(rows).keys()
    assert files.scores().collect()["shard"].to_list() == [f"{r['id']}.txt" for r in ROWS]
    assert [r["text"] for r in _selected(lines, place / "sel-lines")] == [
        r["text"] for r in _selected(rows, place / "s")
    ]
    with open_session(lines) as session:
        assert session.query("SELECT count(*) FROM documents").rows() == [(60,)]


def _selected(run: Run, out: Path) -> list[dict]:
    select(run, top=10, out=out, format="parquet")
    return pl.read_parquet(out / "train" / "*.parquet").to_dicts()


def test_the_command_reads_lines_where_it_is_told_to(place: Path, tmp_path: Path) -> None:
    asked = ["score", "--target", str(place / "by-line.txt"), "--pool", str(place / "by-line.txt"), "--device", "cpu"]
    asked += ["--method", "length", "--model", str(place / "proxy")]
    counts = {}
    for name, flags in (("file", []), ("line", ["--txt-lines"])):
        made = CliRunner().invoke(
            group, [*asked, *flags, "--out", str(tmp_path / name), "--json"], catch_exceptions=False
        )
        counts[name] = json.loads(made.stdout)["documents"]
    assert counts == {"file": 1, "line": 60}
