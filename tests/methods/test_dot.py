from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from curate.proxies.tables import with_tables
from tests.methods.preparing import loss_after_a_step, make_inputs, scores
from tests.small_models import random_documents, tiny_model, tiny_proxy


@pytest.mark.parametrize("architecture", ["LlamaConfig", "GPT2Config", "GptOssConfig"])
def test_unprojected_scores_are_the_rates_at_which_the_targets_loss_falls(architecture: str, tmp_path: Path) -> None:
    proxy = tiny_proxy(tiny_model(architecture))
    target, pool = random_documents([9, 6], seed=1), random_documents([7, 12, 4, 9], seed=2)
    found = scores("dot", make_inputs(proxy, tmp_path, target, []), pool).scores[:, 0]
    rate = 1e-6
    for score, document in zip(found.tolist(), pool, strict=True):
        ahead, behind = (loss_after_a_step(proxy, [document], target, sign * rate) for sign in (1, -1))
        assert (behind - ahead) / (2 * rate) == pytest.approx(score, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_with_all_parameters_embedding_and_head_take_the_step_too(tied: bool, tmp_path: Path) -> None:
    proxy = tiny_proxy(tiny_model("LlamaConfig", tie_word_embeddings=tied))
    target, pool = random_documents([9, 6], seed=1), random_documents([7, 12], seed=2)
    recorded: dict[str, Any] = {}
    inputs, rate = replace(make_inputs(proxy, tmp_path, target, []), record=recorded.update), 1e-6
    found = scores("dot", inputs, pool, all_parameters=True).scores[:, 0]
    for score, document in zip(found.tolist(), pool, strict=True):
        ahead, behind = (loss_after_a_step(with_tables(proxy), [document], target, sign * rate) for sign in (1, -1))
        assert (behind - ahead) / (2 * rate) == pytest.approx(score, rel=1e-4, abs=1e-5)
    norms = sum(p.numel() for n, p in proxy.model.named_parameters() if "norm" in n)
    assert recorded["coverage"]["total"] - recorded["coverage"]["tracked"] == norms
    assert not torch.allclose(scores("dot", inputs, pool).scores[:, 0], found, rtol=1e-2)


def test_no_background_is_ever_read(tmp_path: Path) -> None:
    inputs = make_inputs(tiny_proxy(), tmp_path, random_documents([5]), [])
    object.__setattr__(inputs, "background", pytest.fail)
    assert scores("dot", inputs, random_documents([6])).scores.isfinite().all()
