"""What every command promises, found by looking into the folder: a new command is checked as soon as it is there."""

import errno
import json
import subprocess
import sys
import time
from importlib import import_module
from io import StringIO
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import curate.cli
from curate.cli import _output, group
from curate.cli._output import RichReporter, Terminal, _LoggedTask
from curate.errors import CurateError

FOLDER = Path(curate.cli.__file__).parent
NAMES = sorted(p.stem for p in FOLDER.glob("*.py") if not p.stem.startswith("_"))
HEAVY = ("torch", "transformers", "datasets", "duckdb", "polars", "pyarrow", "numpy", "peft", "accelerate")


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def main_exit_code(*args: str) -> int:
    with pytest.raises(SystemExit) as caught:
        curate.cli.main(list(args))
    code = caught.value.code
    assert isinstance(code, int)
    return code


def test_the_folder_is_the_list_of_commands():
    listed = group.list_commands(click.Context(group))
    assert sorted(listed) == NAMES
    assert "warmup" in NAMES
    assert "quickstart" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_command_explains_itself_with_an_example_that_parses(name: str):
    module = import_module(f"curate.cli.{name}")
    assert module.__doc__, f"curate/cli/{name}.py has no docstring"
    shown = CliRunner().invoke(group, [name, "--help"])
    assert shown.exit_code == 0
    lines = [line.strip() for line in shown.stdout.splitlines()]
    assert any(line.startswith(f"curate {name}") for line in lines), f"no line starts with 'curate {name}'"


@pytest.mark.parametrize("name", NAMES)
def test_every_option_has_help(name: str):
    command = import_module(f"curate.cli.{name}").command
    options = [p for p in command.params if isinstance(p, click.Option)]
    assert [o.name for o in options if not o.help] == []


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_is_a_usage_error(name: str, capsys: pytest.CaptureFixture[str]):
    assert main_exit_code(name, "--no-such-option") == 2
    assert "--no-such-option" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_describing_a_command_imports_nothing_heavy(name: str):
    code = f"""
import sys, json
from curate.cli import main
try: main([{name!r}, "--help"])
except SystemExit as e: assert not e.code, e.code
print("\\n" + json.dumps([m for m in {HEAVY!r} if m in sys.modules]))
"""
    assert json.loads(run_python(code).splitlines()[-1]) == []


def test_help_imports_nothing_heavy_and_lists_every_command():
    code = f"""
import sys, json
from curate.cli import main
try: main(["--help"])
except SystemExit as e: assert not e.code, e.code
print("\\n" + json.dumps([m for m in {HEAVY!r} if m in sys.modules]))
"""
    out = run_python(code)
    assert json.loads(out.splitlines()[-1]) == []
    assert all(f"\n  {name}" in out for name in NAMES)


def test_an_unknown_command_is_a_usage_error_that_names_the_nearest(capsys: pytest.CaptureFixture[str]):
    assert main_exit_code("warmpu") == 2
    said = capsys.readouterr().err
    assert "'warmpu'" in said
    assert "'warmup'" in said


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]):
    curate.cli.main(["--version"])
    assert curate.__version__ in capsys.readouterr().out


def test_where_stderr_is_no_terminal_progress_is_a_line_per_stage(capsys, monkeypatch) -> None:
    monkeypatch.setattr(_LoggedTask, "EVERY", 0.0)
    with RichReporter() as reporter:
        pass
    assert capsys.readouterr().err == ""
    with RichReporter() as reporter, reporter.stage("scoring", total=1000) as stage:
        stage.advance(400)
        stage.advance(600)
    out, err = capsys.readouterr()
    assert [line.split(" documents")[0] for line in err.splitlines()] == [
        "scoring: 400/1,000",
        "scoring: 1,000/1,000",
        "scoring: 1,000/1,000",
    ]
    assert out == ""


def test_an_estimated_total_that_turns_out_wrong_is_not_shown_as_one(capsys, monkeypatch) -> None:
    monkeypatch.setattr(_LoggedTask, "EVERY", 0.0)
    for total in (900, 1200):
        with RichReporter() as reporter, reporter.stage("scoring", total=total) as stage:
            stage.advance(1000)
    assert [line.split(" documents")[0] for line in capsys.readouterr().err.splitlines()] == [
        "scoring: 1,000",
        "scoring: 1,000",
        "scoring: 1,000/1,200",
        "scoring: 1,000",
    ]


def test_a_dry_run_shows_that_it_measures(capsys, monkeypatch) -> None:
    monkeypatch.setattr(_LoggedTask, "EVERY", 0.0)
    with RichReporter() as reporter, reporter.measuring():
        pass
    assert capsys.readouterr().err.splitlines()[-1].startswith("measuring: 1/1 samples in ")


def test_a_log_has_rate_and_time_left_now_and_then_and_no_thousand_lines(capsys, monkeypatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("curate.cli._output.time.monotonic", lambda: clock[0])
    with RichReporter() as reporter:
        for _ in range(1000):  # short stages are not worth a line
            with reporter.stage("short", total=1) as stage:
                stage.advance(1)
        with reporter.stage("scoring", total=10_000) as stage:
            stage.advance(4_000)  # was there before
            for _ in range(480):
                clock[0] += 0.125
                stage.advance(12.5)
    told = capsys.readouterr().err
    assert not set("\r\x1b\b") & set(told)
    first, *_, last = told.splitlines()
    assert first == "scoring: 5,500/10,000 documents in 15 s, 100 documents/s, about 45 s left"
    assert last == "scoring: 10,000/10,000 documents in 60 s, 100 documents/s"
    assert 4 <= len(told.splitlines()) <= 6


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space"), OSError(errno.EDQUOT, "Quota"), None])
def test_a_full_disk_is_one_sentence_and_the_command_to_give_again(error, capsys, monkeypatch) -> None:
    def fail() -> None:
        try:
            raise error or RuntimeError("IO Error: could not write: No space left on device")
        except Exception as cause:
            raise CurateError("It could not be written.") from cause

    monkeypatch.setattr("curate.cli.group.main", lambda **_: fail())
    with pytest.raises(SystemExit) as end:
        curate.cli.main(["score", "--out", "runs/a b"])
    out, told = capsys.readouterr()
    assert (end.value.code, out) == (1, "")
    assert told.startswith("error: The disk is full, or its quota: what was finished is kept")
    assert told.endswith("give the same command again: curate score --out 'runs/a b'\n")


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied", "runs/x/scores"),
        OSError(errno.EROFS, "Read-only file system", "runs/x/scores"),
        RuntimeError('IO Error: Cannot open file "runs/x/scores": Permission denied'),
    ],
)
def test_a_file_that_may_not_be_written_is_named(error: Exception, capsys, monkeypatch) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("curate.cli.group.main", lambda **_: fail())
    with pytest.raises(SystemExit) as end:
        curate.cli.main(["score"])
    told = capsys.readouterr().err
    assert end.value.code == 1
    assert told.startswith("error: A file may not be read or written: ")
    assert "runs/x/scores" in told


def test_a_result_that_a_full_disk_cannot_take_is_an_error() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "curate", "--help"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1
    assert "The disk is full" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("score", "--pool", "pool"), "goes on from there"),
        (("index", "--pool", "pool"), "goes on from there"),
        (("merge", "a", "b"), "goes on from there"),
        (("score", "--dry-run"), None),
        (("warmup", "--pool", "pool"), "begins anew"),  # it leaves nothing
        (("report",), None),
    ],
)
def test_an_interrupt_promises_what_the_command_keeps(
    args: tuple[str, ...], said: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def interrupted(*_: object, **__: object) -> None:
        raise click.exceptions.Abort

    monkeypatch.setattr(group, "main", interrupted)
    assert main_exit_code(*args) == 130
    shown = capsys.readouterr().err.strip()
    assert said in shown if said else shown == "Interrupted."


def test_a_spinner_turns_on_a_terminal_while_libraries_load(monkeypatch: pytest.MonkeyPatch):
    screen = Terminal(stderr=True)
    screen.file, screen._force_terminal, screen.is_interactive = StringIO(), True, True
    monkeypatch.setattr(_output, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with _output.loading():
        deadline = time.monotonic() + 30  # drawn by a thread
        while "loading" not in screen.file.getvalue() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "loading" in screen.file.getvalue()
    screen.file = StringIO()
    screen._force_terminal = False  # a log
    with _output.loading():
        assert screen.file.getvalue() == ""


@pytest.mark.parametrize(
    "args",
    [
        ("verify", "selected", "--seeds", "0"),
        ("verify",),
        ("warmup", "--pool", "pool", "--layers", "0"),
        ("bench", "--rounds", "0"),
        ("validate", "runs/x", "--subsets", "1"),
    ],
)
def test_a_wrong_setting_is_told_before_torch_is_loaded(args: tuple[str, ...], tmp_path: Path):
    (tmp_path / "runs" / "x").mkdir(parents=True)
    code = "import sys; from curate.cli import main\ntry: main(sys.argv[1:])\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (2, "False"), done.stderr


def test_an_encoding_that_lacks_a_letter_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def printed(*_: object, **__: object) -> None:
        "a 木".encode("ascii")

    monkeypatch.setattr(group, "main", printed)
    assert main_exit_code("sql", "SELECT 1") == 1
    told = capsys.readouterr().err
    assert "ascii, has no '\\u6728'" in told
    assert "PYTHONIOENCODING=utf-8" in told
