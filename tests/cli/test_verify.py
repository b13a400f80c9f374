import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from curate.cli import group
from curate.errors import CurateError, SettingsError
from tests.scoring import lines, make_project, sentence


def called(*args: str) -> str:
    made = CliRunner().invoke(group, list(args))
    if made.exception:
        raise made.exception
    return made.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    make_project(folder, 20, 6)
    rng = random.Random(3)
    (folder / "heldout.jsonl").write_bytes(lines([{"text": sentence("sums", 40, rng)} for _ in range(6)]))
    where = ["--target", str(folder / "val.jsonl"), "--pool", str(folder / "pool"), "--model", str(folder / "proxy")]
    called("score", *where, "--method", "bm25", "--device", "cpu", "--out", str(folder / "runs" / "bm25"))
    called("select", str(folder / "runs" / "bm25"), "--top", "20%", "--out", str(folder / "selected"))
    return folder


def asked(place: Path, *more: str) -> list[str]:
    small = ["--seeds", "3", "--set", "batch_size=1", "--set", "learning_rate=3e-3", "--other-documents", "8"]
    baselines = ["--baseline", "length", "--baseline", "bm25", "--all-times", "0", "--points", "1"]
    target = ["--target", str(place / "heldout.jsonl")]
    return ["verify", str(place / "selected"), *target, *small, *baselines, *more]


@pytest.mark.slow
def test_a_table_a_sentence_and_curves(place: Path) -> None:
    printed = called(*asked(place, "--sweep", "10%,50%"))
    for said in ("untrained", "selection", "random", "top 10%", "top 50%", "beats random", "ends lowest", "curves.png"):
        assert said in printed
    out = place / "selected-verified"
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(called(*asked(place, "--sweep", "10%,50%", "--json")))
    assert found == json.loads((out / "verify.json").read_text())
    assert found["best_share"]["best"] in ("10%", "50%")


def test_what_makes_no_sense_is_refused(place: Path) -> None:
    with pytest.raises(SettingsError, match="sweep is 'lots'; expected a share"):
        called(*asked(place, "--sweep", "lots"))
    with pytest.raises(SettingsError, match="tokens is 'many'; expected a whole number"):
        called(*asked(place, "--tokens", "many"))
    with pytest.raises(CurateError, match="took part in scoring"):
        called("verify", str(place / "selected"), "--target", str(place / "val.jsonl"))
