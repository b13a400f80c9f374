"""Several jobs write one run: the bytes of one process, whoever fits, whoever ends last, whoever is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import curate
from curate import executors
from curate.documents import Fields, open_pool
from curate.errors import CurateError, SettingsError
from curate.executors.array import share_of
from curate.executors.contract import Share
from curate.executors.reading import UnfinishedShard, unfinished
from curate.folders.local import LocalFolder
from curate.scores.run import Run
from curate.stores.store import Store
from tests import small_runs
from tests.executors.making import SETTINGS, Seen, make, settings
from tests.faults.results import contents
from tests.scoring import lines, make_rows

SLURM = [f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "COUNT", "MIN", "MAX", "STEP")]


@pytest.fixture(autouse=True)
def no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SLURM, "JOB_COMPLETION_INDEX"):
        monkeypatch.delenv(name, raising=False)


def command(place: Path, out: Path, method: str, *more: str) -> list[str]:
    own = [f"--set={name}={value}" for name, value in SETTINGS.get(method, {}).items()]
    score = ["score", "--method", method, *own, "--target", str(place / "val.jsonl"), "--group-by", "task"]
    return [
        *(sys.executable, "-m", "curate", *(["index", "--dim", "4"] if method == "index" else score)),
        *("--out", str(out), "--pool", str(place / "pool"), "--model", str(place / "proxy")),
        *("--background", "32", "--part-documents", "16", "--device", "cpu", *more),
    ]


@pytest.mark.parametrize("part", ["3/64", " 3/64 "])
def test_a_part_is_given_by_its_number_from_one_on(part: str) -> None:
    assert share_of(part) == Share(number=3, count=64)


@pytest.mark.parametrize("part", ["0/4", "5/4", "1/0", "0", "a", "1/2/3", "-1/2"])
def test_a_part_that_is_none_is_refused(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    with pytest.raises(SettingsError, match="part is"):
        share_of(part)


@pytest.mark.parametrize("numbers", [range(4), range(1, 5), range(7, 11), range(0, 8, 2), range(1, 8, 2)])
def test_jobs_of_an_array_take_every_share_once(numbers: range, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = set()
    for number in numbers:
        values = (number, len(numbers), numbers[0], numbers[-1], numbers.step)
        for name, value in zip(SLURM, values, strict=True):
            monkeypatch.setenv(name, str(value))
        shares.add(share_of(None))
        assert share_of("4") == share_of(None)
    assert shares == {Share(number=n, count=4) for n in (1, 2, 3, 4)}


def test_an_indexed_job_is_told_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    assert share_of("8") == Share(number=3, count=8)
    with pytest.raises(SettingsError, match="do not say how many jobs"):
        share_of(None)


def test_an_array_with_gaps_needs_the_number_of_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(SLURM, (7, 2, 3, 7, 1), strict=True):
        monkeypatch.setenv(name, str(value))
    with pytest.raises(SettingsError, match="do not say how many jobs"):
        share_of(None)
    assert share_of("64") == Share(number=8, count=64)


def test_work_of_one_command_has_no_shares() -> None:
    with pytest.raises(SettingsError, match="'array' shares a pool among commands; this work is one command's"):
        executors.choose("array", is_shared=False)


def test_a_part_without_a_number_needs_a_scheduler() -> None:
    with pytest.raises(SettingsError, match="says which job this is"):
        share_of("64")


def test_other_executors_take_no_part() -> None:
    with pytest.raises(SettingsError, match="'processes' takes no part"):
        executors.choose("processes", part="1/2")


@pytest.mark.parametrize("shards", [3, 13])
def test_every_span_is_in_one_share(tmp_path: Path, shards: int) -> None:
    (tmp_path / "pool").mkdir()
    for number in range(shards):
        (tmp_path / "pool" / f"{number:02d}.jsonl").write_bytes(lines(make_rows(5 + number, number)))
    with Run.start(tmp_path / "x", settings=small_runs.SETTINGS, fingerprints=small_runs.FINGERPRINTS) as run:
        missing = unfinished(run, open_pool(tmp_path / "pool"), Fields(), 2)

    def spans(some: list[UnfinishedShard]) -> list[tuple[int, int]]:
        return sorted(read.span.order for shard in some for read in shard.read())

    arrays = [executors.choose(part=f"{n}/3").make() for n in (1, 2, 3)]
    shares = [spans([s for shard in missing for s in array._mine(shard)]) for array in arrays]  # type: ignore[attr-defined]
    assert sorted(span for share in shares for span in share) == spans(missing)
    assert all(shares)


def test_the_last_job_finishes_the_run_with_the_bytes_of_one_process(place: Path, tmp_path: Path, alone) -> None:
    seen = Seen()
    first = curate.score(settings(place), tmp_path / "x", part="1/2", reporter=seen)
    assert not first.is_finished
    assert "4 of 4 shards" in seen.warnings[-1]
    assert "curate score --continue" in seen.warnings[-1]
    last = curate.score(settings(place), tmp_path / "x", part="2/2", reporter=seen)
    assert last.is_finished
    assert contents(last.path) == alone("trackstar")
    assert [line["part"] for line in last.log.lines() if "part" in line] == ["1/2", "2/2"]
    assert [p.name for p in last.path.glob("log*")] == ["log.jsonl"]


def test_the_last_job_finishes_the_store_with_the_bytes_of_one_process(place: Path, tmp_path: Path, alone) -> None:
    seen = Seen()
    make("index", place, tmp_path, part="1/2", reporter=seen)
    store = Store.open(tmp_path / "x")
    assert (store.is_finished, store.folder.list("norms")) == (False, [])
    assert "curate index --continue" in seen.warnings[-1]
    background = (tmp_path / "x" / "background.json").stat().st_mtime_ns
    make("index", place, tmp_path, part="2/2", reporter=seen)
    assert contents(tmp_path / "x") == alone("index")
    assert (tmp_path / "x" / "background.json").stat().st_mtime_ns == background
    assert [line["part"] for line in store.log.lines() if "part" in line] == ["1/2", "2/2"]


def test_a_job_forgets_nothing_that_others_prepared(place: Path, tmp_path: Path, alone) -> None:
    """The job of a share without a span ends before any part is there."""
    make("index", place, tmp_path, part="64/64", reporter=Seen())
    assert not Store.has_parts(tmp_path / "x")
    background = (tmp_path / "x" / "background.json").stat().st_mtime_ns
    make("index", place, tmp_path, part="1/64", reporter=Seen())
    assert (tmp_path / "x" / "background.json").stat().st_mtime_ns == background
    assert contents(make("index", place, tmp_path)) == alone("index")


def test_what_jobs_have_left_is_done_by_going_on(place: Path, tmp_path: Path, alone) -> None:
    with pytest.warns(UserWarning, match="have parts missing"):
        curate.score(settings(place), tmp_path / "x", part="2/3")
    run = curate.score(curate.recorded(tmp_path / "x"), tmp_path / "x")
    assert contents(run.path) == alone("trackstar")


def test_a_job_of_other_settings_is_refused_while_others_are_at_work(place: Path, tmp_path: Path) -> None:
    given = {"settings": small_runs.SETTINGS, "fingerprints": small_runs.FINGERPRINTS}
    with Run.start(tmp_path / "x", **given, job="1-of-2"):
        Run.start(tmp_path / "x", **given, job="2-of-2").close()
        with pytest.raises(SettingsError, match="was started with other settings"):
            Run.start(tmp_path / "x", **(given | {"settings": {"dim": 1}}), job="2-of-2")
        with pytest.raises(CurateError, match="another process is writing"):
            Run.start(tmp_path / "x", **given)


def test_the_half_written_file_of_a_job_stays_while_others_begin(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    with folder.claim(shared=True) as claim:
        claim.share()
        (tmp_path / ".x.deadbeef.tmp").write_text("half")
        with folder.claim(shared=True) as other:
            assert not other.is_sole
            assert (tmp_path / ".x.deadbeef.tmp").exists()
            assert not other.become_sole()
        assert claim.become_sole()
    folder.claim(shared=True).release()
    assert not (tmp_path / ".x.deadbeef.tmp").exists()


TAKES_A_TURN = """
import sys, time
from pathlib import Path
from curate.folders.local import LocalFolder
with LocalFolder(Path(sys.argv[1])).turn("prepare", lambda: print("waits", flush=True)):
    print("has it", flush=True)
    time.sleep(60)
"""


def test_the_turn_of_a_killed_process_passes_to_the_next(tmp_path: Path) -> None:
    asked = [sys.executable, "-c", TAKES_A_TURN, str(tmp_path)]
    with subprocess.Popen(asked, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "has it\n"
        with subprocess.Popen(asked, stdout=subprocess.PIPE, text=True) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == "waits\n"
            first.kill()
            assert second.stdout.readline() == "has it\n"
            second.kill()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["trackstar", "ekfac", "magic", "index"])
def test_four_jobs_at_once_write_the_bytes_of_one_process(
    place: Path,
    tmp_path: Path,
    alone,
    method: str,
) -> None:
    asked = [command(place, tmp_path / "x", method, "--part", f"{n}/4") for n in (1, 2, 3, 4)]
    jobs = [subprocess.Popen(a, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for a in asked]
    told = [job.communicate()[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0] * 4, told
    assert (tmp_path / "x" / "finished.json").exists()
    assert contents(tmp_path / "x") == alone(method)


@pytest.mark.slow
def test_a_job_that_is_killed_while_it_fits_is_replaced(place: Path, tmp_path: Path, alone) -> None:
    asked = [command(place, tmp_path / "x", "magic", "--part", f"{n}/2") for n in (1, 2)]
    fitter = subprocess.Popen(asked[0], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while not (tmp_path / "x" / ".prepare.lock").exists():
        assert fitter.poll() is None
        time.sleep(0.002)
    waiting = subprocess.Popen(asked[1], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    os.killpg(fitter.pid, signal.SIGKILL)
    fitter.wait()
    told = waiting.communicate()[1]
    assert waiting.returncode == 0, told
    subprocess.run(asked[0], check=True, capture_output=True)
    assert contents(tmp_path / "x") == alone("magic")
