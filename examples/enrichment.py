"""How pure is a selection? The share of the target's related documents in the top of several rankings.

    python examples/enrichment.py runs/tasks-trackstar runs/tasks-cosine \
        --column domain --related related.json [--target tasks.jsonl --pool pile/]

`related.json` maps each target group to the values of the column that are related to it:
{"gsm8k": ["math", "math_cot"], "legal": ["legal_en"]}. A run's `score_<group>` columns are ranked one by one (`score`
when there is a single group), beside a seeded random ranking and, with --target and --pool and the package bm25s, BM25
(lexical similarity to the group's rows, summed). Purity is a sanity check: what counts is the loss after training.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from curate.documents import Fields, documents, open_pool, read_target
from curate.schema import Document
from curate.scores.run import Run


def share_of_top(scores: np.ndarray, related: np.ndarray, top: float) -> float:
    """Return the share of related documents among the best; ties go to the earlier row."""
    count = max(1, round(top * len(scores)))
    return float(related[np.argsort(-scores, kind="stable")[:count]].mean())


def bm25_scores(target: str, pool: str, group_by: str | None) -> dict[str, dict[tuple[str, int], float]]:
    """Return each group's summed BM25 score of every document, by (shard, row)."""
    import bm25s

    fields = Fields()
    rows = read_target(target, fields, group_by=group_by)
    found: list[Document] = [d for s in open_pool(pool).shards for d in documents(s, fields) if isinstance(d, Document)]
    index = bm25s.BM25()
    index.index(bm25s.tokenize([d.plain_text for d in found], show_progress=False), show_progress=False)
    keys = [(d.shard, d.row) for d in found]
    scores = {}
    for group in rows.group_names:
        total = np.zeros(len(found))
        for document, own in zip(rows.documents, rows.groups, strict=True):
            if own == group:
                words = bm25s.tokenize(document.plain_text, show_progress=False, return_ids=False)[0]
                total += index.get_scores(words)
        scores[group] = dict(zip(keys, total.tolist(), strict=True))
    return scores


def lines(args: argparse.Namespace) -> Iterator[dict[str, str | float]]:
    related = json.loads(Path(args.related).read_text(encoding="utf-8"))
    lexical = bm25_scores(args.target, args.pool, args.group_by) if args.target and args.pool else {}
    needed = pl.col("shard", "row", args.column, r"^score(_.*)?$")  # lists per token and the rest stay on disk
    tables = {Path(r).name: Run.open(r).scores().select(needed).collect() for r in args.runs}
    first = next(iter(tables.values()))
    for group, values in related.items():
        wanted = first[args.column].is_in(values).to_numpy()
        line: dict[str, str | float] = {"target": group, "base rate": float(wanted.mean())}
        for name, table in tables.items():
            column = f"score_{group}" if f"score_{group}" in table.columns else "score"
            line[name] = share_of_top(table[column].to_numpy(), table[args.column].is_in(values).to_numpy(), args.top)
        line["random"] = share_of_top(np.random.default_rng(0).random(len(wanted)), wanted, args.top)
        if group in lexical:
            keys = zip(first["shard"].to_list(), first["row"].to_list(), strict=True)
            line["bm25"] = share_of_top(np.array([lexical[group][k] for k in keys]), wanted, args.top)
        yield line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--related", required=True)
    parser.add_argument("--column", default="source")
    parser.add_argument("--top", type=float, default=0.05)
    parser.add_argument("--target")
    parser.add_argument("--pool")
    parser.add_argument("--group-by")
    args = parser.parse_args()
    table = pl.DataFrame(list(lines(args)))
    with pl.Config(tbl_rows=-1, tbl_cols=-1, float_precision=3, tbl_width_chars=200):
        print(table)


if __name__ == "__main__":
    main()
