from typing import Any

import pytest
import torch

from curate.training import blocks, swept_head
from curate.training.blocks import BlockedHead, WholeLogits, output_of
from tests.small_models import ARCHITECTURES, tiny_model
from tests.training.test_language import whole_batch

pytestmark = pytest.mark.usefixtures("float64_throughout")


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_blocks_of_logits_have_the_losses_and_gradients_of_whole_ones(
    architecture: str, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swept_head, "TOKENS", 5)
    monkeypatch.setattr(swept_head, "ROWS", 30)
    monkeypatch.setattr(blocks, "ROWS", 3)
    model = tiny_model(architecture, tie_word_embeddings=tied)
    parameters = dict(model.named_parameters())
    cut = output_of(model, list(parameters))
    assert isinstance(cut, BlockedHead)
    batch, weights = whole_batch()
    labels, weights = batch.batch.labels.flatten(), weights.flatten()
    (ours, by_ours), (theirs, by_theirs) = (
        _derivatives(output, parameters, batch.batch.ids, labels, weights) for output in (cut, WholeLogits(model))
    )
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(by_ours, by_theirs)
    torch.testing.assert_close(
        cut.losses(parameters, cut.last(parameters, batch.batch.ids).flatten(0, 1), labels), ours
    )


def _derivatives(output: Any, parameters: Any, ids: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> Any:
    last = output.last(parameters, ids)
    losses, pull, by_head = output.derivatives(parameters, last.detach().flatten(0, 1), labels, weights)
    summed = torch.autograd.grad(last, list(parameters.values()), pull.view_as(last), allow_unused=True)
    gradients = {
        n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(parameters.items(), summed, strict=True)
    }
    return losses, {n: g + by_head.get(n, 0) for n, g in gradients.items()}


def test_no_more_logits_are_held_than_a_block_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swept_head, "TOKENS", 5)
    model = tiny_model()
    parameters = dict(model.named_parameters())
    cut = output_of(model, list(parameters))
    batch, weights = whole_batch()
    seen: list[int] = []

    class Watched(swept_head._Block):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            seen.append(len(self.labels))

    monkeypatch.setattr(swept_head, "_Block", Watched)
    _derivatives(cut, parameters, batch.batch.ids, batch.batch.labels.flatten(), weights.flatten())
    assert len(seen) == -(-int(batch.scored.sum()) // 5)
    assert set(seen) == {64}  # five, and copies of the last up to a multiple of 64


def test_a_head_that_does_more_than_its_configuration_says_is_taken_whole() -> None:
    model = tiny_model("CohereConfig")
    model.logit_scale = 0.7  # type: ignore[assignment]
    assert isinstance(output_of(model, []), WholeLogits)
