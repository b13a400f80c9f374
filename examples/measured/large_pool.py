"""How start-up, memory and queries grow with a pool of very many short documents in very many shards.

    python examples/measured/large_pool.py --documents 1000000 --shards 10000 --folder /tmp/large

Writes a pool, trains a tokenizer on it, scores it by `length` (score's whole data path with almost no computation), and
asks the finished run: `curate sql`, `curate select`, `curate status`. Prints seconds, and the memory that is resident
in the first and the last tenth of the scoring and while the trust report is made (Linux; the report holds 40 million
numbers at most); what one shard takes is what does not grow. `--kill-at 0.5`
kills the scoring when half of the documents are scored, and then times the one that goes on.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
from transformers import LlamaConfig, LlamaForCausalLM

from curate.training.tokenizer import train_tokenizer

WORDS = ("the", "court", "shall", "hold", "ship", "rode", "grey", "swell", "add", "three", "and", "four", "to", "get")


def make_inputs(folder: Path, documents: int, shards: int) -> None:
    """Write a proxy, a target and a pool of equal shards; what is there already stays."""
    if (folder / "pool").exists():
        return
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(5, 15))) for _ in range(5_000)]
    tokenizer = train_tokenizer(iter(texts[:500]), vocab_size=300, context=64)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(folder / "proxy")
    tokenizer.save_pretrained(folder / "proxy")
    (folder / "val.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:8]))
    making = folder / "pool.part"
    for shard in range(shards):
        path = making / f"{shard // 1000:03d}" / f"{shard:06d}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        numbers = range(shard * documents // shards, (shard + 1) * documents // shards)
        path.write_text("".join(f'{{"id": {i}, "text": "{rng.choice(texts)} {i}"}}\n' for i in numbers))
    making.rename(folder / "pool")


def score(folder: Path, pool: Path, out: Path, *, documents: int = 0, kill_at: float | None = None) -> dict[str, Any]:
    """Score in a process of its own, and watch its files and its memory."""
    command = [sys.executable, "-m", "curate", "score", "--method", "length", "--out", str(out), "--device", "cpu"]
    command += [
        "--pool",
        str(pool),
        "--workers",
        "1",
        "--target",
        str(folder / "val.jsonl"),
        "--model",
        str(folder / "proxy"),
    ]
    before = done_rows(out)
    begun, first_part, resident, at_the_end = time.time(), None, [], []
    with (folder / "score.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        while process.poll() is None:
            time.sleep(0.2)
            if first_part is None and newest(out) > begun:
                first_part = time.time() - begun
            if first_part is not None and (mib := resident_mib(process.pid)):
                (at_the_end if (out / "finished.json").exists() else resident).append(mib)
            if kill_at is not None and len(resident) % 10 == 9 and done_rows(out) >= kill_at * documents:
                process.send_signal(signal.SIGKILL)
    if process.returncode and kill_at is None:
        raise SystemExit((folder / "score.log").read_text())
    tenth = max(1, len(resident) // 10)
    return {
        "documents_before": before,
        "seconds_to_first_part": round(first_part or time.time() - begun, 1),
        "seconds": round(time.time() - begun, 1),
        "mib_first_tenth": max(resident[:tenth], default=0),
        "mib_last_tenth": max(resident[-tenth:], default=0),
        "mib_of_report": max(at_the_end, default=0),
    }


def resident_mib(process: int) -> int:
    """Return the resident memory of a process; 0 once it has ended."""
    pages = Path(f"/proc/{process}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE") >> 20


def newest(run: Path) -> float:
    """Return when the folder of scores last changed."""
    scores = run / "scores"
    return scores.stat().st_mtime if scores.exists() else 0.0


def done_rows(run: Path) -> int:
    files = list((run / "scores").glob("*.parquet"))
    try:
        return pl.scan_parquet(files, glob=False).select(pl.len()).collect().item() if files else 0
    except (OSError, pl.exceptions.PolarsError):  # merged meanwhile
        return 0


def timed(*arguments: str) -> float:
    """Return the seconds that a command takes, its own start included."""
    begun = time.time()
    subprocess.run([sys.executable, "-m", "curate", *arguments], check=True, capture_output=True)
    return round(time.time() - begun, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=1_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--kill-at", type=float)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    make_inputs(options.folder, options.documents, options.shards)
    run = str(options.folder / "run")
    report: dict[str, Any] = {"documents": options.documents, "shards": options.shards}
    one = next((options.folder / "pool").rglob("*.jsonl"))
    report["score_of_one_shard"] = score(options.folder, one, options.folder / f"one-{time.time():.0f}")
    if options.kill_at is not None:
        report["killed"] = score(
            options.folder, options.folder / "pool", Path(run), documents=options.documents, kill_at=options.kill_at
        )
    report["score"] = score(options.folder, options.folder / "pool", Path(run), documents=options.documents)
    report["files"] = sum(len(names) for _, _, names in os.walk(run))
    report["seconds_help"] = timed("--help")
    report["seconds_sql"] = timed("sql", run, "SELECT count(*), avg(score), max(n_tokens) FROM scores")
    report["seconds_select_dry"] = timed("select", run, "--top", "1%", "--dry-run")
    report["seconds_select"] = timed("select", run, "--top", "1%", "--out", str(options.folder / f"s{time.time():.0f}"))
    report["seconds_status"] = timed("status", run)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
