"""Small runs of every kind of fit, made by any executor, and a reporter that adds up."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import curate
from curate.progress import Silent, Task
from curate.score_settings import ScoreSettings
from curate.stores.settings import IndexSettings

ROWS = 60
"""Of every shard; the first has four more, which are set aside."""

SETTINGS = {
    "trackstar": {"dim": 4},
    "ekfac": {},
    "bm25": {},
    "length": {},
    "magic": {"steps": 4, "batch_size": 8, "accept_rough": True},
}


def settings(place: Path, method: str = "trackstar", **changes) -> ScoreSettings:
    given = {
        "target": (str(place / "val.jsonl"),),
        "pool": (str(place / "pool"),),
        "model": str(place / "proxy"),
        "method": method,
        "method_settings": SETTINGS.get(method, {}),
        "group_by": "task",
        "background": 32,
        "part_documents": 16,
        "device": "cpu",
    }
    return ScoreSettings(**(given | changes))


def index_settings(place: Path) -> IndexSettings:
    return IndexSettings(
        pool=(str(place / "pool"),),
        model=str(place / "proxy"),
        dim=4,
        background=32,
        part_documents=16,
        device="cpu",
    )


class Seen(Silent):
    """Adds up what a stage is told."""

    def __init__(self) -> None:
        self.totals: dict[str, float | None] = {}
        self.done: dict[str, float] = {}
        self.warnings: list[str] = []

    def stage(self, name: str, *, total: float | None = None, **options: Any) -> AbstractContextManager[Task]:
        seen = self
        self.totals[name], self.done[name] = total, 0.0

        class Counting:
            def __enter__(self) -> Task:
                return self

            def __exit__(self, *_: object) -> None: ...

            def advance(self, amount: float) -> None:
                seen.done[name] += amount

            def set_total(self, total: float | None) -> None: ...

        return Counting()

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def make(what: str, place: Path, out: Path, **options) -> Path:
    """Score by a method, or index, into a folder; return it."""
    if what == "index":
        return curate.index(index_settings(place), out / "x", **options).path
    return curate.score(settings(place, what), out / "x", **options).path
