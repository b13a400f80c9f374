"""What a scoring run will take, from a small part of it that is done and thrown away.

A stage of the preparation says what it grows with, and is scaled by that; what belongs to no such stage takes as long
for the whole. Nothing here knows a method: its contract says what is rehearsed, and how much of it the whole has.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from curate import methods
from curate.amounts import duration, rounded, size
from curate.documents import rows_of_all
from curate.errors import CurateError
from curate.folders.local_folder import LocalFolder
from curate.memory import held_bytes, peak_memory
from curate.methods.contract import Inputs, Plan, Scorer, Sizes
from curate.pipeline.checking import Checking
from curate.pipeline.origin import unchanged
from curate.pipeline.request import Request
from curate.pipeline.samples import SAMPLE, Quiet, apart, drawn, part_of
from curate.pipeline.workspace import Workspace, overlap_with
from curate.progress import Task
from curate.proxies.tokens import Encoded

T = TypeVar("T")
_ROW_BYTES = 60
"""Of a document's hash, place and figures."""


@dataclass(frozen=True, kw_only=True)
class ScorePlan:
    """The cost of a scoring run, known before it starts."""

    documents: int
    """Rows of the pool that are to be scored, estimated from the files' sizes where they do not tell."""
    tokens: int
    """Estimated from a sample, cut to the context."""
    documents_per_second: float
    """Measured on a sample, reading included."""
    prepare_seconds: float
    """Target, curvature, training: measured on a small part of each and scaled; about."""
    scoring_seconds: float
    check_seconds: float
    """Of the retrainings of a check, one after another."""
    seconds: float
    """All of them."""
    kept_bytes: int
    """Curvature and directions on disk."""
    memory_bytes: int
    """The most that the small part held; a curvature's fit and longer documents may take more."""
    training: Plan | None
    """What the method itself foresees; None where it has nothing to tell."""
    disk_bytes: int = 0
    """All of the run: scores, and what is kept for later ones."""

    @property
    def sentence(self) -> str:
        """Say the totals."""
        return (
            f"Scoring about {rounded(self.documents)} documents ({rounded(self.tokens)} tokens) takes about "
            f"{duration(self.seconds)}, {size(self.disk_bytes)} on disk and {size(self.memory_bytes)} of memory."
        )


@dataclass
class _Timing:
    total: float = 0.0
    seconds: float = 0.0


@dataclass
class _Timed(Quiet):
    """Keeps how long stages took, by what they grow with."""

    stages: dict[str, _Timing] = field(default_factory=dict)

    @contextmanager
    def stage(
        self, name: str, *, total: float | None = None, unit: str = "documents", grows: str = ""
    ) -> Iterator[Task]:
        begun = time.perf_counter()
        with super().stage(name, total=total, unit=unit) as task:
            yield task
        timing = self.stages.setdefault(grows, _Timing())
        timing.total += total or 0.0
        timing.seconds += time.perf_counter() - begun

    def scaled(self, small: Sizes, whole: Sizes, units: Mapping[str, int | float]) -> float:
        """Return how much longer than here all stages take on the whole."""
        more = 0.0
        for grows, timing in self.stages.items():
            if grows in units:
                more += timing.seconds * (units[grows] / max(1.0, timing.total) - 1)
            elif size := getattr(small, grows or "?", 0):
                more += timing.seconds * (getattr(whole, grows) / size - 1)
        return more


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """A sample of the pool, and what reading takes."""

    sample: list[Encoded]
    background: list[Encoded]
    look: float
    """Seconds of drawing a sample, which is a look through the pool."""
    encoding: float
    """Seconds per document, as the next is."""
    comparing: float
    texts: int
    """Bytes of a document's preview and scalar columns."""
    looks: list[int] = field(default_factory=list)
    """One entry for every time that the background was read."""

    def again(self) -> list[Encoded]:
        """Return the background, and count: the run itself reads it every time."""
        self.looks.append(len(self.background))
        return self.background

    def scoring(self, documents: int, computed: int | float, each: float) -> float:
        """Return the seconds of reading all documents and computing so many of them, at so much each."""
        return self.look + documents * (self.encoding + self.comparing) + min(documents, computed) * each


def estimate(request: Request, workspace: Workspace) -> ScorePlan:
    """Prepare and score a small part of everything, and reckon what all will take. Nothing is kept.

    Raises CurateError when the pool's sample holds nothing to score.
    """
    timed = _Timed()
    method, settings, fitted = methods.get(request.method), request.method_settings, request.origin is None
    reading = _read(request, workspace, method.rehearsal_background(settings))
    with TemporaryDirectory() as scratch:
        inputs = workspace.inputs(LocalFolder(Path(scratch) / "run"), timed)
        if fitted:
            inputs = part_of(inputs, reading.again, Path(scratch) / "run", request.settings.seed, timed)
        scorer, prepare = _clocked(lambda: method.prepare(inputs, method.rehearsal(settings)))
        kept = sum(p.stat().st_size for p in Path(scratch).rglob("*.safetensors"))
        each = _seconds_each(scorer, reading.sample, inputs)
        whole, units = workspace.sizes(), {}
        if fitted:
            units = method.units(inputs, settings, whole)
            here = Sizes.of(whole.pool, len(reading.background), inputs.target, inputs.against)
            prepare += timed.scaled(here, whole, units)
            prepare += len(reading.looks) * (reading.look + reading.encoding * whole.background)
        seconds = {grows: t.seconds / max(1.0, t.total) for grows, t in timed.stages.items()}
        foreseen = method.plan(inputs, settings, whole, seconds) if fitted else None
    retrainings = request.settings.check
    check = Checking.of(workspace, retrainings).seconds if retrainings else 0.0
    documents = _documents(request)
    scoring = reading.scoring(documents, units.get("pool", documents), each)
    return ScorePlan(
        documents=documents,
        tokens=round(documents * sum(len(e.ids) for e in reading.sample) / len(reading.sample)),
        documents_per_second=documents / scoring,
        prepare_seconds=prepare,
        scoring_seconds=scoring,
        check_seconds=check,
        seconds=prepare + check + scoring,
        kept_bytes=kept + round(units.get("kept", 0)),
        memory_bytes=max(
            peak_memory(workspace.proxy.device),
            held_bytes(workspace.proxy.device) + workspace.batching.room.foreseen_bytes(),
        ),
        training=foreseen,
        disk_bytes=kept + round(units.get("kept", 0) + documents * _row_bytes(request, reading.sample, reading.texts)),
    )


def _read(request: Request, workspace: Workspace, background: int) -> _Reading:
    """Draw a sample and do with it what a run does before it scores. Raises CurateError where nothing can be scored."""
    overlap = overlap_with(request.target)
    documents, look = _clocked(lambda: drawn(request.pool, request.settings, SAMPLE + background))
    workspace.encoder(documents[:1])  # libraries set themselves up on first use
    encoded, encoding = _clocked(lambda: workspace.encoder(documents))
    _, comparing = _clocked(lambda: overlap.measure_all([d.plain_text for d in documents]))
    sample, others = apart(encoded, background)
    if not sample:
        raise CurateError("A sample of the pool holds nothing to score.", hint="Is --text-column the right one?")
    return _Reading(
        sample=sample,
        background=others,
        look=look,
        encoding=encoding / len(documents),
        comparing=comparing / len(documents),
        texts=sum(len(f"{d.preview} {d.metadata}".encode()) for d in documents) // len(documents),
    )


def _row_bytes(request: Request, sample: Sequence[Encoded], texts: int) -> float:
    """Return the bytes of one document's scores in Parquet, about: half of its texts' are left by compression."""
    per_token = request.settings.per_token * sum(len(e.ids) for e in sample) / len(sample)
    return _ROW_BYTES + 4 * len(request.columns) * (1 + per_token) + 3 * per_token + texts / 2


def _seconds_each(scorer: Scorer, sample: Sequence[Encoded], inputs: Inputs) -> float:
    scorer(sample[: SAMPLE // 8], inputs.batching)  # as above
    return _clocked(lambda: scorer(sample, inputs.batching))[1] / len(sample)


def _documents(request: Request) -> int:
    if request.narrowing is not None:
        return request.narrowing.measure(request.pool).documents
    taken = set(unchanged(request.origin.run, request.pool)) if request.origin is not None else ()
    return round(rows_of_all([s for s in request.pool.shards if s.name not in taken]))


def _clocked(work: Callable[[], T]) -> tuple[T, float]:
    """Return what work gives, and how many seconds it took."""
    begun = time.perf_counter()
    return work(), time.perf_counter() - begun
