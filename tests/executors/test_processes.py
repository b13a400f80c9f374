"""Several processes give the bytes of one; what ends one of them is said, and none outlives the one that started it."""

import multiprocessing
import random
import re
import shutil
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

import curate
from curate import executors
from curate.documents import Fields, open_pool
from curate.errors import CurateError, SettingsError
from curate.executors.contract import Chunk, PartTables, SpanRows
from curate.executors.reading import unfinished
from curate.pipeline import fitting
from curate.progress import Silent, Task
from curate.scores.run import Run
from tests import small_runs
from tests.executors.making import ROWS, Seen, make, settings
from tests.faults.results import contents
from tests.scoring import lines, make_pool, make_rows


@pytest.mark.slow
@pytest.mark.parametrize("what", ["bm25", "trackstar", "index"])
def test_two_processes_write_the_bytes_of_one(place: Path, tmp_path: Path, alone, what: str) -> None:
    seen = Seen()
    assert contents(make(what, place, tmp_path, workers=2, reporter=seen)) == alone(what)
    stage = "indexing" if what == "index" else "scoring"
    assert seen.done[stage] == 4 * ROWS + 4


@pytest.mark.slow
@pytest.mark.parametrize("what", ["trackstar", "ekfac", "magic"])
def test_fits_are_made_and_read_by_three_processes(
    place: Path, tmp_path: Path, alone, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    expected = alone(what)
    monkeypatch.setattr(fitting, "WORTH_SECONDS", 0)
    assert contents(make(what, place, tmp_path, workers=3)) == expected


def parts_of(folder: Path, what: str) -> list[Path]:
    return sorted((folder / ("rows" if what == "index" else "scores")).glob("*.parquet"))


@pytest.mark.parametrize(
    ("what", "workers"),
    [
        ("trackstar", 1),
        pytest.param("index", 1, marks=pytest.mark.slow),
        pytest.param("trackstar", 2, marks=pytest.mark.slow),
    ],
)
def test_holes_are_filled_and_nothing_else_is_done_again(
    place: Path, tmp_path: Path, alone, what: str, workers: int
) -> None:
    folder = make(what, place, tmp_path)
    parts = parts_of(folder, what)
    removed = [*random.Random(0).sample(parts[:-1], 6), parts[-1]]
    for part in removed:
        part.unlink()
    (folder / "finished.json").unlink()
    before = {p: p.stat().st_mtime_ns for p in parts if p not in removed}
    seen = Seen()
    make(what, place, tmp_path, workers=workers, reporter=seen)
    assert contents(folder) == alone(what)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert seen.done["indexing" if what == "index" else "scoring"] == 4 * ROWS + 4
    assert f'"parts": {len(removed)}' in (folder / "log.jsonl").read_text() or what == "index"


@pytest.mark.slow
def test_one_large_shard_is_shared_and_its_cut_depends_on_the_file_alone(place: Path, tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "big.jsonl").write_bytes(lines(make_rows(150, 5)))
    made = [
        curate.score(settings(place, "bm25", pool=(str(tmp_path / "pool"),)), tmp_path / str(n) / "x", workers=n)
        for n in (1, 3)
    ]
    assert contents(made[0].path) == contents(made[1].path)
    assert [(p.start, p.end) for p in made[1].all_parts()][:2] == [(0, 16), (16, 32)]


@pytest.mark.slow
def test_a_shard_that_cannot_be_read_stops_no_other(place: Path, tmp_path: Path) -> None:
    make_pool(tmp_path / "pool", 40)
    whole = (tmp_path / "pool" / "b.jsonl.gz").read_bytes()
    (tmp_path / "pool" / "b.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    broken = settings(place, "bm25", pool=(str(tmp_path / "pool"),))
    for workers in (1, 2):
        seen = Seen()
        told = r"1 shard\(s\) could not be read to the end; all others are done\. .*b\.jsonl\.gz"
        with pytest.raises(CurateError, match=told):
            curate.score(broken, tmp_path / str(workers) / "x", workers=workers, strict=True, reporter=seen)
        assert [w.split(":")[0] for w in seen.warnings] == ["b.jsonl.gz"]
        assert not Run.open(tmp_path / str(workers) / "x").is_finished
        run = curate.score(broken, tmp_path / str(workers) / "x", workers=workers, reporter=seen)
        assert (run.totals or {})["skipped"]["damaged shard"] == 1
    assert contents(tmp_path / "1" / "x") == contents(tmp_path / "2" / "x")


@pytest.mark.slow
def test_an_error_in_a_worker_arrives_with_its_hint(place: Path, tmp_path: Path) -> None:
    folder = make("bm25", place, tmp_path)
    for part in parts_of(folder, "bm25"):
        part.unlink()
    text = (folder / "run.json").read_text()

    class Changing(Silent):
        """Changes the record just before the workers start."""

        def stage(self, name: str, **given) -> AbstractContextManager[Task]:
            if name == "scoring":
                (folder / "run.json").write_text(re.sub('"model": "[0-9a-f]{32}"', '"model": "other"', text))
            return super().stage(name, **given)

    with pytest.raises(CurateError, match=r"proxy has changed since .* was begun") as caught:
        make("bm25", place, tmp_path, workers=2, reporter=Changing())
    assert caught.value.hint == "Put that model back, or give another folder with --out."


@dataclass(frozen=True)
class Failing:
    """Work that cannot be done: neither a `CurateError` nor any other may be lost on its way."""

    error: Exception
    stage: str = "scoring"
    hint: str = ""

    def open(self) -> "Failing":
        return self

    def encode(self, read: SpanRows) -> Chunk:
        return Chunk(span=read.span, documents=[], encoded=[], overlaps=[], skipped=[])

    def __call__(self, chunk: Chunk) -> PartTables:
        raise self.error


@pytest.mark.slow
@pytest.mark.parametrize("error", [CurateError("It is full.", hint="Empty it."), KeyError("x")])
def test_an_error_in_the_middle_of_work_ends_all(place: Path, tmp_path: Path, error: Exception) -> None:
    with Run.start(tmp_path / "x", settings=small_runs.SETTINGS, fingerprints=small_runs.FINGERPRINTS) as run:
        shards = unfinished(run, open_pool(place / "pool"), Fields(), 16)
        with pytest.raises(type(error)) as caught:
            executors.choose("processes", workers=2, device="cpu").make().run(Failing(error), shards, run, Silent())
    assert vars(caught.value).items() >= vars(error).items()
    assert any("in __call__" in note for note in caught.value.__notes__)
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_documents_that_the_model_cannot_read_are_set_aside_and_all_others_scored(place: Path, tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (tmp_path / "pool" / "chat.jsonl").write_bytes(lines([chat] * 40))
    (tmp_path / "pool" / "text.jsonl").write_bytes(lines(make_rows(40, 5)))
    proxy = shutil.copytree(place / "proxy", tmp_path / "proxy")
    (proxy / "chat_template.jinja").unlink()
    mixed = settings(place, "length", pool=(str(tmp_path / "pool"),), model=str(proxy))
    for workers in (1, 2):
        seen = Seen()
        curate.score(mixed, tmp_path / str(workers) / "x", workers=workers, reporter=seen)
        run = Run.open(tmp_path / str(workers) / "x")
        assert run.skipped().collect()["reason"].to_list() == ["chat template"] * 40
        assert run.scores().collect().height == 40


def test_executors_are_found_by_name() -> None:
    assert {"local", "processes"} <= set(executors.names())
    with pytest.raises(SettingsError, match="There is no executor 'proceses'") as caught:
        executors.choose("proceses")
    assert "'processes'" in str(caught.value.hint)
    with pytest.raises(SettingsError, match="workers is 0; expected at least 1"):
        executors.choose(workers=0)


def test_an_executor_whose_package_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # type: ignore[arg-type]
    monkeypatch.delitem(sys.modules, "curate.executors.ray", raising=False)
    with pytest.raises(SettingsError, match="needs Ray, which is not installed") as caught:
        executors.choose("ray")
    assert "curate[ray]" in str(caught.value.hint)


def test_settings_are_refused_before_any_process_starts(place: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("curate.executors.processes.started", lambda *_, **__: pytest.fail("started processes"))
    with pytest.raises(SettingsError, match="context is 9999"):
        curate.score(settings(place, context=9999), tmp_path / "x", workers=2, reporter=Silent())
    with pytest.raises(SettingsError, match="threads of one process"):
        curate.score(settings(place, pool=(), store="stores/x"), tmp_path / "x", workers=2)
