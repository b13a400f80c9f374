from functools import partial
from typing import Any

import pytest
import torch

from curate.gradients.direction_scoring import DirectionScorer
from curate.gradients.directions import DirectionEngine
from curate.gradients.one_at_a_time import OneAtATime, Shelf
from tests.small_models import batching, random_documents, tiny_model, tiny_proxy

pytestmark = pytest.mark.usefixtures("float64_throughout")


def test_a_shelf_holds_the_value_that_was_taken_last() -> None:
    loaded: list[int] = []
    shelf = Shelf([lambda i=i: loaded.append(i) or [i] for i in range(3)])
    odd, all_of_them = OneAtATime(shelf, [1]), OneAtATime(shelf, [0, 1, 2])
    assert [len(odd), len(all_of_them), odd[-1], all_of_them[1], odd[0]] == [1, 3, [1], [1], [1]]
    assert loaded == [1]
    assert [v for (v,) in all_of_them] == [0, 1, 2]
    assert loaded == [1, 0, 1, 2]


@pytest.mark.parametrize("normalize", [*(pytest.param(n, marks=pytest.mark.slow) for n in ("none", "length")), "unit"])
def test_documents_that_go_through_one_engine_after_the_other_have_the_same_scores(normalize: str) -> None:
    proxies = [tiny_proxy(tiny_model("Qwen2Config", seed=seed)) for seed in range(3)]
    directions = [
        {n: torch.randn(2, o, i + biased) for n in p.tracked for o, i, biased in [p.shape(n)]} for p in proxies
    ]
    documents = random_documents([9, 4, 60, 15, 2], seed=1)
    loads: Any = [partial(DirectionEngine, p, u) for p, u in zip(proxies, directions, strict=True)]
    columns = torch.tensor([[0.25, 0.75], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    settings: Any = {"columns": columns, "normalize": normalize, "per_token": True}
    whole = batching(budget=30, long="windows")
    together = DirectionScorer(engines=[load() for load in loads], **settings)(documents, whole)
    apart = DirectionScorer(engines=OneAtATime(Shelf(loads), range(3)), **settings)(documents, whole)
    assert (apart.norms is None, together.norms is None) == (normalize != "unit",) * 2
    if normalize == "unit":
        assert torch.equal(apart.norms, together.norms)  # type: ignore[arg-type]
    assert torch.equal(apart.losses, together.losses)  # type: ignore[arg-type]
    short = torch.tensor([len(d.ids) <= 24 for d in documents])
    assert torch.equal(apart.scores[short], together.scores[short])
    torch.testing.assert_close(apart.scores, together.scores, rtol=1e-12, atol=1e-12)  # windows add up in another order
    assert together.tokens is not None
    assert apart.tokens is not None
    for one, other in zip(apart.tokens, together.tokens, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
