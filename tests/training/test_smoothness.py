import pytest
import torch

from curate.training.microbatches import MicroBatch
from curate.training.optimisers import Tensors
from curate.training.replay import Training
from curate.training.smoothness import smoothness
from tests.training.small_training import Regression, recipe

INPUTS = torch.randn(12, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
OUTPUTS = torch.randn(12, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Rough(Regression):
    """Gradients that tell only the parity of a fine grid, so that no small change has a lasting direction."""

    def gradients(
        self, parameters: Tensors, batch: MicroBatch, coefficients: torch.Tensor
    ) -> tuple[torch.Tensor, Tensors]:
        losses, gradients = super().gradients(parameters, batch, coefficients)
        return losses, {n: torch.sin(1e7 * (g + parameters[n])) for n, g in gradients.items()}


def run(kind: type[Regression]) -> Training:
    model = kind(INPUTS, OUTPUTS)
    chosen = recipe(optimiser="sgd", learning_rate=1e-3, steps=8)
    return Training(model, model.corpus(range(12)), chosen)


def test_least_squares_is_smooth() -> None:
    found = smoothness(run(Regression))
    assert found.agreement > 0.9
    assert 0 < found.movement < 1


def test_chaos_is_not_smooth() -> None:
    assert smoothness(run(Rough)).agreement < 0.2


def test_the_same_seed_measures_the_same_and_a_known_end_changes_nothing() -> None:
    training = run(Regression)
    found = smoothness(training, seed=1)
    assert smoothness(training, seed=1, end=training.run()) == found
    assert smoothness(training, seed=2) != found


def test_a_part_of_the_run_can_be_measured() -> None:
    training = run(Regression)
    middle = training.run(until=4)
    assert smoothness(training, start=middle, until=6).agreement == pytest.approx(1, abs=0.1)
