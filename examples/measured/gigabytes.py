"""What reading a large pool takes: a student predicts gigabytes of text, made of real documents.

    python examples/measured/gigabytes.py runs/teacher --pool 'pool/*' --size 10 --workers 2 --folder /tmp/gigabytes

Writes --size gigabytes (10⁹ bytes) of jsonl in shards of --shard megabytes under --folder/pool: each document is the
beginning of a real one and the end of another, cut at words, so that no two are alike. `curate predict` reads them, in
a process of its own. Prints bytes, documents and files, processor and wall seconds from the start to the end, and the
largest memory of every process, in the first and the last tenth of the time and at its peak (Linux). Beside it, what
decoding the same lines takes on one core. A pool that is there is taken; a prediction that was stopped goes on.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl

import curate
from curate.documents import documents, open_pool
from curate.fields import Fields
from curate.schema import Document

MEGABYTE, GIGABYTE = 10**6, 10**9


def read_texts(pool: str) -> list[tuple[str, str]]:
    """Return a pool's texts and domains, as they stand between quotes in JSON."""
    rows = (d for shard in open_pool([pool]).shards for d in documents(shard, Fields()))
    found = ((d.plain_text, str(d.metadata.get("domain"))) for d in rows if isinstance(d, Document))
    return [(json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(domain)) for text, domain in found]


def lines(texts: Sequence[tuple[str, str]], shard: int) -> Iterator[bytes]:
    """Yield lines of a shard's new documents without end."""
    rng = random.Random(shard)
    for number in count():
        (begin, domain), (end, _) = rng.choice(texts), rng.choice(texts)
        cut, rest = (text.find(" ", int(rng.random() * len(text))) for text in (begin, end))
        text = f"{begin[:cut] if cut >= 0 else begin} {end[rest + 1 :]}"  # no escape holds a space
        yield f'{{"id": "{shard}-{number}", "text": "{text}", "domain": {domain}}}\n'.encode()


def make_pool(args: argparse.Namespace) -> Path:
    """Write shards of lines; those that are there stay as they are."""
    folder, texts = Path(args.folder) / "pool", list[tuple[str, str]]()
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(round(args.size * GIGABYTE / (args.shard * MEGABYTE))):
        path = folder / f"{shard:05d}.jsonl"
        if not path.exists():
            texts = texts or read_texts(args.pool)
            part, size = path.with_suffix(".part"), 0
            with part.open("wb") as file:
                for line in lines(texts, shard):
                    size += file.write(line)
                    if size >= args.shard * MEGABYTE:
                        break
            part.rename(path)
    return folder


def resident(process: int) -> Iterator[tuple[int, int]]:
    """Yield a process and those below it, each with its resident MiB."""
    try:
        below = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="utf-8").split()
        pages = Path(f"/proc/{process}/statm").read_text(encoding="utf-8").split()[1]
    except OSError:  # it has ended
        return
    yield process, int(pages) * os.sysconf("SC_PAGE_SIZE") >> 20
    for child in below:
        yield from resident(int(child))


def predict(args: argparse.Namespace, pool: Path, out: Path) -> dict[str, Any]:
    """Predict the pool in a process of its own; return seconds, and every process's memory over time."""
    command = [sys.executable, "-m", "curate", "predict", args.teacher, "--pool", str(pool), "--out", str(out)]
    command += ["--student", args.student, "--workers", str(args.workers)]
    begun, memory = time.time(), dict[int, list[int]]()
    process = subprocess.Popen(command, stdout=sys.stderr)
    while True:
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        if ended:
            break
        for number, mib in resident(process.pid):
            memory.setdefault(number, []).append(mib)
        time.sleep(1)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    lasting = [mib for mib in memory.values() if len(mib) >= 20]
    return {
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime),
        "wall_seconds": round(time.time() - begun),
        "mib_first_last_peak": [[max(m[: len(m) // 10]), max(m[-(len(m) // 10) :]), max(m)] for m in lasting],
    }


def decoding(path: Path) -> float:
    """Return the bytes a second at which one core decodes a shard's lines, and no more."""
    begun = time.process_time()
    with path.open("rb") as file:
        for line in file:
            json.loads(line)
    return path.stat().st_size / (time.process_time() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", help="a finished run of real documents")
    parser.add_argument("--pool", required=True, help="of the real documents")
    parser.add_argument("--size", type=float, default=10.0, help="gigabytes")
    parser.add_argument("--shard", type=float, default=100.0, help="megabytes of one shard")
    parser.add_argument("--student", default="words")
    parser.add_argument("--workers", default="2")
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args()
    pool, out = make_pool(args), args.folder / "predicted"
    shards = sorted(pool.glob("*.jsonl"))
    report: dict[str, Any] = {"bytes": sum(s.stat().st_size for s in shards), "shards": len(shards)}
    report |= predict(args, pool, out)
    files = [f for f in out.rglob("*") if f.is_file()]
    rows = curate.Run.open(out).scores().select(pl.len()).collect().item()
    report |= {"documents": rows, "files": len(files), "bytes_of_files": sum(f.stat().st_size for f in files)}
    report["megabytes_per_cpu_second"] = round(report["bytes"] / report["cpu_seconds"] / MEGABYTE, 1)
    report["megabytes_per_second"] = round(report["bytes"] / report["wall_seconds"] / MEGABYTE, 1)
    report["decoding_megabytes_per_cpu_second"] = round(decoding(shards[0]) / MEGABYTE, 1)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
