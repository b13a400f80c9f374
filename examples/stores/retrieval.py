"""Does a ranking find the statements that a fact was learnt from? MRR and recall of known facts, for several runs.

    python examples/stores/retrieval.py sample facts_queries.jsonl.gz --count 300 --balance relation --out queries.jsonl
    curate warmup --pool statements.jsonl --vocab-size 4096 --width 128 --heads 4 --context 128 --documents 4800 \
        --batch-tokens 2048 --tokens 5000000 --out begun
    for i in $(seq 9); do shuf statements.jsonl; done > shuffled.jsonl
    curate warmup --model begun --pool shuffled.jsonl --documents 43200 --context 128 --batch-tokens 1024 --lr 2e-3 \
        --tokens 350000 --out facts-model
    curate score --target queries.jsonl --group-by id --pool statements.jsonl --model facts-model \
        --method trackstar --dim 32 --background 4800 --out runs/trackstar
    python examples/stores/retrieval.py measure runs/trackstar runs/bm25 --queries queries.jsonl [--by relation]

A warm-up sees the same windows in every epoch, and learns which statement follows which; the second one, on statements
in other orders, teaches the facts. Stop it early: what a model knows by heart leaves no gradient in its statements.

A row of the queries holds `id`, `prompt`, `completion` (so that the loss is on the completion alone) and `gold`: the
`doc_id`s of the statements that state the fact. `--group-by id` makes every query a target of its own, and so a column
of scores. MRR is the mean of 1 / rank of the first gold statement; recall@10 the share of the gold ones among the best
ten; both with their standard error over queries. Ties go to the wrong statement.
"""

import argparse
import gzip
import json
import random
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from curate.schema import group_column
from curate.scores.run import Run

Row = dict[str, Any]


def read(path: str) -> list[Row]:
    with gzip.open(path, "rt", encoding="utf-8") if path.endswith(".gz") else open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def sample(rows: list[Row], count: int, balance: str | None, seed: int) -> Iterator[Row]:
    """Draw queries, in turn from each value of the column `balance`: any first part of them is balanced, too."""
    values: dict[Any, list[Row]] = {}
    for row in random.Random(seed).sample(rows, len(rows)):
        values.setdefault(row[balance] if balance else None, []).append(row)
    turns = zip_longest(*(values[v] for v in sorted(values, key=str)))
    # A query's other columns of text would be taken for the row's text.
    kept = ["id", "prompt", "completion", "gold", *([balance] if balance else [])]
    yield from [{k: row[k] for k in kept} for turn in turns for row in turn if row is not None][:count]


def found(scores: np.ndarray, gold: np.ndarray, top: int) -> tuple[float, float]:
    """Return 1 / rank of the first gold document, and the share of the gold ones among the best `top`."""
    best = gold[np.lexsort((gold, -scores))]
    return 1 / (1 + int(best.argmax())), float(best[:top].sum() / gold.sum())


def measure(run: str, queries: list[Row], top: int) -> tuple[list[float], list[float]]:
    """Return both figures of every query in the order of `queries`."""
    table = Run.open(run).scores().select("doc_id", r"^score_.*$").collect()
    reciprocals, recalls = [], []
    for query in queries:
        gold = table["doc_id"].is_in(query["gold"]).to_numpy()
        if gold.sum() != len(query["gold"]):
            raise SystemExit(f"{run}: {query['id']} has {len(query['gold'])} gold documents, the run {gold.sum()}")
        column = table[group_column(str(query["id"]))]
        one, other = found(column.to_numpy(), gold, top)
        reciprocals.append(one)
        recalls.append(other)
    return reciprocals, recalls


def figure(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.3f}"


def lines(args: argparse.Namespace) -> Iterator[dict[str, str | int]]:
    queries = read(args.queries)[: args.first]
    for run in args.runs:
        reciprocals, recalls = measure(run, queries, args.top)
        line = {"run": Path(run).name, "queries": len(queries)}
        line |= {"MRR": figure(reciprocals), f"recall@{args.top}": figure(recalls)}
        for value in sorted({str(q[args.by]) for q in queries}) if args.by else []:
            own = [i for i, query in enumerate(queries) if str(query[args.by]) == value]
            line[f"MRR, {value}"] = figure([reciprocals[i] for i in own])
        yield line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    draw = commands.add_parser("sample", help="draw queries into a target file")
    draw.add_argument("queries")
    draw.add_argument("--count", type=int, default=300)
    draw.add_argument("--balance", help="column whose values get equally many queries")
    draw.add_argument("--seed", type=int, default=0)
    draw.add_argument("--out", required=True)
    judge = commands.add_parser("measure", help="MRR and recall of runs")
    judge.add_argument("runs", nargs="+")
    judge.add_argument("--queries", required=True)
    judge.add_argument("--first", type=int, help="judge by so many queries from the top of the file")
    judge.add_argument("--top", type=int, default=10)
    judge.add_argument("--by", help="column of the queries: MRR for each of its values, too")
    args = parser.parse_args()
    if args.command == "sample":
        rows = sample(read(args.queries), args.count, args.balance, args.seed)
        Path(args.out).write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
        return
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=200, fmt_str_lengths=60, tbl_hide_column_data_types=True):
        print(pl.DataFrame(list(lines(args))))


if __name__ == "__main__":
    main()
