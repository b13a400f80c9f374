import gzip
import json
import random
import shlex
from pathlib import Path

import pytest

import curate.cli

TINY = ["--layers=1", "--width=16", "--heads=2", "--vocab-size=300", "--context=16", "--batch-tokens=256", "--steps=4"]
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "the", "old", "dog", "run", "home"]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    rng = random.Random(0)
    rows = [{"body": " ".join(rng.choices(WORDS, k=40))} for _ in range(40)]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path / "pool.jsonl"


def fails(*args: str) -> int:
    with pytest.raises(SystemExit) as caught:
        curate.cli.main(["warmup", *args])
    code = caught.value.code
    assert isinstance(code, int)
    return code


def test_the_table_says_what_was_made(pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "proxy"
    curate.cli.main(["warmup", "--pool", str(pool), "--text-column", "body", "--out", str(out), *TINY])
    shown = capsys.readouterr()
    assert (out / "model.safetensors").is_file()
    assert "held-out loss after" in shown.out
    assert "1,024" in shown.out  # 4 steps of 256 tokens
    assert "training" not in shown.out.splitlines()[0]


def test_the_next_command_scores_the_same_pool_read_alike(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    curate.cli.main(["warmup", "--pool", "pool.jsonl", "--text-column", "body", "--out", "my proxy", *TINY])
    following = capsys.readouterr().err.splitlines()[-1].removeprefix("next: curate ")
    (tmp_path / "target.jsonl").write_text(pool.read_text())
    curate.cli.main(shlex.split(following.replace("FILE", "target.jsonl") + " --method length --out runs/x --json"))
    assert json.loads(capsys.readouterr().out)["documents"] == 40


def test_json_is_one_document_on_stdout(pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "proxy"
    curate.cli.main(["warmup", "--pool", str(pool), "--text-column", "body", "--out", str(out), "--json", *TINY])
    record = json.loads(capsys.readouterr().out)
    assert record["steps"] == 4
    assert record["out"] == str(out)
    assert record["checkpoints"] == ["checkpoints/step-4"]


def test_shape_options_beside_a_given_model_are_refused(pool: Path, capsys: pytest.CaptureFixture[str]):
    assert fails("--pool", str(pool), "--model", "m", "--layers", "2", "--untied") == 2
    assert "--layers, --untied" in " ".join(capsys.readouterr().err.split())


def test_a_wrong_column_is_named_before_any_work(pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert fails("--pool", str(pool), "--text-column", "bodi", "--out", str(tmp_path / "proxy")) == 1
    assert "'body'" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "proxy").exists()


def test_a_folder_that_is_no_proxy_is_left_alone(pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert fails("--pool", str(pool), "--out", str(tmp_path)) == 2
    assert "no proxy made by a warm-up" in " ".join(capsys.readouterr().err.split())
    assert pool.exists()


def test_a_pool_has_to_be_given(capsys: pytest.CaptureFixture[str]):
    assert fails() == 2
    assert "--pool" in capsys.readouterr().err


def test_settings_come_from_a_file_and_flags_win(pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = {"pool": str(pool), "text-column": "body", "out": str(tmp_path / "proxy"), "steps": 9, "layers": 1}
    config |= {"width": 16, "heads": 2, "vocab_size": 300, "context": 16, "batch-tokens": 256}
    (tmp_path / "warmup.yaml").write_text(json.dumps(config))  # JSON is YAML
    curate.cli.main(["warmup", "--config", str(tmp_path / "warmup.yaml"), "--steps", "2", "--json"])
    assert json.loads(capsys.readouterr().out)["steps"] == 2


def test_what_cannot_be_read_is_named(pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "pool"
    folder.mkdir()
    (folder / "good.jsonl").write_bytes(pool.read_bytes() + b'{"body": 7}\n')
    whole = gzip.compress(pool.read_bytes())
    (folder / "torn.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.docx").write_bytes(b"x")
    out = tmp_path / "proxy"
    curate.cli.main(["warmup", "--pool", str(folder), "--text-column", "body", "--out", str(out), *TINY])
    told = " ".join(capsys.readouterr().err.split())
    assert "pool: 2 shards; not read: notes.docx" in told
    assert "The pool file torn.jsonl.gz is damaged" in told
    assert "1 pool row set aside: not a string (the first is row 40 of good.jsonl" in told
