"""Does MAGIC predict retraining, and does a run on other documents predict it nearly as well? One bank, many answers.

    curate warmup --pool pile/ --vocab-size 1024 --layers 3 --width 64 --heads 2 --context 64 --documents 8000 \\
        --steps 1500 --out proxy
    python examples/magic/study.py proxy pile/ --out study

A warm-started model is fine-tuned on real documents that its warm-up has not seen, then again without a random share
of them, many times. For every query, the rank correlation of the summed scores of what was left out with the change of
the query's loss (lds.py). Scored by MAGIC in the run itself, by adjoints of runs on entirely other documents, and by
the other methods. Everything is kept in --out, so that a study that was stopped goes on, and one command repeats it;
STUDY.md has the figures and what follows from them.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import adjoints
import bank
import curvature
import numpy as np
import peers
from laboratory import Laboratory, Setup
from lds import Lds, bootstrap, lds, rank_correlations
from variants import COVERED, OWN, SETS, averages, base_of, title

from curate.errors import CurateError
from curate.folders.folder import put_text
from curate.folders.local import open_folder
from curate.proxies.proxy import keep_freed_memory

PARTS = ("own", "runs", "peers", "curvature", "recipes", "sizes", "more-runs", "orders")
LESS = "less the base"
Scores = dict[str, np.ndarray]


def measure(lab: Laboratory, part: str) -> Iterator[Scores]:
    """Yield a part's scores `[queries, documents]` by name, as they are found."""
    if part == "own":
        found = adjoints.in_run(lab, OWN)
        yield {"MAGIC, its own run": found["scores"]} | _named("own run", found)
    elif part == "peers":
        yield peers.peer_scores(lab)
    elif part == "curvature":
        yield from curvature.inverse_scores(lab)
    for background in SETS.get(part, []):
        if background.part + background.share <= lab.setup.background_runs:
            yield _named(background.name, adjoints.elsewhere(lab, background))


def _named(name: str, found: Scores) -> Scores:
    """Name a run's scores by step: by all parameters, and by the linear layers alone."""
    scores: Scores = {}
    for key in found:
        if key.startswith("step "):
            step = int(key.removeprefix("step "))
            for covered, values in zip(COVERED, (found[key][0], found[key].sum(0)), strict=True):
                scores[title(name, step, covered)] = values
    return scores


def report(scores: Scores, banks: dict[str, bank.Bank], base: str) -> list[dict[str, Any]]:
    """Return every method's figures: its LDS by bank, and how far it is from that of `base`, on its own queries."""
    rows: list[dict[str, Any]] = []
    for name, values in scores.items():
        row: dict[str, Any] = {"scores": name, "queries": len(values)}
        for kind, truth in banks.items():
            changes = truth.changes[:, : len(values)]
            row[kind] = _figures(lds(values, truth.out, changes))
            if base in scores:
                row[kind][LESS] = _less(values, scores[base][: len(values)], truth.out, changes)
        rows.append(row)
    return rows


def _figures(found: Lds) -> dict[str, Any]:
    values = {"mean": found.mean, "error": found.error, "low": found.low, "high": found.high}
    return {k: round(v, 4) for k, v in values.items()}


def _less(values: np.ndarray, base: np.ndarray, out: np.ndarray, changes: np.ndarray) -> list[float]:
    """Return the 95 % interval of one method's LDS less another's, both in the same bootstrap draws."""
    drawn = bootstrap(out @ values.T, changes) - bootstrap(out @ base.T, changes)
    return [round(float(q), 4) for q in np.quantile(drawn, [0.025, 0.975])]


def show(lab: Laboratory, rows: list[dict[str, Any]], banks: dict[str, bank.Bank], base: str) -> None:
    """Write results.json and print the table."""
    rate = lab.recipe.learning_rate
    smooth = {p.stem: float(np.load(p)["smoothness"]) for p in sorted((lab.folder / "adjoints").glob("*.npz"))}
    changes = {name: round(float(b.changes.std()), 6) for name, b in banks.items()}
    record: dict[str, Any] = {
        "learning_rate": rate,
        "smoothness": smooth,
        "spread of the changes": changes,
        "base": base,
        "rows": rows,
    }
    ceilings = {name: round(ceiling(banks, name), 4) for name in list(banks)[1:]}
    record["ceilings"] = ceilings
    put_text(open_folder(lab.folder), "results.json", json.dumps(record, indent=1) + "\n")
    print(f"\nlearning rate {rate:g}; smoothness {', '.join(f'{n} {s:.2f}' for n, s in smooth.items())}")
    print(f"LDS ± standard error over queries [95 % bootstrap] (95 % bootstrap of the difference from {base})")
    print(" " * 76 + "".join(f"{name:<46}" for name in banks))
    for row in rows:
        line = "".join(f"{_cell(row[name]):<46}" for name in banks)
        print(f"{row['scores']:<72}{row['queries']:>3} {line}")
    for name, value in ceilings.items():
        print(f"{name}: the same retrainings' true changes in one order would reach {value:.3f}")
    sys.stdout.flush()


def ceiling(banks: dict[str, bank.Bank], name: str) -> float:
    """Return the LDS in another bank of whoever knew the first one's changes exactly: what the order's noise leaves."""
    first = next(iter(banks.values()))
    return float(rank_correlations(first.changes, banks[name].changes).mean())


def _cell(figures: dict[str, Any]) -> str:
    text = f"{figures['mean']:.3f} ± {figures['error']:.3f} [{figures['low']:.2f} {figures['high']:.2f}]"
    return text + (f" ({figures[LESS][0]:+.3f} {figures[LESS][1]:+.3f})" if LESS in figures else "")


def run(lab: Laboratory, arguments: argparse.Namespace) -> None:
    """Make the parts that were asked for, in order, and show the table after each."""
    banks = {"same order": bank.same_order(lab, arguments.retrainings)}
    scores: Scores = {}
    base = arguments.base or base_of(lab.setup.steps)
    for part in (p for p in PARTS if p in arguments.parts):
        if part == "orders":
            banks["orders of their own"] = bank.own_orders(lab, arguments.retrainings, arguments.whole_runs)
        for made in measure(lab, part):
            scores |= made
        averaged = averages(scores, lab.setup.steps)
        show(lab, report(scores | averaged, banks, base), banks, base)
    if arguments.base and arguments.base not in scores | averages(scores, lab.setup.steps):
        raise CurateError(f"There are no scores {base!r} to compare with.", hint="Take a name from the table above.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("pools", nargs="+", metavar="pool")
    parser.add_argument("--out", type=Path, required=True, help="folder that keeps what was computed")
    for setting in fields(Setup)[2:]:
        parser.add_argument(f"--{setting.name.replace('_', '-')}", type=type(setting.default), default=setting.default)
    parser.add_argument("--retrainings", type=int, default=60)
    parser.add_argument("--whole-runs", type=int, default=8, help="on all documents, in orders of their own")
    parser.add_argument("--micro", type=int, default=4096, help="tokens of a micro-batch")
    parser.add_argument(
        "--parts", type=lambda text: text.split(","), default=list(PARTS), help="some of " + ",".join(PARTS)
    )
    parser.add_argument("--base", help="name of the scores that others are compared with; the default's of magic")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"there is no part {unknown.pop()!r}; expected some of {', '.join(PARTS)}")
    keep_freed_memory()
    setup = {f.name: getattr(arguments, f.name) for f in fields(Setup)}
    try:
        lab = Laboratory(Setup(**setup | {"pools": tuple(arguments.pools)}), arguments.out, micro=arguments.micro)
        run(lab, arguments)
    except CurateError as error:
        parser.error(f"{error.message} {error.hint or ''}")


if __name__ == "__main__":
    main()
