"""Kinds of faults: each starts a command, disturbs it, waits for its end, and takes the cause away."""

import gzip
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from tests.faults.commands import OUT, Command
from tests.faults.processes import Job, actors, forked, start
from tests.faults.results import PAGE
from tests.scoring import lines, make_rows

_PAUSE = 0.002
_LEAST_PAGES = 4


@dataclass(kw_only=True)
class Scene:
    """A command in a fresh copy of the project, and what was drawn for its fault."""

    command: Command
    work: Path
    printed: Path
    seconds: float
    """How long the command takes undisturbed."""
    pages: int
    """How much disk it takes."""
    rng: random.Random
    jobs: list[Job] = field(default_factory=list)
    """All jobs so far, in the order of their start."""
    shard: str | None = None
    """The shard that was damaged."""

    @property
    def out(self) -> Path:
        return self.work / OUT

    def start(self) -> list[Job]:
        """Start the command's jobs."""
        printed = self.printed / f"{len(self.jobs):02d}"
        jobs = [
            start(job, self.work, printed.with_name(f"{printed.name}-{i}")) for i, job in enumerate(self.command.jobs)
        ]
        self.jobs += jobs
        return jobs

    def run(self) -> None:
        wait(self.start())

    def start_and_sleep(self) -> list[Job]:
        """Start the command, and return at a moment drawn, or when it has ended."""
        until = time.monotonic() + self.rng.random() * self.seconds
        jobs = self.start()
        while time.monotonic() < until and any(job.poll() is None for job in jobs):
            time.sleep(_PAUSE)
        return jobs

    def kill(self, jobs: list[Job]) -> None:
        for job in jobs:
            job.signal(signal.SIGKILL, group=True)
        wait(jobs)

    def disturb(self, damage: Callable[[], None]) -> None:
        """Do the damage before a run, in its middle, or between a run that is killed and its repetition."""
        when = self.rng.choice(("before", "during", "between"))
        if when == "before":
            damage()
            self.run()
        elif when == "during":
            jobs = self.start_and_sleep()
            damage()
            wait(jobs)
        else:
            self.kill(self.start_and_sleep())
            damage()
            self.run()


def wait(jobs: list[Job]) -> None:
    """Wait for the jobs; one that does not end is killed, and has no exit code."""
    for job in jobs:
        if job.wait() is None:
            os.killpg(job.pid, signal.SIGKILL)


def signalled(number: signal.Signals) -> Callable[[Scene], None]:
    """Send a signal to one of the jobs, or to its whole group as a terminal does."""

    def fault(scene: Scene) -> None:
        jobs = scene.start_and_sleep()
        scene.rng.choice(jobs).signal(number, group=scene.rng.random() < 0.5)
        wait(jobs)

    return fault


def a_worker_is_killed(scene: Scene) -> None:
    """Kill a worker process, or an actor of Ray."""
    jobs = scene.start_and_sleep()
    while jobs[0].poll() is None:
        if workers := actors() if scene.command.workers == "actors" else jobs[0].workers():
            os.kill(scene.rng.choice(workers), signal.SIGKILL)
            break
        time.sleep(_PAUSE)
    wait(jobs)


def two_at_once(scene: Scene) -> None:
    """Start the command a second time while it runs."""
    jobs = scene.start_and_sleep()
    wait([*jobs, *scene.start()])


def the_disk_is_full(scene: Scene) -> None:
    """Give the results a file system that is too small; make room afterwards."""
    size = max(_LEAST_PAGES, int(scene.rng.random() * scene.pages)) * PAGE
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(scene.out)], check=True)
    scene.run()
    subprocess.run(["mount", "-o", "remount,size=256m", str(scene.out)], check=True)


def a_folder_is_read_only(scene: Scene) -> None:
    """Take the right to write from the folders of the results; give it back afterwards."""

    def damage() -> None:
        for path in (scene.out, *scene.out.rglob("*")):
            if path.is_dir():
                path.chmod(0o555)

    scene.disturb(damage)
    for path in (scene.out, *scene.out.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)


def a_shard_is(damage: Callable[[Path, random.Random], None]) -> Callable[[Scene], None]:
    """Damage a shard of the pool; restore it afterwards."""

    def fault(scene: Scene) -> None:
        shard = scene.rng.choice(sorted((scene.work / "pool").iterdir()))
        scene.shard = shard.name
        with restored(shard):
            scene.disturb(lambda: damage(shard, scene.rng))

    return fault


@contextmanager
def restored(path: Path) -> Iterator[None]:
    """Give a file its content, mode and times back at the end of the block."""
    copy = path.parent.with_name("spare")
    shutil.copy2(path, copy)
    yield
    path.unlink(missing_ok=True)
    shutil.move(copy, path)


def unreadable(path: Path, rng: random.Random) -> None:
    path.chmod(0)


def truncated(path: Path, rng: random.Random) -> None:
    os.truncate(path, int(rng.random() * path.stat().st_size))


def vanished(path: Path, rng: random.Random) -> None:
    path.unlink()


def changed(path: Path, rng: random.Random) -> None:
    rows = make_rows(rng.randint(4, 40), rng.randint(100, 999))

    def write() -> None:
        if path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        else:
            pack = {".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)
            path.write_bytes(pack(lines(rows)))

    forked(write)


KINDS: dict[str, Callable[[Scene], None]] = {
    "SIGKILL": signalled(signal.SIGKILL),
    "SIGTERM": signalled(signal.SIGTERM),
    "SIGINT": signalled(signal.SIGINT),
    "worker killed": a_worker_is_killed,
    "two at once": two_at_once,
    "disk full": the_disk_is_full,
    "read-only": a_folder_is_read_only,
    "shard unreadable": a_shard_is(unreadable),
    "shard truncated": a_shard_is(truncated),
    "shard vanished": a_shard_is(vanished),
    "shard changed": a_shard_is(changed),
}
