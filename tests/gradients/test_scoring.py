import math
from dataclasses import replace

import pytest
import torch

from curate.gradients.aggregation import MEANS, Queries, group_means
from curate.gradients.scoring import SketchScorer, SketchTerm, prepare_sketches
from curate.gradients.sketches import Block, SketchEngine
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import TokenBatch
from tests.small_models import batching, random_documents, tiny_model, tiny_proxy

BLOCKS = [Block(name="a", start=0, rows=1, columns=2), Block(name="b", start=2, rows=1, columns=1)]


def test_sketches_are_whitened_layer_by_layer_then_brought_to_norm_1_over_all_layers() -> None:
    whitening = {"a": torch.tensor([[2.0, 1], [1, 0]]), "b": torch.tensor([[3.0]])}
    values = torch.tensor([[1.0, 2, 4], [0, 5, 0]])
    whitened = torch.tensor([[4.0, 1, 12], [5, 0, 0]])
    assert prepare_sketches(values, BLOCKS, whitening, unit=False).equal(whitened)
    norms = torch.tensor([[math.sqrt(161)], [5]])
    torch.testing.assert_close(prepare_sketches(values, BLOCKS, whitening, unit=True), whitened / norms)
    torch.testing.assert_close(prepare_sketches(values, BLOCKS, None, unit=True)[1], torch.tensor([0.0, 1, 0]))


def test_a_gradient_of_zero_scores_zero_and_one_that_is_not_finite_nan() -> None:
    ready = prepare_sketches(torch.tensor([[0.0, 0, 0], [1, math.nan, 2], [3, 0, 0]]), BLOCKS, None, unit=True)
    assert ready[0].tolist() == [0, 0, 0]
    assert ready[1].isnan().all()
    assert ready[2].tolist() == [1, 0, 0]


def test_the_first_query_is_the_mean_of_all_documents_and_the_others_of_each_group() -> None:
    values = torch.tensor([[1.0], [2], [6], [11]])
    assert group_means(values, ["x", "y", "x", "x"], ["x", "y"]).tolist() == [[5], [6], [2]]
    assert group_means(values, ["x"] * 4, ["x"]).tolist() == [[5]]


def means(values: torch.Tensor) -> Queries:
    return Queries(values=values, how=MEANS, members=None, groups=len(values))


def scorer(proxy: Proxy, **changes: object) -> SketchScorer:
    engine = SketchEngine(proxy, dim=4, seed=0)
    torch.manual_seed(0)
    queries = torch.randn(3, engine.width, dtype=torch.float64)
    return SketchScorer(terms=[SketchTerm(engine=engine, queries=means(queries))], **({"unit": True} | changes))  # type: ignore[arg-type]


def test_scores_do_not_depend_on_batches_padding_or_order() -> None:
    score, documents = scorer(tiny_proxy()), random_documents([12, 3, 9, 2, 24, 12, 17])
    alone = score(documents, batching(budget=1))
    for budget in (30, 1000):
        together = score(documents, batching(budget=budget))
        torch.testing.assert_close(together.scores, alone.scores, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(together.losses, alone.losses)
        torch.testing.assert_close(together.norms, alone.norms)
    turned = score(documents[::-1], batching(budget=30))
    torch.testing.assert_close(turned.scores.flip(0), alone.scores, rtol=1e-10, atol=1e-12)


def test_the_product_of_a_long_document_is_the_sum_over_its_windows() -> None:
    score, (long,) = scorer(tiny_proxy(), unit=False), random_documents([23])
    whole = score([long], batching(context=6, long="windows"))
    windows = []
    for start in range(0, 22, 5):
        piece = long.scored[start : start + 6].copy()
        piece[0] = False
        windows.append(type(long)(ids=long.ids[start : start + 6], scored=piece, truncated=False))
    parts = score(windows, batching())
    torch.testing.assert_close(whole.scores[0], parts.scores.sum(0), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(whole.losses[0], parts.losses.sum())


def test_the_scores_of_several_engines_add_up_by_their_weights() -> None:
    first, second = (SketchEngine(tiny_proxy(tiny_model(seed=seed)), dim=4, seed=seed) for seed in (0, 1))
    torch.manual_seed(0)
    queries = [torch.randn(2, e.width, dtype=torch.float64) for e in (first, second)]
    roots = {b.name: torch.diag(torch.arange(1.0, 1 + b.rows * b.columns, dtype=torch.float64)) for b in second.blocks}
    terms = [
        SketchTerm(engine=first, queries=means(queries[0]), weight=0.25),
        SketchTerm(engine=second, queries=means(queries[1]), whitening=roots, weight=0.75),
    ]
    documents = random_documents([12, 3, 9])
    whole = SketchScorer(terms=terms, unit=True)(documents, batching())
    alone = [SketchScorer(terms=[replace(t, weight=1.0)], unit=True)(documents, batching()) for t in terms]
    torch.testing.assert_close(whole.scores, 0.25 * alone[0].scores + 0.75 * alone[1].scores)
    assert whole.losses is not None
    assert whole.losses.equal(alone[1].losses)
    assert not whole.losses.equal(alone[0].losses)


def test_no_documents_have_no_scores() -> None:
    assert scorer(tiny_proxy())([], batching()).scores.shape == (0, 3)


class _Huge(SketchEngine):
    """An engine whose second document has a finite sketch of infinite norm."""

    def __call__(self, batch: TokenBatch) -> object:  # type: ignore[override]
        found = super().__call__(batch)
        found.values[[i for i, d in enumerate(batch.documents) if d == 1]] *= 1e300
        return found


@pytest.mark.parametrize("unit", [True, False])
def test_a_norm_that_overflows_gives_no_score_at_all(unit: bool) -> None:
    engine = _Huge(tiny_proxy(), dim=4, seed=0)
    queries = torch.ones(1, engine.width, dtype=torch.float64)
    score = SketchScorer(terms=[SketchTerm(engine=engine, queries=means(queries))], unit=unit)
    found = score(random_documents([5, 6, 7]), batching()).scores
    assert found.isnan().flatten().tolist() == [False, True, False]
