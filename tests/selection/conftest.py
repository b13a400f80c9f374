import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.documents import open_pool
from curate.scores.run import Run
from tests.small_runs import FINGERPRINTS, SETTINGS, rows, skipped, write

# shard → (score, tokens, source, group scores) of each row; ties on purpose
SHARDS = {
    "a.jsonl": [(0.5, 10, "web"), (2.0, 20, "code"), (2.0, 30, "web"), (-1.0, 40, None), (0.0, 50, "web")],
    "b.parquet": [(3.0, 60, "wiki"), (0.5, 70, "wiki"), (1.0, 80, "code")],
    "c.jsonl": [(1.5, 90, "web"), (-2.0, 100, "web")],
}


def make_pool(folder: Path) -> None:
    """Three shards of two formats whose own columns differ in name and type."""
    folder.mkdir()
    lines = [{"text": f"a {i}", "id": i, "tags": ["t"], "source": s[2]} for i, s in enumerate(SHARDS["a.jsonl"])]
    lines[1]["meta"] = {"k": 1}
    (folder / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"text": ""}]))
    table = {
        "text": [f"b {i}" for i in range(3)],
        "id": ["x", "y", "z"],
        "score": [7, 8, 9],
        "when": pa.array([0, 1, None], pa.timestamp("us", "UTC")),
        "source": [s[2] for s in SHARDS["b.parquet"]],
    }
    pq.write_table(pa.table(table), folder / "b.parquet")
    lines = [{"text": f"c {i}", "id": None, "meta": {"z": [1.5]}, "source": "web"} for i in range(2)]
    (folder / "c.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _by_token(scores: list[float]) -> dict[str, pa.Array]:
    """Two tokens a document, the second a line end of -1."""
    return {
        "token_scores": pa.array([[s + 1, -1.0] for s in scores], pa.list_(pa.float32())),
        "token_texts": pa.array([[" the", "\n"] for _ in scores]),
        "loss": pa.nulls(len(scores), pa.float32()),
        "grad_norm": pa.nulls(len(scores), pa.float32()),
    }


def make_run(path: Path, pool: Path, *, by_token: bool = False) -> Run:
    """A finished run; `by_token` of a method that gives scores per token, and neither losses nor gradients."""
    address = [str(pool)]
    prints = {**FINGERPRINTS, "pool": open_pool(address).fingerprint()}
    run = Run.start(path, settings={**SETTINGS, "pool": address}, fingerprints=prints)
    for number, (shard, values) in enumerate(SHARDS.items()):
        score = [v[0] for v in values]
        table = rows(
            shard,
            0,
            score,
            n_tokens=pa.array([v[1] for v in values], pa.int32()),
            score_math=pa.array([float("nan") if s < 0 else -s for s in score], pa.float32()),
            score_code=pa.array([None if s == 1.5 else s for s in score], pa.float32()),
            source=[v[2] for v in values],
            **(_by_token(score) if by_token else {}),
        )
        aside = skipped((shard, 5, "empty text")) if number == 0 else None
        write(run, shard, number, table, aside, end=len(values) + (number == 0))
    run.finish({"documents": 10})
    return run


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    make_pool(tmp_path / "pool")
    return tmp_path / "pool"


@pytest.fixture
def run(tmp_path: Path, pool: Path) -> Run:
    return make_run(tmp_path / "run", pool)
