"""What a worker that died had in hand is tried again; whoever kills its workers is found out and given up."""

import gzip
import os
import random
import signal
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from curate import executors
from curate.documents import Fields, open_pool
from curate.errors import CurateError
from curate.executors.contract import Chunk, PartTables, PartWork, Share, SpanRows, Work
from curate.executors.crew import (
    ATTEMPTS,
    IN_FLIGHT,
    Crew,
    Died,
    Merging,
    Message,
    Ready,
    encoded,
    finished,
    merged,
    read,
)
from curate.executors.ledger import keeping
from curate.executors.reading import Reader, SpanStart, unfinished
from curate.folders import merging
from curate.progress import Silent
from curate.schema import SKIPPED_SCHEMA, Document
from curate.scores.run import Run
from tests import small_runs
from tests.executors.making import Seen
from tests.scoring import lines, make_rows


@dataclass(frozen=True)
class Deadly:
    """Work that kills its process at one row's span, for as many times as `deaths` says."""

    row: int
    deaths: int
    tally: Path
    """A file that grows by one byte a death."""
    loses_rows: bool = False
    stage: str = "scoring"
    hint: str = ""

    def open(self) -> "Deadly":
        return self

    def encode(self, read: SpanRows) -> Chunk:
        documents = [row for row in read.rows if isinstance(row, Document)]
        return Chunk(span=read.span, documents=documents, encoded=[], overlaps=[], skipped=[])

    def __call__(self, chunk: Chunk) -> PartTables:
        is_deadly = chunk.span.shard == "a.jsonl" and chunk.span.start <= self.row < chunk.span.end
        if is_deadly and self._deaths() < self.deaths:
            with self.tally.open("ab") as file:
                file.write(b"x")
            os.kill(os.getpid(), signal.SIGKILL)
        rows = small_runs.rows(chunk.span.shard, chunk.span.start, [1.0] * len(chunk.documents))
        return PartTables(rows.slice(int(self.loses_rows)), SKIPPED_SCHEMA.empty_table())

    def _deaths(self) -> int:
        return self.tally.stat().st_size if self.tally.exists() else 0


def work_on(place: Path, work: PartWork, seen: Silent, executor: str = "processes") -> tuple[Run, Work]:
    """Share a pool of two shards, of four spans each, among two workers."""
    (place / "pool").mkdir()
    for name in "ab":
        (place / "pool" / f"{name}.jsonl").write_bytes(lines(make_rows(40, ord(name))))
    with Run.start(place / "x", settings=small_runs.SETTINGS, fingerprints=small_runs.FINGERPRINTS) as run:
        shards = unfinished(run, open_pool(place / "pool"), Fields(), 10)
        return run, executors.choose(executor, workers=2, device="cpu").make().run(work, shards, run, seen)


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_nothing_is_lost_or_done_twice(tmp_path: Path) -> None:
    seen = Seen()
    run, work = work_on(tmp_path, Deadly(15, ATTEMPTS - 1, tmp_path / "deaths"), seen)
    assert run.scores().collect().height == work.documents == 80
    assert work.parts == len(run.all_parts()) == 8
    assert [w for w in seen.warnings if "killed by SIGKILL" in w] == seen.warnings
    assert len(seen.warnings) == ATTEMPTS - 1


@dataclass(frozen=True)
class Spoiling(Deadly):
    """Work that spoils a finished part just before the last of those that belong in one file with it is written."""

    def __call__(self, chunk: Chunk) -> PartTables:
        if chunk.span.shard == "a.jsonl" and chunk.span.last:
            while not self.tally.exists():
                time.sleep(0.01)
            self.tally.write_bytes(b"spoiled")
        return super().__call__(chunk)


@pytest.mark.slow
def test_an_error_while_a_worker_merges_ends_all_and_arrives_with_its_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "PARTS", 4)
    path = tmp_path / "x" / "scores" / "00000-00000.parquet"
    with pytest.raises(CurateError, match=r"00000-00000\.parquet: not a readable Parquet file") as caught:
        work_on(tmp_path, Spoiling(0, 0, path), Seen())
    assert "start the same run again" in (caught.value.hint or "")


@dataclass
class Here:
    """Workers of this process that really read, write and merge, in an order drawn by chance; some die, as is said."""

    run: Run
    deaths: int
    seed: int
    workers: dict[int, tuple[Reader, list[SpanStart | SpanRows | Merging | None]]] = field(default_factory=dict)
    opened: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.work = Deadly(0, 0, Path())
        for _ in range(3):
            self.replace(-1)

    def replace(self, worker: int) -> None:
        self.workers.pop(worker, None)
        self.opened += 1
        self.workers[self.opened] = Reader(), [None]

    def send(self, worker: int, task: SpanStart | Merging) -> None:
        self.workers[worker][1].append(task)
        assert len(self.workers[worker][1]) <= IN_FLIGHT

    def hear(self) -> list[tuple[int, Message]]:
        worker = self.rng.choice([w for w, (_, steps) in self.workers.items() if steps])
        if self.deaths and self.rng.random() < 0.1:
            self.deaths -= 1
            return [(worker, Died(CurateError("It died.")))]
        return [(worker, self._step(*self.workers[worker]))]

    def _step(self, reader: Reader, steps: list[SpanStart | SpanRows | Merging | None]) -> Message:
        step = steps.pop(0)
        if step is None:
            return Ready("here")
        if isinstance(step, SpanRows):
            return finished(self.run, self.work, encoded(self.work, step))
        if isinstance(step, Merging):
            return merged(self.run, step)
        span_rows, message = read(reader, step)
        steps += [] if span_rows is None else [span_rows]
        return message


@pytest.mark.parametrize("share", [None, Share(number=2, count=3)])
@pytest.mark.parametrize(("seed", "deaths"), [(0, 0), (1, 2), (2, 2)])
def test_whoever_reads_and_whoever_dies_every_span_is_written_once_and_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaths: int, share: Share | None, seed: int
) -> None:
    monkeypatch.setattr(merging, "PARTS", 4)
    (tmp_path / "pool").mkdir()
    for name, count in {"a.jsonl": 95, "b.jsonl.gz": 60, "c.jsonl": 0, "d.jsonl": 3}.items():
        content = lines(make_rows(count, 1))
        (tmp_path / "pool" / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    seen, pool = Seen(), open_pool(tmp_path / "pool")
    with Run.start(tmp_path / "x", settings=small_runs.SETTINGS, fingerprints=small_runs.FINGERPRINTS) as run:
        shards = [replace(shard, share=share) for shard in unfinished(run, pool, Fields(), 10)]
        spans = [span_rows.span for shard in shards for span_rows in shard.read()]
        team = Here(run=run, deaths=deaths, seed=seed)
        with keeping(team.work, shards, run, seen) as ledger:
            Crew(team=team, ledger=ledger).do_all(shards)
        run.refresh()
        assert sorted(p.span.order for p in run.all_parts()) == [span.order for span in spans]
        assert ledger.work.parts == len(spans) == (18 if share is None else 5)
        assert ledger.work.documents == sum(span.end - span.start for span in spans)
        if share is None:
            num_files = len(run.rows_files())
            run.finish({})
            assert len(run.rows_files()) == 18 // 4 + 18 % 4
            assert num_files == len(run.rows_files()) or deaths
    assert len(seen.warnings) == deaths - team.deaths


@pytest.mark.slow
def test_rows_that_kill_every_worker_are_given_up_and_all_others_done(tmp_path: Path) -> None:
    with pytest.raises(CurateError, match="3 workers died on rows 10 to 19"):
        work_on(tmp_path, Deadly(15, 99, tmp_path / "deaths"), Seen())
    assert (tmp_path / "deaths").stat().st_size == ATTEMPTS
    run = Run.open(tmp_path / "x")
    assert "rows 10 to 19" in run.log.lines()[-1]["failed"]["a.jsonl"]
    assert run.holds("b.jsonl")
    assert [p.start for p in run.parts("a.jsonl")] == [0]


@pytest.mark.slow
def test_a_part_that_lacks_a_row_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="10 rows read, 9 written and 0 set aside"):
        work_on(tmp_path, Deadly(15, 0, tmp_path / "deaths", loses_rows=True), Seen())
    assert Run.open(tmp_path / "x").all_parts() == []
