"""Every method and long command on pretended CUDA and MPS devices, each in a process of its own."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from curate import methods

COMMANDS = [
    *(f"score {name}" for name in methods.names()),
    *("dry run", "refinement", "tokens", "windows", "index", "query", "store"),
    *("rescore", "validate", "select", "verify"),
]
# Batches of the longest: the pool's four shards, the target and the background go through the model in eleven or fewer.
WAITS_PER_BATCH, BATCHES = 8, 11


@cache
def reports(kind: str, *options: str) -> dict[str, dict[str, Any]]:
    """Run commands on a device of this kind, once."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.pretended_commands", kind, str(Path(folder) / "project"), *options]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return {report["name"]: report for report in map(json.loads, lines)}


@pytest.mark.parametrize("kind", ["cuda", "mps"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_runs_with_every_tensor_where_and_as_wide_as_it_may_be(kind: str, name: str) -> None:
    assert reports(kind)[name]["error"] == ""


@pytest.mark.parametrize("name", ["score dot", "score trackstar", "score loss", "score embedding", "score ekfac"])
def test_the_host_seldom_waits_for_a_batch(name: str) -> None:
    inside = ("gradients/", "methods/embedding", "curvature/softmax", "proxies/")
    waits = {place: n for place, n in reports("cuda")[name]["waits"] if place.startswith(inside)}
    waits = {place: n for place, n in waits.items() if "proxies/proxy.py" not in place}  # its fingerprint and checks
    assert sum(waits.values()) <= WAITS_PER_BATCH * BATCHES, waits


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_batches_are_as_large_as_the_memory_allows(kind: str) -> None:
    capacity = 1_500_000
    report = reports(kind, "--capacity", str(capacity), "--only", "score ekfac")["score ekfac"]
    assert report["error"] == ""
    assert report["peak"] <= capacity
