"""A tiny proxy, pool and target on disk, for tests of the whole road."""

import atexit
import gzip
import json
import random
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import zstandard
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from curate.score_settings import ScoreSettings
from curate.training.tokenizer import train_tokenizer

TOPICS = {
    "sums": ["add", "three", "and", "four", "to", "get", "seven", "then", "double", "the", "sum"],
    "law": ["the", "court", "shall", "hold", "that", "a", "party", "may", "not", "waive", "notice"],
    "sea": ["the", "ship", "rode", "a", "grey", "swell", "while", "gulls", "cried", "over", "sails"],
}


def sentence(topic: str, words: int, rng: random.Random) -> str:
    return " ".join(rng.choice(TOPICS[topic]) for _ in range(words))


def make_proxy_folder(folder: Path, *, seed: int = 0, layers: int = 2) -> Path:
    """Save a small random Llama and a small real tokenizer."""
    rng = random.Random(0)
    tokenizer = train_tokenizer((sentence(t, 30, rng) for t in TOPICS for _ in range(40)), vocab_size=300, context=64)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def leave_checkpoint(proxy: Path) -> None:
    """Take one step of AdamW on a proxy's model and keep it as a warm-up does."""
    from curate.training.moments import write_moments

    model = AutoModelForCausalLM.from_pretrained(proxy)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ids = torch.arange(16)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    folder = proxy / "checkpoints" / "step-1"
    model.save_pretrained(folder)
    write_moments(folder, model, optimizer, step=1, learning_rate=1e-3, mean_learning_rate=1e-3)


def make_rows(count: int, seed: int) -> list[dict]:
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        topic = rng.choice(sorted(TOPICS))
        rows.append({"id": f"{seed}-{i}", "text": sentence(topic, rng.randint(4, 80), rng), "source": topic})
    return rows


def lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(r) + "\n" for r in rows).encode()


def make_pool(folder: Path, rows_per_shard: int) -> Path:
    """Write one shard of each kind, with odd rows in the first."""
    folder.mkdir()
    torn = b'{"id": "torn", "text": \n'
    odd = torn + b'{"id": "number", "text": 7}\n{"id": "empty", "text": " "}\n{"id": "one", "text": "a"}\n'
    (folder / "a.jsonl").write_bytes(lines(make_rows(rows_per_shard, 1)) + odd)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines(make_rows(rows_per_shard, 2))))
    (folder / "c.jsonl.zst").write_bytes(zstandard.compress(lines(make_rows(rows_per_shard, 3))))
    pq.write_table(pa.Table.from_pylist(make_rows(rows_per_shard, 4)), folder / "d.parquet")
    return folder


def make_target(path: Path, count: int = 12, *, seed: int = 99) -> Path:
    rng = random.Random(seed)
    path.write_bytes(lines([{"text": sentence("sums", 40, rng), "task": "ab"[i % 3 == 0]} for i in range(count)]))
    return path


def make_project(folder: Path, rows_per_shard: int, target_rows: int = 12) -> Path:
    """Fill a folder with the small project of most tests: proxy/, pool/ of four shards, val.jsonl of two groups."""
    shutil.copytree(_proxy_made_once(), folder / "proxy")
    make_pool(folder / "pool", rows_per_shard)
    make_target(folder / "val.jsonl", target_rows)
    return folder


@cache
def _proxy_made_once() -> Path:
    folder = Path(mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return make_proxy_folder(folder / "proxy")


def small_settings(place: Path, **changes: Any) -> ScoreSettings:
    """Settings of a scoring of a project in a folder, in small parts."""
    given: dict[str, Any] = {
        "target": (str(place / "val.jsonl"),),
        "pool": (str(place / "pool"),),
        "model": str(place / "proxy"),
        "background": 32,
        "part_documents": 16,
        "device": "cpu",
    }
    return ScoreSettings(**(given | changes))
