"""Run every method and long command on a pretended device and print a line of JSON for each; see `pretended`.

python -m tests.pretended_commands KIND FOLDER [NAME …]

Of KIND cpu nothing is pretended. NAMEs: the commands to run, in their order; all where none is given.

But `warmup`: transformers' Trainer moves a model by torch's own means, to a device that this build of torch has not.
"""

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from tests import pretended
from tests.pretended_options import options

if __name__ == "__mp_main__" and sys.argv[1] != "cpu":  # a process that a command starts
    pretended.start(sys.argv[1])

FEW = {"magic": {"steps": 2, "batch_size": 4, "runs": 1, "accept_rough": True}}
RECIPE = {"steps": 2, "batch_size": 4, "learning_rate": 1e-3}
# Bytes of a card that does not hold the largest batches.
SMALL = 1_500_000


def commands(folder: Path) -> Mapping[str, Callable[[], object]]:
    """Return what is run, by name and in this order: later ones go on from earlier ones' folders."""
    import curate
    from curate import methods
    from curate.progress import Silent
    from curate.scores.run import Run
    from curate.training.recipe import Recipe
    from tests.scoring import make_target

    common: dict[str, Any] = {"target": str(folder / "val.jsonl"), "pool": str(folder / "pool"), "background": 16}
    common |= {"model": str(folder / "proxy")}
    few = common | {"pool": str(folder / "pool" / "b.jsonl.gz")}
    recipe = Recipe(**RECIPE)  # type: ignore[arg-type]

    def score(method: str) -> Callable[[], object]:
        pool = few if method == "magic" else common
        return lambda: curate.score(out=folder / method, method=method, **pool, **FEW.get(method, {}))

    def query() -> object:
        return curate.query(curate.Store.open(folder / "store"), ["the sum of three and four"], k=2)

    runs = (str(folder / "trackstar"),)
    small = {"small card": lambda: curate.score(out=folder / "small", method="ekfac", **common)}
    return (
        small
        | {f"score {method}": score(method) for method in methods.names()}
        | {
            "dry run": lambda: curate.plan_score(method="trackstar", **common),
            "refinement": lambda: curate.score(out=folder / "refined", method="ekfac", refine="cg", rounds=2, **few),
            "tokens": lambda: curate.score(out=folder / "tokens", method="dot", per_token=True, **common),
            "windows": lambda: curate.score(
                out=folder / "windows", method="dot", long="windows", context=16, normalize="unit", **few
            ),
            "index": lambda: curate.index(
                out=folder / "store", **{k: v for k, v in common.items() if k != "target"}, dim=8
            ),
            "query": query,
            "store": lambda: curate.score(out=folder / "stored", store=str(folder / "store"), target=common["target"]),
            "rescore": lambda: curate.rescore(
                out=folder / "rescored", runs=runs, shortlist=8, recipe=recipe, repeats=1, reporter=Silent()
            ),
            "validate": lambda: curate.validate(
                out=folder / "validated", runs=runs, documents=12, queries=2, subsets=3, drop=0.25, recipe=recipe
            ),
            "select": lambda: curate.select(Run.open(runs[0]), top="50%", decontaminate=False, out=folder / "selected"),
            "verify": lambda: curate.verify(
                selection=str(folder / "selected"),
                target=str(make_target(folder / "held out.jsonl", 3, seed=7)),
                out=folder / "verified",
                recipe=Recipe(batch_size=8),
                seeds=2,
                other_documents=4,
            ),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind")
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    machine = pretended.machine if arguments.kind == "cpu" else pretended.start(arguments.kind)
    whole = machine.capacity
    from tests.scoring import leave_checkpoint, make_project, make_proxy_folder

    arguments.folder.mkdir(exist_ok=True)
    project = make_project(arguments.folder, 8, 4)
    make_proxy_folder(project / "proxy", layers=1)  # every kind of layer once; pretending takes its time by operation
    leave_checkpoint(project / "proxy")
    for name, work in (commands(project) | options(project)).items():
        if arguments.names and name not in arguments.names:
            continue
        machine.capacity = SMALL if name == "small card" else whole
        machine.waits.clear()
        machine.peak, machine.pins = machine.live, 0
        scores, error = _outcome(work)
        report = {"name": name, "error": error, "scores": scores, "waits": machine.waits.most_common(60)}
        print(json.dumps(report | {"peak": machine.peak, "pins": machine.pins}), flush=True)


def _outcome(work: Callable[[], object]) -> tuple[dict[str, list[float | None]], str]:
    """Return the scores of the run that something makes, by column, and the error that it ends with."""
    from curate.scores.run import Run

    try:
        run = work()
        return (_scores(run.path) if isinstance(run, Run) else {}), ""
    except Exception:
        return {}, traceback.format_exc()


def _scores(run: Path) -> dict[str, list[float | None]]:
    table = pl.concat([pl.read_parquet(file) for file in sorted((run / "scores").rglob("*.parquet"))]).sort("doc_id")
    columns = [name for name in table.columns if name.startswith(("score", "token_scores")) or name == "loss"]
    return {name: table[name].explode().to_list() for name in columns}


if __name__ == "__main__":
    main()
