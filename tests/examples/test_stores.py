"""The examples on gradient stores run, and say what is true."""

import json
import runpy
import sys
from pathlib import Path

import pyarrow as pa
import pytest

import curate
from curate.scores.run import Run
from curate.stores.store import Store
from tests.scoring import make_pool, make_proxy_folder
from tests.small_runs import FINGERPRINTS, SETTINGS, rows, write
from tests.stores.conftest import asked

EXAMPLES = Path(__file__).parents[2] / "examples" / "stores"


def call(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_a_store_is_repeated_to_a_size_and_scored_beside_a_plain_read(tmp_path: Path, monkeypatch, capsys) -> None:
    make_proxy_folder(tmp_path / "proxy")
    make_pool(tmp_path / "pool", 20)
    store = curate.index(asked(tmp_path, storage="float16"), tmp_path / "store")
    more = ["--documents", "200", "--rounds", "1", "--out", str(tmp_path / "large"), "--json"]
    call(monkeypatch, "speed.py", str(store.path), *more)
    found = json.loads(capsys.readouterr().out)
    assert (found["documents"], found["bytes"]) == (200, 200 * 2 * store.storage.width)
    assert [p["pass"].split(",")[0] for p in found["passes"]] == ["read", "read", "scored", "scored"]
    large = Store.open(tmp_path / "large")
    first, again = (large.storage.decode(large.codes(large.all_parts()[i])) for i in (0, len(store.all_parts())))
    cosines = (first * again).sum(1) / first.norm(dim=1) / again.norm(dim=1)
    assert cosines.min() > 0.99
    assert not first.equal(again)


QUERIES = [
    {"id": f"q-{i}", "prompt": "p", "completion": " c", "gold": gold, "relation": "ab"[i % 2], "text": "other"}
    for i, gold in enumerate((["d0"], ["d1", "d2"], ["d5"], ["d3"]))
]


def test_retrieval_tells_the_rank_of_the_first_gold_document_and_the_share_found(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    table = rows("a.jsonl", 0, [6.0 - i for i in range(6)], doc_id=[f"d{i}" for i in range(6)])
    for i in range(4):
        table = table.append_column(f"score_q_{i}", pa.array([6.0 - i for i in range(6)]))
    with Run.start(tmp_path / "x", settings=SETTINGS, fingerprints=FINGERPRINTS) as run:
        write(run, "a.jsonl", 0, table)
        run.finish({"documents": 6})
    queries = tmp_path / "queries.jsonl"
    queries.write_text("".join(json.dumps(q) + "\n" for q in QUERIES))
    call(monkeypatch, "retrieval.py", "measure", str(tmp_path / "x"), "--queries", str(queries), "--top", "2")
    printed = capsys.readouterr().out
    assert f"{(1 + 1 / 2 + 1 / 6 + 1 / 4) / 4:.3f}" in printed
    assert f"{(1 + 1 / 2 + 0 + 0) / 4:.3f}" in printed  # recall@2


def test_sampled_queries_keep_what_carries_loss_and_are_balanced(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(q) + "\n" for q in QUERIES))
    out = tmp_path / "queries.jsonl"
    asked_for = ["sample", str(tmp_path / "all.jsonl"), "--count", "2", "--balance", "relation", "--out", str(out)]
    call(monkeypatch, "retrieval.py", *asked_for)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(q["relation"] for q in found) == ["a", "b"]
    assert all("text" not in q for q in found)
