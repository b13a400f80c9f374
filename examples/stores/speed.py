"""How fast is a store scored, beside a plain read of the same bytes? On a store that is repeated to a size, with noise.

    python examples/stores/speed.py stores/pile --documents 100000 --out /tmp/large

Every repetition adds a twentieth of each sketch's size in noise, so that nothing is the same twice. Then, in turn and
in the same process: the memory-mapped sketches are copied into a buffer, by one thread and by as many as the scoring
uses; and scored against one query, and against several (a column per target group). The best of several rounds counts,
with every byte in the page cache after the first: reads from a disk are slower, and scoring hides behind them.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from curate.folders.folder import put_json
from curate.folders.local import open_folder
from curate.folders.parts import Span
from curate.proxies.proxy import keep_freed_memory
from curate.schema import SKIPPED_SCHEMA
from curate.scores.counts import count
from curate.stores.storage import Products
from curate.stores.store import Store
from curate.stores.streaming import TASK, stream, threads

NOISE = 0.05


def repeated(source: Store, documents: int, out: Path) -> Store:
    """Write a store of so many documents at `out`, or open the one that is there."""
    if (out / "finished.json").exists():
        return Store.open(out)
    record = source.record.json
    store = Store.start(
        out, settings=record["settings"], fingerprints=record["fingerprints"], details=record["details"]
    )
    shutil.copyfile(source.path / "background.json", out / "background.json")
    shutil.copytree(source.path / "curvature", out / "curvature", dirs_exist_ok=True)
    generator, number, done = torch.Generator().manual_seed(0), 0, 0
    while done < documents:
        for part in source.all_parts():
            values = source.storage.decode(source.codes(part))[: documents - done]
            noise = torch.randn(values.shape, generator=generator) / values.shape[1] ** 0.5
            codes = source.storage.encode(values + NOISE * values.norm(dim=1, keepdim=True) * noise)
            span = Span(shard=f"repeated-{number}", shard_index=number, index=0, start=0, end=len(codes), last=True)
            store.write_sketches(span.name, codes, source.texts(part)[: len(codes)])
            rows = pq.read_table(part.path).slice(0, len(codes))
            store.write_part(span, rows, SKIPPED_SCHEMA.empty_table())
            number, done = number + 1, done + len(codes)
            if done == documents:
                break
    shards = {p.shard: {"number": p.shard_index, "fingerprint": None} for p in store.all_parts()}
    put_json(open_folder(out), "shards.json", shards)
    store.finish(count(store))
    return Store.open(out)


def read_once(store: Store) -> None:
    """Copy every sketch into a buffer, as one thread reads a memory-mapped file."""
    buffer: np.ndarray | None = None
    for part in store.all_parts():
        codes = store.codes(part).codes
        for i in range(0, len(codes), TASK):
            block = codes[i : i + TASK]
            if buffer is None or buffer.shape != block.shape:
                buffer = np.empty_like(block)
            buffer[:] = block


def read_in_threads(store: Store) -> None:
    """Copy every sketch into buffers that a core's cache holds, by as many threads as the scoring uses."""

    def copy(codes: np.ndarray) -> None:
        rows = store.storage.rows
        buffer = torch.empty(rows, codes.shape[1], dtype=torch.from_numpy(codes[:1]).dtype)
        for i in range(0, len(codes), rows):
            block = torch.from_numpy(codes[i : i + rows])
            buffer[: len(block)].copy_(block)

    with threads() as pool:
        blocks = []
        for part in store.all_parts():
            codes = store.codes(part).codes
            blocks += [codes[i : i + TASK] for i in range(0, len(codes), TASK)]
        list(pool.map(copy, blocks))


def scored(store: Store, queries: int) -> Callable[[], None]:
    """Return a pass that scores every document against so many queries."""
    products = Products(store.storage, torch.randn(queries, store.storage.width))

    def run() -> None:
        for _ in stream(store, products):
            pass

    return run


def seconds(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", help="a folder of `curate index`")
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=6, help="of the pass with several")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", required=True, help="where the repeated store goes; it is taken if it is there")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    keep_freed_memory()  # as `curate score` does
    store = repeated(Store.open(args.store), args.documents, Path(args.out))
    passes: dict[str, Callable[[], None]] = {
        "read, one thread": lambda: read_once(store),
        f"read, {torch.get_num_threads()} threads": lambda: read_in_threads(store),
        "scored, one query": scored(store, 1),
        f"scored, {args.queries} queries": scored(store, args.queries),
    }
    best = dict.fromkeys(passes, float("inf"))
    for _ in range(args.rounds):
        for name, work in passes.items():
            best[name] = min(best[name], seconds(work))
    size = sum(store.codes(p).codes.nbytes for p in store.all_parts())
    plain, *_ = best.values()
    lines = [
        {"pass": name, "seconds": round(s, 4), "GB/s": round(size / s / 1e9, 2), "of a plain read": round(plain / s, 3)}
        for name, s in best.items()
    ]
    if args.json:
        print(json.dumps({"documents": len(store), "bytes": size, "passes": lines}, indent=2))
        return
    print(f"{len(store):,} documents, {size / 1e9:.2f} GB of {store.storage.dtype} sketches")
    for line in lines:
        print(f"{line['pass']:<20} {line['seconds']:>8} s {line['GB/s']:>7} GB/s {line['of a plain read']:>7} ×")


if __name__ == "__main__":
    main()
