"""Processes end without a trace."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
from curate.executors.children import started


def work(order, pipe):
    from tqdm import tqdm

    pipe.send(list(tqdm(range(order), disable=False, file=open("bar", "w"))))


if __name__ == "__main__":
    with started(work, [3]) as children:
        print(children[0].receive())
"""


@pytest.mark.slow
def test_a_worker_that_draws_a_bar_leaves_no_lock_behind(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("[0, 1, 2]\n", "")
