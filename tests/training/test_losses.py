import pytest
import torch

from curate.training.adjoint import target_loss
from curate.training.losses import mean_losses
from curate.training.replay import Training
from tests.training.small_training import corpus, training


def test_the_mean_of_documents_mean_losses_is_the_targets_loss() -> None:
    run = training()
    parameters = run.start().parameters
    found = mean_losses(run.model, parameters, corpus())  # type: ignore[arg-type]
    assert float(found.mean()) == pytest.approx(target_loss(run.model, parameters, corpus())[0], rel=1e-12)
    assert found.shape == (7,)


def test_a_training_takes_the_batches_that_it_is_given() -> None:
    usual = training()
    given = Training(usual.model, usual.corpus, usual.recipe, batches=[(0, 1), (2,), (3, 4, 5)])
    assert given.steps == 3
    assert given.run().step == 3
    assert given.fingerprint() != usual.fingerprint()
    same = Training(usual.model, usual.corpus, usual.recipe, batches=usual.batches)
    ours, theirs = same.run().parameters, usual.run().parameters
    assert all(torch.equal(ours[n], theirs[n]) for n in theirs)
