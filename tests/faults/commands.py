"""The long commands, on one tiny project; each writes into `out/` alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tests.scoring import lines, make_project, make_rows

OUT = "out"
ROWS = 20
"""Rows of every shard; the first shard has `ODD_ROWS` more, which are set aside or hold one word."""
ODD_ROWS = 4

_INPUTS = ("--target", "val.jsonl", "--pool", "pool", "--model", "proxy", "--device", "cpu", "--batch-tokens", "512")
_SMALL = ("--part-documents", "8", "--background", "24")
_RECIPE = ("--set", "batch_size=8", "--set", "learning_rate=3e-3")


@dataclass(frozen=True, kw_only=True)
class Command:
    """Jobs that run side by side and write one result."""

    name: str
    jobs: Sequence[Sequence[str]]
    workers: str | None = None
    """What its workers are, if it has any: processes or actors."""
    needs_runs: bool = False
    """Whether it works on what `PREPARING` makes."""
    missing: str | None = None
    """A package that it needs and that is not installed."""


def score(*options: str, method: str) -> list[str]:
    return ["score", *_INPUTS, *_SMALL, "--method", method, "--out", f"{OUT}/run", *options]


_EKFAC = score("--group-by", "task", method="ekfac")
_STORE = ["index", *_INPUTS[2:], *_SMALL, "--dim", "4", "--out", f"{OUT}/store"]
_MAGIC = [*_RECIPE, "--set", "steps=4", "--accept-rough"]
_VALIDATE = [
    *("validate", "runs/dot", "--banks", f"{OUT}/banks", "--out", f"{OUT}/figures", "--documents", "24"),
    *("--queries", "3", "--subsets", "8", "--drop", "10%", "--removals", "2", *_RECIPE),
]

COMMANDS = {
    command.name: command
    for command in (
        Command(name="score", jobs=[score(method="dot")]),
        Command(name="score-magic", jobs=[score(*_MAGIC, method="magic")]),
        Command(name="score-array", jobs=[[*_EKFAC, "--part", f"{n}/2"] for n in (1, 2)]),
        Command(
            name="score-processes",
            jobs=[score("--workers", "2", "--dim", "4", method="trackstar")],
            workers="processes",
        ),
        Command(
            name="score-ray",
            jobs=[score("--executor", "ray", "--workers", "2", method="dot")],
            workers="actors",
            missing=None if find_spec("ray") else "ray",
        ),
        Command(name="index", jobs=[_STORE]),
        Command(
            name="select",
            needs_runs=True,
            jobs=[["select", "runs/dot", "--top", "50%", "--overwrite", "--out", f"{OUT}/selected"]],
        ),
        Command(
            name="select-processes",
            needs_runs=True,
            jobs=[["select", "runs/dot", "--top", "50%", "--workers", "2", "--overwrite", "--out", f"{OUT}/selected"]],
            workers="processes",
        ),
        Command(
            name="merge",
            needs_runs=True,
            jobs=[["merge", "runs/first", "runs/second", "--out", f"{OUT}/merged"]],
        ),
        Command(
            name="predict-processes",
            needs_runs=True,
            jobs=[["predict", "runs/dot", "--workers", "2", "--out", f"{OUT}/predicted"]],
            workers="processes",
        ),
        Command(
            name="warmup",
            jobs=[
                [
                    *("warmup", "--pool", "pool", "--device", "cpu", "--vocab-size", "300", "--layers", "1", "--width"),
                    *("16", "--heads", "2", "--context", "32", "--steps", "8", "--batch-tokens", "256"),
                    *("--out", f"{OUT}/proxy"),
                ]
            ],
        ),
        Command(
            name="verify",
            needs_runs=True,
            jobs=[
                [
                    *("verify", "selected", "--target", "heldout.jsonl", "--out", f"{OUT}/verified", "--seeds", "1"),
                    *("--other-documents", "16", "--points", "2", "--all-times", "2", *_RECIPE),
                ]
            ],
        ),
        Command(
            name="validate",
            needs_runs=True,
            jobs=[_VALIDATE],
        ),
        Command(
            name="validate-processes",
            needs_runs=True,
            jobs=[[*_VALIDATE, "--device", "cpu", "--device", "cpu"]],
            workers="processes",
        ),
        Command(
            name="rescore",
            needs_runs=True,
            jobs=[["rescore", "runs/dot", "--shortlist", "12", *_RECIPE, "--accept-rough", "--out", f"{OUT}/rescored"]],
        ),
    )
}

PREPARING = (
    ["score", *_INPUTS, "--method", "dot", "--out", "runs/dot"],
    ["score", *_INPUTS, "--method", "bm25", "--out", "runs/bm25"],
    ["select", "runs/dot", "--top", "30%", "--out", "selected"],
    ["score", "--fit-from", "runs/dot", "--pool", "pool/[ab]*", "--out", "runs/first"],
    ["score", "--fit-from", "runs/dot", "--pool", "pool/[cd]*", "--out", "runs/second"],
)
"""What gives the commands of finished runs something to work on."""


def make_inputs(folder: Path) -> None:
    make_project(folder, ROWS)
    (folder / "heldout.jsonl").write_bytes(lines(make_rows(10, 7)))
