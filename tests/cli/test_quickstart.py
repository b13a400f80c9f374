import re
from pathlib import Path

import pytest

import curate.cli


def fails(*args: str) -> int:
    with pytest.raises(SystemExit) as caught:
        curate.cli.main(["quickstart", *args])
    code = caught.value.code
    assert isinstance(code, int)
    return code


def test_a_folder_that_no_quickstart_made_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "mine.txt").write_text("mine")
    assert fails("--out", str(tmp_path)) == 2
    assert "no quickstart made it" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "pool" / "mine.txt").read_text() == "mine"


@pytest.mark.slow
def test_an_unknown_package_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert fails("--package", "asincio", "--out", str(tmp_path / "q")) == 1
    assert "'asyncio'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_main_job_finds_the_rest_of_the_target_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The whole of `make quickstart`: every command as a user types it, on the real library of this Python."""
    curate.cli.main(["quickstart", "--out", str(tmp_path / "q")])
    shown = capsys.readouterr().out
    commands = re.findall(r"^\$ curate (\w+)", shown, flags=re.MULTILINE)
    assert commands == ["warmup", "score", "select", "sql", "sql", "sql"]
    enrichment = re.search(r"enrichment\D*([\d.]+)x", shown)
    assert enrichment is not None
    assert float(enrichment[1]) > 2.5
    assert (tmp_path / "q" / "runs" / "trackstar" / "run.json").is_file()
