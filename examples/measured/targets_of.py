"""Make targets of a pool's own domains: rows to score by, and rows held out, from shards that are not scored.

    python examples/measured/targets_of.py --pool 'pool/pool-0000[4-9]*' --more tasks.jsonl --out targets \
        medical=medical,medical_abstract fiction=books,drama dialogue=dialogue

Draws --rows documents of each target's domains to score by, and as many others held out, the domains in turns, none
for two targets. Writes tasks.jsonl, a line per row with its target as `task` (--more: after another such file's), and
NAME_heldout.jsonl.
"""

import argparse
import json
import random
from itertools import zip_longest
from pathlib import Path

from curate.documents import documents, open_pool
from curate.fields import Fields
from curate.schema import Document


def texts_of(pool: str, domains: set[str], seed: int) -> dict[str, list[str]]:
    """Return the texts of each domain, in an order drawn."""
    texts = {domain: list[str]() for domain in sorted(domains)}
    for shard in open_pool([pool]).shards:
        for row in documents(shard, Fields()):
            if isinstance(row, Document) and row.metadata.get("domain") in texts:
                texts[row.metadata["domain"]].append(row.plain_text)
    for domain, of_domain in texts.items():
        random.Random(f"{seed}/{domain}").shuffle(of_domain)
    return texts


def lines(texts: list[str], **more: str) -> str:
    return "".join(json.dumps({"text": text} | more, ensure_ascii=False) + "\n" for text in texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="+", metavar="NAME=DOMAIN,…")
    parser.add_argument("--pool", required=True)
    parser.add_argument("--more", type=Path, help="targets that are there already, one line per row with its `task`")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    domains = {name: of.split(",") for name, of in (target.split("=", 1) for target in args.targets)}
    texts = texts_of(args.pool, {domain for of in domains.values() for domain in of}, args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "tasks.jsonl").open("w", encoding="utf-8") as tasks:
        if args.more:
            tasks.write(args.more.read_text(encoding="utf-8"))
        for name, of in domains.items():
            in_turns = [t for turn in zip_longest(*(texts[domain] for domain in of)) for t in turn if t is not None]
            if len(in_turns) < 2 * args.rows:
                raise SystemExit(f"{name}: {len(in_turns)} documents; expected {2 * args.rows}. Give fewer --rows.")
            taken = set(in_turns[: 2 * args.rows])
            texts |= {domain: [t for t in texts[domain] if t not in taken] for domain in of}
            tasks.write(lines(in_turns[: args.rows], task=name))
            heldout = lines(in_turns[args.rows : 2 * args.rows])
            (args.out / f"{name}_heldout.jsonl").write_text(heldout, encoding="utf-8")


if __name__ == "__main__":
    main()
