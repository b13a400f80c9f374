"""What does a cascade cost, and what does its selection lose? Beside scoring all, BM25 and random documents.

    python examples/measured/cascades.py --target tasks.jsonl --pool 'pool/*' --model proxy --method magic \
        --heldout gsm8k=gsm8k_heldout.jsonl --heldout legal=legal_heldout.jsonl --sample 1500 --recall 90% --out out

Scores the pool by --method and by BM25, and a sample of it once for all cascades; then, for every group of --heldout,
`curate cascade --group` takes over that sample. Each command is a process of its own, whose processor and wall seconds
are kept. The best 5 % of the pool's tokens of each are trained on as in methods.py. Prints what every run costs (a
cascade's with its sample), which share of the full run's best 5 % it kept beside what it expected, and the losses. What
is finished is kept under --out: the same command goes on.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import polars as pl
from methods import Choice, Outcome, outcome, table
from rich.console import Console
from rich.table import Table

import curate

Costs = dict[str, float]


def timed(out: Path, name: str, *arguments: str) -> Costs:
    """Run a command into OUT/NAME, or read what it took: seconds of processor and wall, and its largest process."""
    kept = out / "costs" / f"{name}.json"
    if not kept.exists():
        command = [sys.executable, "-m", "curate", *arguments, "--workers", "1", "--out", str(out / name)]
        begun = time.time()
        process = subprocess.Popen(command, stdout=sys.stderr)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
        costs = {"user": usage.ru_utime, "system": usage.ru_stime, "wall": time.time() - begun, "kib": usage.ru_maxrss}
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(costs), encoding="utf-8")
    return json.loads(kept.read_text(encoding="utf-8"))


def cascade(args: argparse.Namespace, group: str, teacher: Costs) -> Costs:
    """Run a group's cascade on the sample that is scored; return what it costs with that."""
    out = Path(args.out)
    name = f"{args.method}-cascade-{group}"
    copy = out / name / "teacher"
    if not copy.exists():
        shutil.copytree(out / f"{args.method}-sample", copy)
    chosen = ("--sample", args.sample, "--top", args.share, "--recall", args.recall, "--group", group)
    chosen += ("--student", args.student)
    costs = timed(out, name, "cascade", *args.scoring, *chosen)
    return {n: max(teacher[n], v) if n == "kib" else teacher[n] + v for n, v in costs.items()}


def recall(full: Path, narrowed: Path, group: str, share: float) -> float:
    """Return which share of a run's best another one has scored."""
    scores = curate.Run.open(full).scores().select("shard", "row", f"score_{group}").collect()
    best = scores.sort(f"score_{group}", descending=True).head(round(share * len(scores)))
    kept = curate.Run.open(narrowed).scores().select("shard", "row").collect()
    return len(best.join(kept, on=["shard", "row"])) / len(best)


def cost_table(args: argparse.Namespace, costs: dict[str, Costs], groups: Sequence[str]) -> Table:
    out = Path(args.out)
    full, whole, share = out / args.method, costs[args.method], float(args.share.rstrip("%")) / 100
    result = Table(
        "run", "documents", "cpu, s", "of full", "wall, s", "of full", "MiB", f"kept of best {args.share}", "expected"
    )
    for name, cost in costs.items():
        documents = curate.Run.open(out / name).scores().select(pl.len()).collect().item()
        cpu, of_whole = (c["user"] + c["system"] for c in (cost, whole))
        row = [name, f"{documents:,}", f"{cpu:.0f}", f"{cpu / of_whole:.2f}", f"{cost['wall']:.0f}"]
        row += [f"{cost['wall'] / whole['wall']:.2f}", f"{cost['kib'] / 1024:.0f}"]
        for group in groups:
            if name.endswith(f"-cascade-{group}"):
                told = json.loads((out / name / "cascade.json").read_text(encoding="utf-8"))["expected"]["kept"]
                row += [f"{recall(full, out / name, group, share):.2f}", f"{told[f'score_{group}']['recall']:.2f}"]
        result.add_row(*row)
    return result


def losses(args: argparse.Namespace, heldout: dict[str, str]) -> Table:
    """Train on what every run chose for every group."""
    out, outcomes = Path(args.out), list[Outcome]()
    for group, rows in heldout.items():
        runs = {args.method: args.method, "cascade": f"{args.method}-cascade-{group}", "bm25": "bm25"}
        for method, run in runs.items():
            of = outcome(Choice(out / run, group, args.share, "score"), rows, args)
            outcomes.append(Outcome(group, args.share, method, of.losses, of.random, of.untrained))
    return table(outcomes, "nats per token on held-out rows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True)
    parser.add_argument("--group-by", default="task")
    parser.add_argument("--pool", required=True)
    parser.add_argument("--model", required=True, help="that scores, and that is trained")
    parser.add_argument("--method", default="magic")
    parser.add_argument("--sample", default="1500")
    parser.add_argument("--share", default="5%", help="of the pool that is wanted")
    parser.add_argument("--recall", default="90%")
    parser.add_argument("--student", default="words")
    parser.add_argument("--heldout", action="append", required=True, metavar="GROUP=FILE")
    parser.add_argument("--tokens", default="200k", help="that every training takes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--other-documents", type=int, default=256, help="of the pool, that no arm trains on")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--out", default="cascades")
    args = parser.parse_args()
    heldout = dict(pair.split("=", 1) for pair in args.heldout)
    data = ("--target", args.target, "--group-by", args.group_by, "--pool", args.pool, "--model", args.model)
    args.scoring = (*data, "--method", args.method)
    out = Path(args.out)
    costs = {args.method: timed(out, args.method, "score", *args.scoring)}
    costs["bm25"] = timed(out, "bm25", "score", *data, "--method", "bm25")
    teacher = timed(out, f"{args.method}-sample", "score", *args.scoring, "--sample", args.sample)
    costs[f"{args.method}-sample"] = teacher
    for group in heldout:
        costs[f"{args.method}-cascade-{group}"] = cascade(args, group, teacher)
    args.runs = [out / args.method]
    console = Console(width=160)
    console.print(cost_table(args, costs, list(heldout)))
    console.print(losses(args, heldout))


if __name__ == "__main__":
    main()
