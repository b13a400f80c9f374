"""Faults drawn from a seed, each run to its end and compared with an undisturbed run."""

import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.commands import COMMANDS, OUT, PREPARING, Command, make_inputs
from tests.faults.kinds import KINDS, Scene
from tests.faults.processes import await_end_of_all, forked, start
from tests.faults.results import contents, differences, pages, rows_in

_ENDS = {0, 1, 2, 130}
"""Exit codes of a command that was not killed."""
_KILLED = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGTERM}
_SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class Fault:
    number: int
    command: str
    kind: str
    seed: int


def drawn(seed: int, commands: Sequence[str], kinds: Sequence[str]) -> Iterator[Fault]:
    """Yield faults without end: each command with each of its kinds in an order drawn, then in another."""
    pairs = [(c, k) for c in commands for k in kinds if k != "worker killed" or COMMANDS[c].workers]
    rng, number = random.Random(seed), 0
    while pairs:
        rng.shuffle(pairs)
        for command, kind in pairs:
            yield Fault(number=number, command=command, kind=kind, seed=seed)
            number += 1


@dataclass(frozen=True, kw_only=True)
class Reference:
    """An undisturbed run of a command."""

    contents: dict[str, bytes]
    rows: Counter[tuple[str, int]]
    pages: int
    seconds: float


@dataclass(kw_only=True)
class Outcome:
    fault: Fault
    ended: bool
    """Whether it ended well in spite of the fault."""
    resumed: bool = False
    """Whether another start ended well."""
    refused: bool = False
    """Whether the other start was refused with a sentence, or what was left out was said."""
    lost: int = 0
    doubled: int = 0
    equal: bool = False
    failures: list[str] = field(default_factory=list)
    seconds: float = 0


@dataclass(frozen=True, kw_only=True)
class Laboratory:
    """A folder with the project, a fresh copy of it per fault, always at one place, and what failures left."""

    folder: Path

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def printed(self) -> Path:
        return self.folder / "printed"

    def prepare(self, *, runs: bool) -> None:
        """Make the project, and the runs that some commands work on."""
        base = self.folder / "base"
        (base / OUT).mkdir(parents=True)
        forked(lambda: make_inputs(base))
        for i, arguments in enumerate(PREPARING if runs else ()):
            job = start(arguments, base, self.folder / f"preparing-{i}")
            assert job.wait() == 0, job.told

    def refresh(self) -> None:
        """Begin with a fresh copy."""
        subprocess.run(["umount", "-q", str(self.work / OUT)], check=False, capture_output=True)
        for folder in (self.work, self.printed):
            shutil.rmtree(folder, ignore_errors=True)
        self.printed.mkdir()
        shutil.copytree(self.folder / "base", self.work)

    def undisturbed(self, command: Command) -> Reference:
        """Run a command, and again, which must give the same bytes."""
        runs = []
        for _ in range(2):
            self.refresh()
            scene, began = self._scene(command), time.monotonic()
            scene.run()
            seconds = time.monotonic() - began
            assert [j.code for j in scene.jobs] == [0] * len(scene.jobs), scene.jobs[-1].told
            assert not (left := await_end_of_all()), left
            runs.append(contents(scene.out))
        assert not (names := differences(*runs)), f"{command.name}: two undisturbed runs differ in {names}"
        rows = forked(lambda: rows_in(scene.out))
        return Reference(contents=runs[0], rows=rows, pages=pages(scene.out), seconds=seconds)

    def suffer(self, fault: Fault, reference: Reference) -> Outcome:
        """Run a command with a fault, then once more if it did not end well, and judge what it left."""
        self.refresh()
        began = time.monotonic()
        scene = self._scene(COMMANDS[fault.command], reference)
        scene.rng = random.Random(f"{fault.seed}/{fault.number}")
        KINDS[fault.kind](scene)
        left = await_end_of_all()
        number_disturbed = len(scene.jobs)
        outcome = Outcome(fault=fault, ended=_ended_well(scene))
        if not outcome.ended or scene.shard:
            scene.run()
            left += await_end_of_all()
            outcome.resumed = all(job.code == 0 for job in scene.jobs[number_disturbed:])
        Judge(scene, reference, outcome, left).judge()
        outcome.seconds = time.monotonic() - began
        if outcome.failures:
            self._keep(fault)
        return outcome

    def _scene(self, command: Command, reference: Reference | None = None) -> Scene:
        return Scene(
            command=command,
            work=self.work,
            printed=self.printed,
            seconds=reference.seconds if reference else 0,
            pages=reference.pages if reference else 0,
            rng=random.Random(0),
        )

    def _keep(self, fault: Fault) -> None:
        kept = self.folder / "failures" / f"{fault.number:04d}"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self.work / OUT, kept / OUT)
        shutil.copytree(self.printed, kept / "printed")


def _ended_well(scene: Scene) -> bool:
    """Say whether each of the command's jobs has ended well in its last start, or an earlier one."""
    number = len(scene.command.jobs)
    return all(any(job.code == 0 for job in scene.jobs[i::number]) for i in range(number))


@dataclass(frozen=True)
class Judge:
    """What must hold after a fault."""

    scene: Scene
    reference: Reference
    outcome: Outcome
    left: list[str]

    def judge(self) -> None:
        fail = self.outcome.failures.append
        for job in self.scene.jobs:
            if "Traceback (most recent call last)" in job.told:
                fail(f"a traceback: {job.told.strip().splitlines()[-1][:200]}")
            if job.code not in _ENDS | _KILLED:
                fail(f"a job ended with {job.code}")
            elif job.code in (1, 2) and not job.told.strip():
                fail("a job failed without a word")
        if self.left:
            fail(f"processes were left: {self.left}")
        names = differences(contents(self.scene.out), self.reference.contents)
        self.outcome.equal = not names
        if names and self._may_differ:
            self.outcome.refused = True
            self._count_rows(but=self.scene.shard)
        elif names:
            self._count_rows()
            fail(f"{len(names)} files differ: {', '.join(names[:_SHOWN])}")
        if not (self.outcome.ended or self.outcome.resumed or self.outcome.refused or self.outcome.equal):
            fail(f"it was not resumed: {self.scene.jobs[-1].told.strip()[-300:]}")

    @property
    def _may_differ(self) -> bool:
        """Say whether a result of another pool was told.

        The shard that was damaged is named, the pool is, or a start counted the shards while one was missing.
        """
        told = "".join(job.told for job in self.scene.jobs)
        shard, counts = self.scene.shard, set(re.findall(r"pool: (\d+) shards", told))
        return shard is not None and (f"{shard}:" in told or "pool" in self._refusal or len(counts) > 1)

    @property
    def _refusal(self) -> str:
        return "".join(j.told for j in self.scene.jobs if j.code in (1, 2))

    def _count_rows(self, but: str | None = None) -> None:
        """Count lost and doubled rows of all shards but one; rows are counted where the command has any."""
        out = self.scene.out
        rows = forked(lambda: rows_in(out))
        expected = {row for row in self.reference.rows if row[0] != but}
        self.outcome.doubled = sum(rows.values()) - len(rows)
        if self.outcome.ended or self.outcome.resumed:
            self.outcome.lost = len(expected - rows.keys())
        if self.outcome.lost or self.outcome.doubled:
            self.outcome.failures.append(f"{self.outcome.lost} rows lost, {self.outcome.doubled} doubled")
