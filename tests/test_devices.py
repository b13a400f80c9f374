"""Every method, long command and many options on pretended CUDA and MPS devices, each kind in a process of its own.

One test reads one process whole: tests of their own would each run it again in every process that tests share.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curate import methods
from tests.pretended_commands import SMALL
from tests.pretended_options import SCORINGS

COMMANDS = [
    "small card",
    *(f"score {name}" for name in methods.names()),
    *("dry run", "refinement", "tokens", "windows", "index", "query", "store"),
    *("rescore", "validate", "select", "verify"),
]
SCORED = [
    *(name for name in SCORINGS if name != "double"),
    *("int8", "features", "cosines of a store", "features of a store", "rescore by sgd", "rescore by muon"),
    *("teacher", "hidden states", "cascade", "merge", "workers"),
]
OPTIONS = [*SCORED, "search", "select tokens", "select and map", "validate tokens", "verify tokens"]
# Batches of the longest: the pool's four shards, the target and the background go through the model in eleven or fewer.
WAITS_PER_BATCH, BATCHES = 8, 11
# By run, how often the host may wait at any one place of its loops: a little more than they have batches or rounds, and
# less than these times the model's layers.
MOST_WAITS = {"tables": 12, "astra": 16, "magic of tokens": 50, "magic by snapshots": 50, "magic of adapters": 50}
# Of the largest score: of sums in another order; of products in TF32; of everything in bfloat16.
ROUNDING, TF32_ROUNDING, HALF_ROUNDING = 2e-3, 2e-2, 5e-2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_every_command_runs_with_tensors_where_and_as_wide_as_they_may_be_and_seldom_waits(
    kind: str, tmp_path: Path
) -> None:
    reports = _reports(kind, tmp_path / "project", COMMANDS)
    assert {name: reports[name]["error"] for name in COMMANDS} == dict.fromkeys(COMMANDS, "")
    # Batches are as large as the memory allows.
    assert reports["small card"]["peak"] <= SMALL < reports["score ekfac"]["peak"]
    if kind == "cuda":
        for name in ("score dot", "score trackstar", "score loss", "score embedding", "score ekfac"):
            waits = _waits(reports[name])
            assert sum(waits.values()) <= WAITS_PER_BATCH * BATCHES, (name, waits)
            assert reports[name]["pins"]  # a batch's tokens go over while the host goes on


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_options_give_the_scores_of_a_cpu_on_a_device_that_is_not_waited_for_layer_by_layer(
    kind: str, tmp_path: Path
) -> None:
    reports = _reports(kind, tmp_path / kind, [*OPTIONS, "double"])
    assert {name: reports[name]["error"] for name in OPTIONS} == dict.fromkeys(OPTIONS, "")
    refusal = "dtype is 'float64'; MPS has no floats wider than float32." if kind == "mps" else ""
    assert refusal in reports["double"]["error"]
    assert bool(refusal) == bool(reports["double"]["error"])
    usual = TF32_ROUNDING if kind == "cuda" else ROUNDING
    for name, report in _reports("cpu", tmp_path / "cpu", SCORED).items():
        rounding = HALF_ROUNDING if SCORINGS.get(name, {}).get("dtype") == "bfloat16" else usual
        for column, expected in report["scores"].items():
            values, scores = (np.array(v, float) for v in (expected, reports[name]["scores"][column]))
            np.testing.assert_allclose(
                scores,
                values,
                rtol=0,
                atol=rounding * np.nanmax(np.abs(values), initial=0),
                err_msg=f"{name}: {column}",
            )
    for name, most in MOST_WAITS.items() if kind == "cuda" else ():  # MPS has no float64: its totals lie on the host
        loops = {place: n for place, n in reports[name]["waits"] if _in_a_loop(place)}
        assert max(loops.values()) <= most, (name, loops)


def _reports(kind: str, project: Path, names: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.pretended_commands", kind, str(project), *names]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return {report["name"]: report for report in map(json.loads, lines)}


def _waits(report: dict[str, Any]) -> dict[str, int]:
    """Return how often the host waited for the device in the passes of a run, by place."""
    inside = ("gradients/", "methods/embedding", "curvature/softmax", "proxies/")
    waits = {place: n for place, n in report["waits"] if place.startswith(inside)}
    return {place: n for place, n in waits.items() if "proxies/proxy.py" not in place}  # its fingerprint and checks


def _in_a_loop(place: str) -> bool:
    """Say whether a wait is in a pass or a step, and not for a file, or a model's parameters, before or after it."""
    elsewhere = ("training/checkpoints.py", "training/snapshots.py", "training/language.py")
    return place.startswith(("gradients/", "training/", "curvature/refine")) and not place.startswith(elsewhere)
