"""Every command on results in an object store, against a real S3 server: what it writes is what it writes here."""

import json
from pathlib import Path

import pytest

from curate.folders.whole import UNFINISHED
from tests.s3 import S3, here, make_piled, results, run

pytestmark = pytest.mark.slow

READING = ("--part-documents", "8", "--batch-tokens", "128", "--device", "cpu")
SMALL = ("--method", "trackstar", "--dim", "4", "--background", "20", *READING)
WARMUP = "--width 32 --layers 1 --heads 4 --vocab-size 300 --context 32 --steps 2 --batch-tokens 256 --device cpu"
TRAINING = ("--set", "batch_size=4", "--device", "cpu")
BUCKET, HERE = "s3://bucket/runs/x", "runs/x"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, s3: S3) -> Path:
    """One tiny run, here and in the bucket."""
    place = tmp_path_factory.mktemp("project")
    make_piled(place, s3, 16)
    scoring = ("--target", "val.jsonl", "--pool", "s3://bucket/pile", "--model", "proxy", "--holdout", "30%", *SMALL)
    run(place, "score", *scoring, "--out", HERE)
    s3.upload(place / HERE, BUCKET)
    return place


def read_json(s3: S3, address: str) -> dict:
    folder, _, name = address.rpartition("/")
    return json.loads(s3.files(folder)[name])


def test_a_selection_appears_whole_with_its_manifest_last(project: Path, s3: S3) -> None:
    out = "s3://bucket/chosen/selected"
    s3.log.clear()
    s3.fails_every, failed = 7, s3.failed
    try:
        told = run(project, "select", BUCKET, "--top", "20%", "--out", out)
    finally:
        s3.fails_every = 0
    assert s3.failed - failed > 5
    assert f"written to {out}" in told
    run(project, "select", HERE, "--top", "20%", "--out", "selected")
    there, local = results(s3.files(out)), here(project / "selected")
    assert there.keys() == local.keys()
    named = {"README.md", "manifest.json", "train/state.json"}  # which name the run, or hash its name
    assert {n for n in local if there[n] != local[n]} == named
    put = [line.rpartition("/")[2] for line in s3.log if line.startswith("PUT") and not line.endswith(".lease")]
    assert (put[0], put[-1]) == (UNFINISHED, "manifest.json")


def test_a_selection_replaces_another_or_what_a_kill_has_left_and_nothing_else(project: Path, s3: S3) -> None:
    out = "s3://bucket/replaced"
    run(project, "select", BUCKET, "--top", "20%", "--out", out)
    again = ("select", BUCKET, "--top", "3", "--format", "parquet", "--out", out)
    assert "holds a selection already" in run(project, *again, code=2)
    run(project, *again, "--overwrite")
    assert [name for name in s3.files(out) if name.startswith("train/")] == ["train/00000.parquet"]
    assert "is not a selection" in run(project, *again[:-1], "s3://bucket/pile", "--overwrite", code=2)
    left = project / "left"
    (left / "train").mkdir(parents=True)
    (left / UNFINISHED).touch()
    (left / "train" / "00007.arrow").write_bytes(b"of a killed process")
    s3.upload(left, "s3://bucket/left")
    run(project, *again[:-1], "s3://bucket/left")
    assert results(s3.files("s3://bucket/left")).keys() == results(s3.files(out)).keys()


def test_predict_why_and_cascade(project: Path, s3: S3) -> None:
    for where in (BUCKET, HERE):
        run(project, "predict", where, "--student", "words", "--workers", "1")
    there, local = results(s3.files(f"{BUCKET}-predicted")), here(project / f"{HERE}-predicted")
    assert [n for n in local if n.endswith(".parquet") and there[n] != local[n]] == []
    assert there.keys() == local.keys()
    shown = [run(project, "why", where, "--rank", "1") for where in (BUCKET, HERE)]
    assert shown[0] == shown[1]
    run(project, "why", BUCKET, "--rank", "1", "--html", "s3://bucket/pages/why.html")
    assert b"curate why" in s3.files("s3://bucket/pages")["why.html"]
    cascade = ("cascade", "--target", "val.jsonl", "--pool", "s3://bucket/pile", "--model", "proxy", "--keep", "30%")
    cascade = (*cascade, "--method", "loss", "--sample", "62", "--student", "words", *READING, "--workers", "1")
    run(project, *cascade, "--out", "s3://bucket/runs/c", "--select", "s3://bucket/best")
    run(project, *cascade, "--out", "runs/c")
    scores = [n for n in here(project / "runs/c") if n.startswith("scores/")]
    there, local = s3.files("s3://bucket/runs/c"), here(project / "runs/c")
    assert scores
    assert [there[n] for n in scores] == [local[n] for n in scores]
    assert "manifest.json" in s3.files("s3://bucket/best")


def test_a_store_of_sketches_is_made_by_workers_searched_and_scored_from(project: Path, s3: S3) -> None:
    indexing = ("index", "--pool", "s3://bucket/pile", "--model", "proxy", *SMALL, "--search", "BFlat")
    told = run(project, *indexing, "--workers", "2", "--out", "s3://bucket/store")
    assert "indexed in s3://bucket/store" in told
    run(project, *indexing, "--out", "stores/here")
    there, local = results(s3.files("s3://bucket/store")), here(project / "stores/here")
    assert there.keys() == local.keys()
    measured = {"search/index.json"}  # milliseconds
    assert {n for n in local if there[n] != local[n]} <= measured
    found = [run(project, "query", where, "--text", "the ship rode") for where in ("s3://bucket/store", "stores/here")]
    assert found[0] == found[1]
    for store, out in (("s3://bucket/store", "s3://bucket/runs/stored"), ("stores/here", "runs/stored")):
        run(project, "score", "--target", "val.jsonl", "--store", store, "--out", out)
    there, local = s3.files("s3://bucket/runs/stored"), here(project / "runs/stored")
    assert [n for n in local if n.startswith("scores/") and there[n] != local[n]] == []
    run(project, "index", "--continue", "s3://bucket/store")
    near = ("--filter", "dedup", "-p", "near=0.9", "--top", "20%", "--out", "near")
    assert "dedup" in run(project, "select", "s3://bucket/runs/stored", *near)
    assert "nearest documents in s3://bucket/store" in run(project, "why", "s3://bucket/runs/stored", "--rank", "1")


def test_a_proxy_is_warmed_up_in_a_bucket_and_read_from_it(project: Path, s3: S3) -> None:
    for out in ("s3://bucket/proxies/small", "proxies/small"):
        run(project, "warmup", "--pool", "s3://bucket/pile", "--out", out, *WARMUP.split())
    there, local = results(s3.files("s3://bucket/proxies/small")), here(project / "proxies/small")
    assert there.keys() == local.keys()
    assert {n for n in local if there[n] != local[n]} == {"warmup.json"}  # it tells the seconds
    scoring = ("score", "--target", "val.jsonl", "--pool", "s3://bucket/pile", "--method", "loss", *READING)
    run(project, *scoring, "--model", "s3://bucket/proxies/small", "--out", "runs/loss-there")
    run(project, *scoring, "--model", "proxies/small", "--out", "runs/loss-here")
    there, local = here(project / "runs/loss-there"), here(project / "runs/loss-here")
    assert [n for n in local if n.startswith("scores/") and there[n] != local[n]] == []
    assert json.loads(there["run.json"])["settings"]["model"] == "s3://bucket/proxies/small"
    none = run(project, *scoring, "--model", "s3://bucket/none", "--out", "runs/none", code=2)
    assert "there is no such folder" in none
    taken = run(project, "warmup", "--pool", "s3://bucket/pile", "--out", BUCKET, *WARMUP.split(), code=2)
    assert "is no proxy made by a warm-up" in taken


def test_a_proxy_that_is_not_all_there_is_refused(project: Path, s3: S3) -> None:
    half = project / "half"
    half.mkdir()
    (half / UNFINISHED).touch()
    (half / "config.json").write_text("{}")
    s3.upload(half, "s3://bucket/half")
    words = ("score", "--target", "val.jsonl", "--pool", "pool", "--model", "s3://bucket/half", "--out", "runs/half")
    assert "it is not all there yet" in run(project, *words, code=2)


def test_a_rescoring_has_the_bytes_of_one_here(project: Path, s3: S3) -> None:
    for where in (BUCKET, HERE):
        run(project, "rescore", where, "--shortlist", "8", "--set", "epochs=1", *TRAINING)
    there, local = results(s3.files(f"{BUCKET}-magic")), here(project / f"{HERE}-magic")
    assert there.keys() == local.keys()
    assert [n for n in local if n.startswith("scores/") and there[n] != local[n]] == []


def test_a_validation_keeps_its_bank_beside_the_run(project: Path, s3: S3) -> None:
    options = ("--documents", "8", "--queries", "2", "--subsets", "3", "--drop", "20%", "--removals", "0", *TRAINING)
    for where in (BUCKET, HERE):
        run(project, "validate", where, *options, "--workers", "1")
    there = read_json(s3, f"{BUCKET}-validation/validation.json")
    local = json.loads((project / f"{HERE}-validation/validation.json").read_text())
    assert there["bank"].startswith("s3://bucket/runs/banks/")
    assert [m["lds"] for m in there["methods"]] == [m["lds"] for m in local["methods"]]
    assert "finished" in run(project, "status", f"{BUCKET}-validation")
    before = s3.files("s3://bucket/runs/banks")
    run(project, "validate", "--continue", f"{BUCKET}-validation")
    assert results(s3.files("s3://bucket/runs/banks")) == results(before)


def test_a_verification_of_a_selection_in_a_bucket(project: Path, s3: S3) -> None:
    options = ("--seeds", "1", "--tokens", "200", "--baseline", "length", "--all-times", "0", "--other-documents", "4")
    for where, out in ((BUCKET, "s3://bucket/verified/chosen"), (HERE, "verified/chosen")):
        run(project, "select", where, "--top", "30%", "--out", out)
        run(project, "verify", out, *options, "--sweep", "50%", *TRAINING, "--workers", "1")
    there = read_json(s3, "s3://bucket/verified/chosen-verified/verify.json")
    local = json.loads((project / "verified/chosen-verified/verify.json").read_text())
    assert [arm["curves"] for arm in there["arms"]] == [arm["curves"] for arm in local["arms"]]
    assert len(there["arms"]) == 4
    assert s3.files("s3://bucket/verified/chosen-verified")["curves.png"][:4] == b"\x89PNG"
    assert "finished" in run(project, "status", "s3://bucket/verified/chosen-verified")
    refused = run(project, "verify", "s3://bucket/verified/chosen", "--out", BUCKET, code=2)
    assert "is no verification" in refused


def test_an_answer_is_written_as_parquet_and_a_database_into_a_bucket(project: Path, s3: S3) -> None:
    query = "SELECT doc_id, score FROM scores ORDER BY score"
    run(project, "sql", BUCKET, query, "--parquet", "s3://bucket/answers/a.parquet")
    run(project, "sql", HERE, query, "--parquet", "a.parquet")
    assert s3.files("s3://bucket/answers")["a.parquet"] == (project / "a.parquet").read_bytes()
    run(project, "sql", BUCKET, "--db", "s3://bucket/answers/a.db")
    assert "expected a new file" in run(project, "sql", BUCKET, "--db", "s3://bucket/answers/a.db", code=1)
    assert "is a bucket; expected a file" in run(project, "sql", BUCKET, query, "--parquet", "s3://bucket", code=2)


def test_a_bucket_that_is_read_alone_is_read_and_a_write_is_refused_in_a_sentence(project: Path, s3: S3) -> None:
    s3.is_read_only = True
    try:
        run(project, "status", BUCKET)
        run(project, "sql", BUCKET, "SELECT count(*) FROM scores")
        run(project, "why", BUCKET, "--rank", "1")
        run(project, "select", BUCKET, "--top", "20%", "--out", "of-read-only")
        run(project, "predict", BUCKET, "--student", "words", "--out", "runs/of-read-only", "--workers", "1")
        for words in (
            ("select", BUCKET, "--top", "20%", "--out", "s3://bucket/refused"),
            ("report", BUCKET, "--out", "s3://bucket/refused.html"),
            ("rescore", BUCKET, "--shortlist", "8", "--set", "epochs=1", *TRAINING),
        ):
            assert "no permission to write" in run(project, *words, code=1)
    finally:
        s3.is_read_only = False


@pytest.mark.parametrize(
    "words",
    [
        ("score", "--target", "val.jsonl", "--pool", "pool", "--model", "{}"),
        ("score", "--target", "val.jsonl", "--store", "{}"),
        ("select", HERE, "--top", "5%", "--out", "{}"),
        ("predict", "{}"),
        ("why", "{}", "--rank", "1"),
        ("why", HERE, "--rank", "1", "--html", "{}"),
        ("cascade", "--target", "val.jsonl", "--pool", "pool", "--model", "proxy", "--select", "{}"),
        ("rescore", "{}"),
        ("index", "--pool", "pool", "--model", "proxy", "--out", "{}"),
        ("query", "{}", "--text", "a"),
        ("validate", "{}"),
        ("validate", HERE, "--banks", "{}"),
        ("verify", "{}"),
        ("report", HERE, "--out", "{}"),
        ("sql", HERE, "SELECT 1", "--parquet", "{}"),
        ("status", "{}"),
        ("warmup", "--pool", "pool", "--out", "{}"),
    ],
    ids=" ".join,
)
def test_a_key_in_an_address_is_refused_and_told_nowhere(project: Path, words: tuple[str, ...]) -> None:
    before = sorted(project.rglob("*"))
    told = run(project, *(word.format("s3://me:pa55word@bucket/x") for word in words), code=2)
    assert "holds a password or a key" in " ".join(told.split())
    assert "pa55word" not in told
    assert [path for path in sorted(project.rglob("*")) if path not in before] == []


def test_quickstart_takes_no_object_store_and_says_so(project: Path) -> None:
    assert "expected a path on this machine" in run(project, "quickstart", "--out", "s3://bucket/q", code=2)
