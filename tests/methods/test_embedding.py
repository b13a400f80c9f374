from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from curate import methods
from curate.errors import CurateError, SettingsError
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoded
from tests.methods.preparing import make_inputs, prepare, scores
from tests.small_models import CONTEXT, batching, encoded, random_documents, tiny_model, tiny_proxy


@pytest.fixture(scope="module")
def proxy() -> Proxy:
    return tiny_proxy()


def states(proxy: Proxy, ids: np.ndarray) -> Tensor:
    found = proxy.model(input_ids=torch.from_numpy(ids.astype(np.int64))[None], output_hidden_states=True)
    return found.hidden_states[-1][0]


def pooled(proxy: Proxy, documents: Sequence[Encoded], pooling: str) -> Tensor:
    """Means of the model's own states, one document and one window after the other, each position once."""
    rows = []
    for document in documents:
        ids = document.ids
        starts = range(0, max(1, len(ids) - 1), CONTEXT - 1)
        whole = torch.cat([states(proxy, ids[start : start + CONTEXT])[1 if start else 0 :] for start in starts])
        assert len(whole) == len(ids)
        weights = torch.arange(1.0, len(ids) + 1) if pooling == "weighted" else torch.ones(len(ids))
        rows.append((weights.to(whole)[:, None] * whole).sum(0) / weights.sum())
    return torch.stack(rows).detach()


def cosines(ours: Tensor, theirs: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(ours[:, None], theirs[None], dim=-1).mean(1)


@pytest.mark.parametrize("pooling", ["weighted", "mean"])
@pytest.mark.parametrize("centre", [True, False])
def test_a_score_is_the_mean_cosine_of_the_models_states_over_all_windows(
    pooling: str, centre: bool, proxy: Proxy, tmp_path: Path
) -> None:
    pool, target = random_documents([12, 61, 2, 24, 49], seed=1), random_documents([9, 30, 6], seed=2)
    pool.append(encoded(random_documents([60], seed=4)[0].ids, prompt=55))  # a whole window of nothing but prompt
    background = random_documents([8, 40, 12], seed=3)
    inputs = make_inputs(proxy, tmp_path, target, background, batches=batching(long="windows"))
    found = scores("embedding", inputs, pool, pooling=pooling, centre=centre)
    ours, theirs, others = (pooled(proxy, d, pooling) for d in (pool, target, background))
    middle = others.mean(0) if centre else torch.zeros(())
    torch.testing.assert_close(found.scores[:, 0], cosines(ours - middle, theirs - middle))
    assert found.losses is None


def test_a_document_is_most_like_itself(proxy: Proxy, tmp_path: Path) -> None:
    pool = random_documents([9, 12, 7])
    found = scores("embedding", make_inputs(proxy, tmp_path, pool[1:2], []), pool).scores[:, 0]
    assert found[1].item() == pytest.approx(1)
    assert found.argmax() == 1


def test_a_control_sets_mean_query_is_subtracted_from_every_column(proxy: Proxy, tmp_path: Path) -> None:
    target, control, pool = (random_documents([9, 12, 7], seed=seed) for seed in (1, 2, 3))
    inputs = make_inputs(proxy, tmp_path / "with", target, [], groups=["a", "b", "a"])
    against = make_inputs(proxy, tmp_path / "control", control, [])
    found = scores("embedding", replace(inputs, against=against.target), pool).scores
    plain, theirs = (scores("embedding", i, pool).scores for i in (inputs, against))
    torch.testing.assert_close(found, plain - theirs)


def test_embeddings_of_the_target_are_kept_and_the_background_is_read_only_for_centring(
    proxy: Proxy, tmp_path: Path
) -> None:
    target = random_documents([9, 12])
    inputs = replace(make_inputs(proxy, tmp_path, target, []), background=lambda: pytest.fail("read"))
    pool = random_documents([5, 6], seed=3)
    first = scores("embedding", inputs, pool).scores
    elsewhere = replace(inputs, batching=batching())  # as another process has it
    blind = replace(elsewhere, target=replace(inputs.target, encoded=random_documents([3, 3], seed=9)))
    assert scores("embedding", blind, pool).scores.equal(first)
    with pytest.raises(pytest.fail.Exception):
        prepare("embedding", inputs, centre=True)


def test_a_target_without_a_finite_row_is_an_error(tmp_path: Path) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.get_input_embeddings().weight[50] = torch.nan
    inputs = make_inputs(tiny_proxy(model), tmp_path, [encoded([3, 50]), encoded([3, 4])], [], groups=["a", "b"])
    with (
        pytest.warns(UserWarning, match="1 target row"),
        pytest.raises(CurateError, match="No row of the target's group 'a'"),
    ):
        prepare("embedding", inputs)


def test_another_pooling_is_refused() -> None:
    with pytest.raises(SettingsError, match="pooling is 'max'; expected one of weighted, mean"):
        methods.get("embedding").Settings(pooling="max")
