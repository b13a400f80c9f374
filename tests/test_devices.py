"""Every method and long command on pretended CUDA and MPS devices, each kind in a process of its own.

One test reads one process whole: tests of their own would each run it again in every process that tests share.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from curate import methods
from tests.pretended_commands import SMALL

COMMANDS = [
    "small card",
    *(f"score {name}" for name in methods.names()),
    *("dry run", "refinement", "tokens", "windows", "index", "query", "store"),
    *("rescore", "validate", "select", "verify"),
]
# Batches of the longest: the pool's four shards, the target and the background go through the model in eleven or fewer.
WAITS_PER_BATCH, BATCHES = 8, 11


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_every_command_runs_with_tensors_where_and_as_wide_as_they_may_be_and_seldom_waits(
    kind: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tests.pretended_commands", kind, str(tmp_path / "project")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    reports = {report["name"]: report for report in map(json.loads, lines)}
    assert {name: reports[name]["error"] for name in COMMANDS} == dict.fromkeys(COMMANDS, "")
    # Batches are as large as the memory allows.
    assert reports["small card"]["peak"] <= SMALL < reports["score ekfac"]["peak"]
    if kind == "cuda":
        for name in ("score dot", "score trackstar", "score loss", "score embedding", "score ekfac"):
            waits = _waits(reports[name])
            assert sum(waits.values()) <= WAITS_PER_BATCH * BATCHES, (name, waits)
            assert reports[name]["pins"]  # a batch's tokens go over while the host goes on


def _waits(report: dict[str, Any]) -> dict[str, int]:
    """Return how often the host waited for the device in the passes of a run, by place."""
    inside = ("gradients/", "methods/embedding", "curvature/softmax", "proxies/")
    waits = {place: n for place, n in report["waits"] if place.startswith(inside)}
    return {place: n for place, n in waits.items() if "proxies/proxy.py" not in place}  # its fingerprint and checks
