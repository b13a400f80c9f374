"""The settings of a prediction. Free of torch."""

from dataclasses import asdict, fields
from typing import Annotated, Any, Literal

from curate import students
from curate.proxies.settings import DEVICES, Device
from curate.settings import Count, Flag, Listed, Words, least, option, settings

Learn = Literal["best", "ranks"]


@settings
class PredictSettings:
    """A pool whose scores are predicted from those of a finished run, the teacher."""

    teacher: str = option(help="Folder of a finished run, whose scores are learned.", argument=True)
    pool: Words = option(
        default=(), help="Documents: folder, glob, file or address; repeatable.", shown="the teacher's"
    )
    student: str = option(
        default=students.DEFAULT, help=f"What learns: {', '.join(students.names())}, or {students.AUTO}, the best."
    )
    columns: Annotated[tuple[str, ...], Listed] = option(
        default=(), help="Score columns to learn, `score` always among them.", shown="all"
    )
    documents: Annotated[Count, least(50)] = option(
        default=10_000, help="Documents of the teacher to learn from; of more, a seeded sample."
    )
    learn: Learn = option(
        default="best",
        help="What is learned: 'best', the upper half of the ranks, to find the best; 'ranks', all, to drop the worst.",
    )
    folds: Annotated[Count, least(2)] = option(default=5, help="Folds of the cross-validation.")
    by_source: Flag = option(
        default=False, help="Learn a constant for every source (column domain or source, else the shard), too."
    )
    layers: Annotated[Count, least(1)] | None = option(
        default=None, help="Layers of the proxy that the student `hidden` runs.", shown="half of them"
    )
    seed: Count = option(default=0, help="Seed of the folds and of the sample.")
    device: Device | None = option(default=None, help=f"Where the proxy runs: {DEVICES}", shown="the teacher's")

    def method_settings(self) -> dict[str, Any]:
        """Return for run.json what decides the predictions beside teacher and pool."""
        elsewhere = {"teacher", "pool", "device"}
        return {f.name: value for f in fields(self) if f.name not in elsewhere for value in [asdict(self)[f.name]]}
