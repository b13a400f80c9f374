import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from curate.documents import Pool, open_pool
from curate.training.settings import Shape, WarmupSettings
from curate.training.warmup import Warmup, warmup

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "saw",
    "an",
    "old",
    "dog",
    "run",
    "home",
    "over",
    "green",
    "hills",
]
TINY = {"shape": Shape(vocab_size=300, layers=1, width=16, heads=2), "context": 16, "batch_tokens": 256}


def sentence(seed: int) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choices(WORDS, k=40)) + "."


@pytest.fixture
def write_pool(tmp_path: Path) -> Callable[[list[dict[str, object]]], Pool]:
    def write(rows: list[dict[str, object]]) -> Pool:
        path = tmp_path / "pool.jsonl"
        path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
        return open_pool(path)

    return write


@pytest.fixture
def pool(write_pool: Callable[[list[dict[str, object]]], Pool]) -> Pool:
    return write_pool([{"id": str(i), "text": sentence(i)} for i in range(60)])


@pytest.fixture(scope="session")
def tiny_proxy(tmp_path_factory: pytest.TempPathFactory) -> Warmup:
    """A proxy of 20 steps on 60 short texts, with two checkpoints; not to be written to."""
    folder = tmp_path_factory.mktemp("tiny")
    rows = [json.dumps({"id": str(i), "text": sentence(i)}) + "\n" for i in range(60)]
    (folder / "pool.jsonl").write_text("".join(rows), encoding="utf-8")
    settings = WarmupSettings(**TINY, steps=20, checkpoints=2)
    return warmup(open_pool(folder / "pool.jsonl"), folder / "proxy", settings=settings)
