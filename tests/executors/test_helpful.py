import os

import pytest

from curate import executors, threads
from curate.executors.contract import Resources
from curate.executors.helpful import ROWS_PER_WORKER, SECONDS_PER_WORKER, helpful_workers


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "of_one_of_several", lambda: 1)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def helpful(**values) -> int:
    return helpful_workers(Resources(workers=None, **({"parameters": 1_000_000, "rows": 1e9} | values)))


@pytest.mark.usefixtures("eight_cores")
def test_a_small_proxy_takes_every_core_that_the_pool_is_worth() -> None:
    assert helpful() == 8
    assert helpful(rows=3.5 * ROWS_PER_WORKER) == 3
    assert helpful(rows=10) == 1
    assert helpful(rows=None, seconds=3.5 * SECONDS_PER_WORKER) == 3
    assert helpful(rows=None, seconds=1) == 1


@pytest.mark.usefixtures("eight_cores")
def test_a_large_proxy_keeps_its_threads() -> None:
    assert helpful(parameters=threads.LARGE) == 1


@pytest.mark.usefixtures("eight_cores")
def test_threads_that_the_user_gave_each_worker_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "of_one_of_several", lambda: 4)
    assert helpful() == 2


def test_there_is_one_worker_for_each_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert helpful(parameters=10**9) == 4
    assert helpful(device="cuda:1") == 1


@pytest.mark.usefixtures("eight_cores")
def test_auto_stays_in_this_process_where_more_do_not_help() -> None:
    choice = executors.choose(workers="auto", device="cpu")
    assert choice.make(parameters=10**6, rows=100).is_here
    assert choice.make(parameters=10**6, rows=10**6).described() == {"executor": "processes", "workers": 8}
