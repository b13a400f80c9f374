"""A device whose memory is out costs time, never a run; and what a batch held is no setting of a run."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaModel

import curate
from curate.errors import CurateError
from curate.progress import Silent, Task
from curate.scores.run import Run
from curate.training import units
from curate.training.recipe import Recipe
from tests.scoring import make_project

MOST_TOKENS = 150
RECIPE = Recipe(steps=2, batch_size=8)


class Heard(Silent):
    def __init__(self) -> None:
        self.stages: list[str] = []
        self.notes: list[str] = []

    def stage(self, name: str, **options: Any) -> AbstractContextManager[Task]:
        self.stages.append(name)
        return super().stage(name, **options)

    def note(self, message: str) -> None:
        if "ran out" in message:
            self.notes.append(message)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path, 8, 4)


@pytest.fixture
def small_device(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let no model take more than so many tokens at once; half of its layers run before memory is out."""

    def make_small(most_tokens: int) -> None:
        forward = LlamaModel.forward

        def limited(self: LlamaModel, input_ids: torch.Tensor | None = None, **options: Any) -> Any:
            output = forward(self, input_ids=input_ids, **options)
            if input_ids is not None and input_ids.numel() > most_tokens:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
            return output

        monkeypatch.setattr(LlamaModel, "forward", limited)

    return make_small


def settings(project: Path, **others: Any) -> dict[str, Any]:
    given = {"target": str(project / "val.jsonl"), "pool": str(project / "pool"), "model": str(project / "proxy")}
    return given | {"background": 16, "device": "cpu"} | others


METHODS: dict[str, dict[str, Any]] = {
    "dot": {},
    "loss": {},
    "trackstar": {"dim": 4},
    "ekfac": {"refine": "cg", "rounds": 2},
    "shampoo": {},
    "embedding": {},
    "magic": {"steps": 2, "batch_size": 8, "runs": 1, "accept_rough": True},
}


SLOW = {"dot", "trackstar", "ekfac", "shampoo", "magic"}


@pytest.mark.parametrize("method", [pytest.param(m, marks=pytest.mark.slow if m in SLOW else ()) for m in METHODS])
def test_batches_are_halved_where_memory_is_out_and_the_scores_stay(
    project: Path, small_device: Callable[[int], None], method: str
) -> None:
    options = settings(project, method=method, **METHODS[method])
    expected = curate.score(out=project / "large", **options).scores().collect()
    small_device(MOST_TOKENS)
    heard = Heard()
    scores = curate.score(out=project / "small", reporter=heard, **options).scores().collect()
    ours, theirs = (frame["score"].to_numpy() for frame in (scores, expected))
    assert np.allclose(ours, theirs, rtol=2e-3, atol=2e-3 * np.abs(theirs).max())
    assert len(heard.notes) == 1
    assert "--batch-tokens" in heard.notes[0]


@pytest.mark.slow
def test_a_rescoring_and_an_index_go_on_with_smaller_batches(
    project: Path, small_device: Callable[[int], None]
) -> None:
    run = curate.score(out=project / "run", **settings(project, method="dot"))
    rescore = {"runs": (str(run.path),), "shortlist": 8, "recipe": RECIPE, "repeats": 1, "accept_rough": True}
    pool_alone = {k: v for k, v in settings(project).items() if k != "target"}
    expected = curate.rescore(out=project / "large", **rescore).scores().collect()
    large = curate.index(out=project / "store", dim=4, **pool_alone).rows().collect()
    small_device(MOST_TOKENS)
    rescored, indexed = Heard(), Heard()
    scores = curate.rescore(out=project / "small", reporter=rescored, **rescore).scores().collect()
    small = curate.index(out=project / "small store", dim=4, reporter=indexed, **pool_alone).rows().collect()
    assert np.allclose(scores["score"], expected["score"], rtol=2e-3, atol=1e-6)
    assert np.allclose(small["grad_norm"], large["grad_norm"], rtol=1e-4)
    assert (len(rescored.notes), len(indexed.notes)) == (1, 1)


@pytest.mark.filterwarnings("ignore:.* set aside")
def test_a_warm_up_begins_anew_with_fewer_windows_at_once(project: Path, small_device: Callable[[int], None]) -> None:
    options = {"steps": 3, "context": 32, "width": 32, "layers": 1, "heads": 2, "vocab_size": 300, "device": "cpu"}
    options |= {"pool": str(project / "pool"), "batch_tokens": 256}
    expected = curate.warmup(out=project / "large", **options)
    small_device(MOST_TOKENS)
    heard = Heard()
    warmed = curate.warmup(out=project / "small", reporter=heard, **options)
    assert warmed.held_out_loss_after == pytest.approx(expected.held_out_loss_after, rel=1e-4)
    assert sum("memory ran out" in note for note in heard.notes) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* set aside")
def test_a_warm_up_begins_anew_with_fewer_documents_at_once(
    project: Path, small_device: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "AT_ONCE_TOKENS", 100_000)
    options = {"pool": str(project / "pool"), "model": str(project / "proxy"), "unit": "documents", "device": "cpu"}
    options |= {"steps": 3, "batch_documents": 8, "learning_rate": 1e-3}
    expected = curate.warmup(out=project / "large", **options)
    small_device(MOST_TOKENS)
    heard = Heard()
    warmed = curate.warmup(out=project / "small", reporter=heard, **options)
    assert warmed.held_out_loss_after == pytest.approx(expected.held_out_loss_after, rel=1e-4)
    assert heard.notes[-1].endswith("of a batch's 8 documents at a time.")


def test_one_sequence_too_long_for_the_device_is_an_error_that_says_so(
    project: Path, small_device: Callable[[int], None]
) -> None:
    small_device(60)
    with pytest.raises(CurateError, match=r"One sequence of .* does not fit into the memory of cpu") as error:
        curate.score(out=project / "run", **settings(project, method="dot"))
    assert "--context" in str(error.value.hint)


def test_a_run_goes_on_with_another_batch_size_and_fits_nothing_again(project: Path) -> None:
    options = settings(project, method="ekfac")
    run = curate.score(out=project / "run", batch_tokens=300, **options)
    expected = run.scores().collect()
    for part in run.all_parts()[2:]:
        part.path.unlink()
    (run.path / "log.jsonl").unlink()
    heard = Heard()
    again = curate.score(out=project / "run", batch_tokens=900, reporter=heard, **options)
    assert not {"factors", "eigenvalues", "eigenvectors", "target"} & set(heard.stages)
    assert np.allclose(again.scores().collect()["score"], expected["score"], rtol=1e-4)
    assert len(Run.open(project / "run").all_parts()) == len(run.all_parts())
