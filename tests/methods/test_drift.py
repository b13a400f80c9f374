"""Drift against a training of transformers' own model, and its sign."""

from copy import deepcopy
from pathlib import Path

import torch

from curate.training.recipe import Recipe
from tests.methods.preparing import make_inputs, scores
from tests.small_models import encoded, model_loss, random_documents, tiny_model, tiny_proxy

POOL, TARGET = random_documents([12, 3, 9, 2], seed=1), random_documents([8, 11, 5], seed=2)


def test_drift_is_the_share_by_which_plain_training_on_the_target_lowers_a_loss(tmp_path: Path) -> None:
    proxy = tiny_proxy()
    plain = {"optimiser": "sgd", "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "warmup": 0.0}
    recipe = Recipe(**plain, steps=2, batch_size=3, learning_rate=0.01)  # type: ignore[arg-type]
    found = scores("drift", make_inputs(proxy, tmp_path, TARGET, []), POOL, recipe=recipe)
    model = deepcopy(proxy.model).requires_grad_(True)
    for _ in range(2):
        model.zero_grad()
        (sum(model_loss(model, t) for t in TARGET) / sum(t.num_scored for t in TARGET)).backward()  # type: ignore[union-attr]
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.01 * parameter.grad
    for i, document in enumerate(POOL):
        before, after = model_loss(proxy.model, document), model_loss(model, document)
        torch.testing.assert_close(found.scores[i, 0], ((before - after) / before).detach(), rtol=1e-7, atol=1e-10)


def test_a_copy_of_the_target_drifts_down_and_its_contrary_up(tmp_path: Path) -> None:
    proxy = tiny_proxy(tiny_model(vocab_size=2, bos_token_id=0, eos_token_id=1))  # what one gains, the other loses
    same, other = (encoded([0, 1, 1, 0, last], prompt=4) for last in (0, 1))
    found = scores("drift", make_inputs(proxy, tmp_path, [same], []), [same, other])
    assert found.scores[0, 0] > 0 > found.scores[1, 0]
