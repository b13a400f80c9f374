"""Small models compute with one thread, large ones with all; whoever says how many is obeyed."""

import subprocess
import sys

import pytest

COUNT = """
import torch
torch.set_num_threads(3)
from curate import threads
counts = []
threads.choose(threads.LARGE - 1); counts.append(torch.get_num_threads())
threads.choose(threads.LARGE); counts.append(torch.get_num_threads())
threads.be_one_of_several(); counts.append(torch.get_num_threads())
threads.choose(threads.LARGE); counts.append(torch.get_num_threads())
print(*counts, threads.all_threads())
"""


@pytest.mark.parametrize(
    ("given", "counts"), [("", "1 3 1 1 1"), pytest.param("2", "3 3 3 3 3", marks=pytest.mark.slow)]
)
def test_threads_suit_the_model_unless_the_user_says_how_many(
    monkeypatch: pytest.MonkeyPatch, given: str, counts: str
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == counts.split()
