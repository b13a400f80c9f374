"""Run every method and long command on a pretended device and print a line of JSON for each; see `pretended`.

python -m tests.pretended_commands KIND FOLDER [--capacity BYTES] [--only NAME]
"""

import argparse
import json
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests import pretended

FEW = {"magic": {"steps": 3, "batch_size": 8, "runs": 1}}
RECIPE = {"steps": 3, "batch_size": 8, "learning_rate": 1e-3}


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
    recipe = Recipe(**RECIPE)  # type: ignore[arg-type]

    def score(method: str) -> Callable[[], object]:
        return lambda: curate.score(out=folder / method, method=method, **common, **FEW.get(method, {}))

    def query() -> object:
        return curate.query(curate.Store.open(folder / "store"), ["the sum of three and four"], k=2)

    runs = (str(folder / "trackstar"),)
    return {f"score {method}": score(method) for method in methods.names()} | {
        "dry run": lambda: curate.plan_score(method="trackstar", **common),
        "refinement": lambda: curate.score(out=folder / "refined", method="ekfac", refine="cg", rounds=2, **common),
        "tokens": lambda: curate.score(out=folder / "tokens", method="dot", per_token=True, **common),
        "windows": lambda: curate.score(
            out=folder / "windows", method="dot", long="windows", context=16, normalize="unit", **common
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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--capacity", type=int, default=80 << 30)
    parser.add_argument("--only")
    arguments = parser.parse_args()
    machine = pretended.start(arguments.kind, capacity=arguments.capacity)
    from tests.scoring import make_project

    arguments.folder.mkdir(exist_ok=True)
    for name, work in commands(make_project(arguments.folder, 8, 4)).items():
        if arguments.only in (None, name):
            machine.waits.clear()
            machine.peak = machine.live
            report = {"name": name, "error": _error(work), "waits": machine.waits.most_common(60)}
            print(json.dumps(report | {"peak": machine.peak}), flush=True)


def _error(work: Callable[[], object]) -> str:
    try:
        work()
    except Exception:
        return traceback.format_exc()
    return ""


if __name__ == "__main__":
    main()
