from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from curate.scores.run import Run
from tests.small_runs import FINGERPRINTS, SETTINGS, rows, skipped, write

WORDS = ["add", "three", "and", "four", "to", "get", "seven", "while", "gulls", "cried", "over", "the", "court"]
SOURCES = ["web", "books", "code", None]


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """100 000 rows in 50 parts of 4 shards: two groups, ties, copies, contamination, a source that scores well."""
    rng = np.random.default_rng(0)
    details = {"columns": ["score", "score_a", "score_b"], "coverage": {"tracked": 60, "total": 100, "uncovered": {}}}
    settings = SETTINGS | {"method_settings": {"normalize": "none"}}
    run = Run.start(
        tmp_path_factory.mktemp("runs") / "large", settings=settings, fingerprints=FINGERPRINTS, details=details
    )
    for shard in range(4):
        for part in range(13 if shard < 2 else 12):
            n = 2000
            tokens = (rng.lognormal(5, 1, n).astype(np.int32) % 2000) + 1
            source = rng.choice(SOURCES, n, p=[0.6, 0.2, 0.15, 0.05])
            a = (rng.standard_t(3, n) + 3 * (source == "code")).astype(np.float32).round(2)
            b = (0.02 * tokens + rng.normal(0, 1, n)).astype(np.float32)
            norms = rng.random(n).astype(np.float32)
            table = rows(
                f"s{shard}",
                part * n,
                ((a + b) / 2).tolist(),
                score_a=pa.array(a),
                score_b=pa.array(b),
                n_tokens=pa.array(tokens),
                loss=pa.array(np.where(rng.random(n) < 0.1, np.nan, norms * 2), pa.float32(), from_pandas=True),
                grad_norm=pa.array(norms),
                content_hash=[f"{rng.integers(60_000):032x}" for _ in range(n)],
                truncated=pa.array(tokens > 1900),
                target_exact=pa.array(rng.random(n) < 0.001),
                target_overlap=pa.array(rng.random(n).astype(np.float32) ** 20),
                source=pa.array(source.tolist(), pa.string()),
                stars=pa.array(rng.integers(0, 40, n)),
            )
            last = part == (12 if shard < 2 else 11)
            aside = skipped((f"s{shard}", part * n, "empty text")) if part == 0 else None
            write(run, f"s{shard}", shard, table, aside, index=part, start=part * n, end=(part + 1) * n, last=last)
    run.finish({"documents": 100_000, "tokens": 1, "skipped": {"empty text": 4}})
    return run


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., Run]:
    """Make a finished run of one part."""

    def make(
        name: str, scores: list[float], *, method: str = "dot", details: dict[str, Any] | None = None, **columns: Any
    ) -> Run:
        run = Run.start(
            tmp_path / name, settings=SETTINGS | {"method": method}, fingerprints=FINGERPRINTS, details=details
        )
        write(run, "a", 0, rows("a", 0, scores, **columns))
        run.finish({"documents": len(scores), "tokens": 0, "skipped": {}})
        return run

    return make
