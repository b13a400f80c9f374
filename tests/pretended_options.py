"""Runs of many options on one device, for `pretended_commands`: by name, each with folders of its own."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

MAGIC = {"method": "magic", "steps": 2, "batch_size": 4, "accept_rough": True}
TRAINING = {"steps": 2, "batch_size": 4, "learning_rate": 1e-3}
TEXT = "the sum of three and four"
SCORINGS: dict[str, dict[str, Any]] = {
    "tokens of groups": {"method": "ekfac", "per_token": True, "group_by": "task"},
    "tokens of tables": {"method": "dot", "per_token": True, "all_parameters": True, "normalize": "unit"},
    "tokens of windows": {"method": "dot", "per_token": True, "long": "windows", "context": 16},
    "tables": {"method": "ekfac", "all_parameters": True, "normalize": "unit"},
    "control set": {"method": "dot", "against": "val.jsonl", "target": "held out.jsonl"},
    "rows": {"method": "cosine", "group_by": "task", "aggregate": "max", "aggregate_rows": "max", "dim": 8},
    "astra": {"method": "ekfac", "refine": "astra", "rounds": 2, "group_by": "task"},
    "gradients of groups": {"method": "less", "group_by": "task"},
    "check": {"method": "dot", "check": 1, "pool": "pool"},
    "magic of tokens": MAGIC | {"check": 0, "per_token": True, "all_parameters": True, "runs": 2, "background": 24},
    "magic by snapshots": MAGIC | {"check": 0, "passes": "each", "curvature_share": 1, "clip": 0.01},
    "magic of adapters": MAGIC | {"check": 1, "rates": (1.0, 3.0), "lora_rank": 2, "checkpoints": "log"},
    "tokens in half": {"method": "dot", "per_token": True, "dtype": "bfloat16"},
    "sketches in half": {"method": "trackstar", "dtype": "bfloat16"},
    "double": {"method": "dot", "dtype": "float64"},
}
RECIPES: dict[str, dict[str, Any]] = {"sgd": {"optimiser": "sgd", "clip": 0.01}, "muon": {"optimiser": "muon"}}


def options(folder: Path) -> Mapping[str, Callable[[], object]]:
    """Return what is run, in this order: later ones go on from earlier ones' folders."""
    import curate
    from curate.scores.run import Run
    from curate.training.recipe import Recipe
    from tests.scoring import lines, make_rows, make_target

    make_target(folder / "held out.jsonl", 3, seed=7)
    (folder / "many.jsonl").write_bytes(lines(make_rows(80, 11)))
    model: dict[str, Any] = {"model": str(folder / "proxy"), "background": 16}
    common = model | {"target": str(folder / "val.jsonl"), "pool": str(folder / "pool")}
    few: dict[str, Any] = common | {"pool": str(folder / "pool" / "b.jsonl.gz")}
    many: dict[str, Any] = common | {"pool": str(folder / "many.jsonl")}
    recipe = Recipe(**TRAINING)  # type: ignore[arg-type]

    def out(name: str) -> Path:
        return folder / "options" / name

    def score(name: str, values: Mapping[str, Any]) -> Run:
        files = {n: str(folder / values[n]) for n in ("target", "against", "pool") if n in values}
        return curate.score(out=out(name), **(few | dict(values) | files))

    def store(name: str) -> Any:
        return curate.Store.open(out(name))

    def index(name: str, **values: Any) -> object:
        return curate.index(out=out(name), pool=common["pool"], **model, **values)

    def search() -> object:
        curate.make_search(store("int8"), "Flat")
        curate.neighbours(store("int8"))
        return [curate.query(store(name), [TEXT], k=2) for name in ("int8", "features")]

    def stored(name: str, method: str) -> Run:
        scores = out(f"{name} scored")
        return curate.score(out=scores, store=str(out(name)), method=method, target=common["target"])

    def rescore(name: str, **values: Any) -> Run:
        chosen = Recipe(**(TRAINING | RECIPES[name]))
        wanted: dict[str, Any] = {"runs": (str(out("check")),), "shortlist": 4, "recipe": chosen, "accept_rough": True}
        return curate.rescore(out=out(name), **wanted, **values)

    def merge() -> Run:
        parts = [out("a part"), out("other part")]
        for part, pool in zip(parts, ("c.jsonl.zst", "d.parquet"), strict=True):
            settings: dict[str, Any] = common | {"pool": str(folder / "pool" / pool)}
            curate.score(out=part, method="dot", fit_from=str(out("check")), **settings)
        return curate.merge(parts, out("merged"))

    def select(name: str, **values: Any) -> object:
        run = Run.open(out("tokens of groups"))
        return curate.select(run, top="50%", decontaminate=False, out=out(name), **values)

    judged: dict[str, Any] = {"documents": 6, "queries": 2, "subsets": 3, "drop": 0.25, "recipe": recipe, "magic": True}
    verified: dict[str, Any] = {
        "target": str(folder / "held out.jsonl"),
        "recipe": Recipe(batch_size=4),
        "other_documents": 4,
    }
    cascading: dict[str, Any] = {"method": "dot", "sample": 60, "top": 5, "keep": 10, "student": "embeddings"}
    return {name: partial(score, name, values) for name, values in SCORINGS.items()} | {
        "int8": partial(index, "int8", dim=8, storage="int8"),
        "features": partial(index, "features", method="less", dim=64),
        "search": search,
        "cosines of a store": partial(stored, "int8", "cosine"),
        "features of a store": partial(stored, "features", "less"),
        "rescore by sgd": partial(rescore, "sgd", repeats=2, check=1),
        "rescore by muon": partial(rescore, "muon", per_token=True, check=0),
        "teacher": lambda: curate.score(out=out("teacher"), method="loss", **many),
        "hidden states": lambda: curate.predict(teacher=str(out("teacher")), student="hidden", out=out("hidden")),
        "cascade": lambda: curate.cascade(out=out("cascade"), **many, **cascading).exact,
        "merge": merge,
        "select tokens": partial(select, "chosen", unit="token"),
        "select and map": partial(select, "mapped", map=True),
        "validate tokens": lambda: curate.validate(
            out=out("judged"), runs=(str(out("tokens of groups")),), unit="token", removals=1, **judged
        ),
        "verify tokens": lambda: curate.verify(
            selection=str(out("chosen")), out=out("verified"), seeds=1, baselines=(), **verified
        ),
        "workers": lambda: curate.score(out=out("workers"), method="ekfac", workers=2, **common),
    }
