"""What a scoring run will take, from a small part of it that is done and thrown away."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from curate.documents import Pool, estimated_rows
from curate.errors import CurateError
from curate.memory import peak_memory
from curate.methods import magic
from curate.methods.ekfac import Settings as EkfacSettings
from curate.pipeline.origin import unchanged
from curate.pipeline.preparation import Loaded
from curate.pipeline.samples import SAMPLE, Quiet, draw, part_of
from curate.progress import Task
from curate.proxies.tokens import Encoded
from curate.training.microbatches import Corpus
from curate.training.replay import Replay, Training
from curate.training.snapshots import in_proxys_precision, trainable
from curate.training.walk import step_at

SHORT = 2  # steps of a training run that are measured


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """The training runs of a method that differentiates through training."""

    runs: int
    steps: int
    """Of each run."""
    step_back: int
    """Steps that each way back takes, one way per target group."""
    tokens: int
    """Of each run, estimated."""
    step_seconds: float
    """Measured."""
    step_back_seconds: float
    """Measured."""
    disk_bytes: int
    """At most, until the run's directions are there."""


@dataclass(frozen=True, kw_only=True)
class ScorePlan:
    """The cost of a scoring run, known before it starts."""

    documents: int
    """Rows of the pool that are to be scored, estimated from the files' sizes where they do not tell."""
    tokens: int
    """Estimated from a sample, cut to the context."""
    documents_per_second: float
    """Measured on a sample."""
    prepare_seconds: float
    """Target, curvature, training: measured on a small part of each and scaled; about."""
    scoring_seconds: float
    seconds: float
    """Both."""
    kept_bytes: int
    """Curvature and directions on disk."""
    memory_bytes: int
    """The most that the small part held; a curvature's fit and longer documents may take more."""
    training: TrainingPlan | None


@dataclass
class _Timing:
    total: float
    seconds: float = 0.0


@dataclass
class _Timed(Quiet):
    """Keeps how long every stage took."""

    stages: dict[str, _Timing] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, *, total: float | None = None, unit: str = "documents") -> Iterator[Task]:
        begun = time.perf_counter()
        with super().stage(name, total=total, unit=unit) as task:
            yield task
        timing = self.stages.setdefault(name, _Timing(0.0))
        timing.total += total or 0.0
        timing.seconds += time.perf_counter() - begun


def plan_score(loaded: Loaded) -> ScorePlan:
    """Prepare and score a small part of everything, and reckon what all will take. Nothing is kept.

    Raises CurateError when the pool's sample holds nothing to score.
    """
    asked, timed = loaded.asked, _Timed()
    with TemporaryDirectory() as scratch:
        inputs = loaded.inputs(Path(scratch) / "run", timed)
        sample, background = draw(inputs, asked.pool, asked.settings, background=_wanted(asked.method_settings))
        if not sample:
            raise CurateError("A sample of the pool holds nothing to score.", hint="Is --text-column the right one?")
        if asked.origin is None:
            inputs = part_of(inputs, background, Path(scratch) / "run", asked.settings.seed, timed)
        begun = time.perf_counter()
        scorer = asked.method.prepare(inputs, _shortened(asked.method_settings))
        spent = time.perf_counter() - begun
        kept = sum(p.stat().st_size for p in Path(scratch).rglob("*.safetensors"))
        scorer(sample[: SAMPLE // 8], inputs.batching)  # libraries set themselves up on first use
        begun = time.perf_counter()
        scorer(sample, inputs.batching)
        speed = len(sample) / (time.perf_counter() - begun)
        training = _training(loaded, background, timed, Path(scratch))
    fixed = spent - sum(t.seconds for t in timed.stages.values())
    prepare = fixed + sum(
        t.seconds * _share(name, t, loaded, len(background), training) for name, t in timed.stages.items()
    )
    documents = _documents(asked.pool, asked.origin and unchanged(asked.origin.run, asked.pool))
    mean = sum(len(e.ids) for e in sample) / len(sample)
    return ScorePlan(
        documents=documents,
        tokens=round(documents * mean),
        documents_per_second=speed,
        prepare_seconds=prepare,
        scoring_seconds=documents / speed,
        seconds=prepare + documents / speed,
        kept_bytes=kept,
        memory_bytes=peak_memory(loaded.proxy.device),
        training=training,
    )


def _documents(pool: Pool, known: list[str] | None) -> int:
    return round(sum(estimated_rows(s) for s in pool.shards if s.name not in (known or ())))


def _share(name: str, timing: _Timing, loaded: Loaded, background: int, training: TrainingPlan | None) -> float:
    """Return how many times longer a stage takes on the whole: by its documents or steps, or as long as it took."""
    settings = loaded.asked.settings
    if loaded.asked.origin is not None:
        return 1.0  # nothing is fitted, and the target is taken whole
    if training is not None and name == "training":
        return training.runs * training.steps / timing.total
    if training is not None and name == "walking back":
        groups = len(loaded.target.names) + (loaded.against is not None)
        return training.runs * groups * training.step_back / timing.total
    if name == "target":
        whole = len(loaded.target.encoded) + (len(loaded.against.encoded) if loaded.against else 0)
        return whole / max(1.0, timing.total)
    whole = settings.background or 0
    if name.startswith("refine") and isinstance(own := loaded.asked.method_settings, EkfacSettings):
        most = own.refine_documents + own.evaluation_documents
        return min(whole, most) / max(1, min(background, most))
    return whole / max(1, background) if name in ("factors", "eigenvalues", "background") else 1.0


def _wanted(settings: Any) -> int:
    """Return how many background documents the small part needs: whole batches, where there is training."""
    if isinstance(settings, magic.Settings):
        return max(SAMPLE, max(2, settings.runs) * settings.recipe.batch_size)
    return SAMPLE


def _shortened(settings: Any) -> Any:
    if not isinstance(settings, magic.Settings):
        return settings
    return replace(settings, recipe=replace(settings.recipe, steps=SHORT), accept_rough=True)


def _training(loaded: Loaded, background: list[Encoded], timed: _Timed, scratch: Path) -> TrainingPlan | None:
    settings = loaded.asked.method_settings
    if not isinstance(settings, magic.Settings) or "training" not in timed.stages:
        return None
    runs = max(2, settings.runs)
    steps = settings.recipe.num_steps((loaded.asked.settings.background or 0) // runs)
    recipe = replace(in_proxys_precision(settings.recipe, loaded.proxy), steps=steps)
    corpus = Corpus(background, loaded.batching.tokens, budget=loaded.batching.budget)
    replay = Replay(
        Training(trainable(loaded.proxy, recipe), corpus, recipe),
        scratch / "plan",
        checkpoints=settings.checkpoints,
    )
    forward, back = timed.stages["training"], timed.stages["walking back"]
    needs = replay.plan()
    return TrainingPlan(
        runs=runs,
        steps=steps,
        step_back=steps - step_at(min(settings.snapshots), steps),
        tokens=needs.tokens,
        step_seconds=forward.seconds / max(1.0, forward.total),
        step_back_seconds=back.seconds / max(1.0, back.total),
        disk_bytes=needs.disk_bytes,
    )
