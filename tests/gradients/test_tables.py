from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from curate.errors import CurateError, SettingsError
from curate.gradients.direction_scoring import DirectionScorer
from curate.gradients.directions import DirectionEngine, Directions
from curate.gradients.documents import Batching
from curate.gradients.materialised import weighted_gradients
from curate.proxies.proxy import Proxy
from curate.proxies.tables import tables_of, with_tables
from tests.small_models import batching, random_documents, tiny_model, tiny_proxy, whole_gradients

pytestmark = pytest.mark.usefixtures("float64_throughout")

DOCUMENTS = random_documents([9, 4, 15, 2, 12], seed=1)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "untied": ("LlamaConfig", {"tie_word_embeddings": False}),
    "tied": ("LlamaConfig", {"tie_word_embeddings": True}),
    "positions, tied": ("GPT2Config", {}),
    "bias": ("PhiConfig", {}),
    "soft cap, scaled embedding": ("Gemma2Config", {}),
    "scaled logits": ("CohereConfig", {}),
    "scaled logits, untied": ("GraniteConfig", {"tie_word_embeddings": False}),
    "projected": ("OPTConfig", {}),
}


def proxy_of(model: str) -> Proxy:
    architecture, changes = MODELS[model]
    chosen = tiny_model(architecture, **changes)
    for module in chosen.modules():
        if isinstance(module, nn.Embedding):
            module.padding_idx = None  # autograd would leave out the token of padding inside a document
    return with_tables(tiny_proxy(chosen))


def directions(proxy: Proxy, count: int) -> Directions:
    generator = torch.Generator().manual_seed(0)
    shapes = {n: (d_out, d_in + biased) for n in proxy.tracked for d_out, d_in, biased in [proxy.shape(n)]}
    shapes |= {n: tables_of(proxy)[n].shape for n in proxy.tables}
    return {n: torch.randn(count, *shape, generator=generator, dtype=torch.float64) for n, shape in shapes.items()}


def scorer(proxy: Proxy, chosen: Directions, **settings: Any) -> DirectionScorer:
    count = next(iter(chosen.values())).shape[0]
    columns = torch.eye(count, dtype=torch.float64)
    return DirectionScorer(engines=[DirectionEngine(proxy, chosen)], columns=columns, **settings)


def truth(proxy: Proxy, chosen: Directions) -> tuple[Tensor, Tensor]:
    """Products and norms, by autograd per document."""
    gradients = [whole_gradients(proxy, d)[1] for d in DOCUMENTS]
    products = [torch.stack([(chosen[n] * g).sum((1, 2)) for n, g in one.items()]).sum(0) for one in gradients]
    return torch.stack(products), torch.stack(
        [torch.cat([g.flatten() for g in one.values()]).norm() for one in gradients]
    )


@pytest.mark.parametrize("model", MODELS)
def test_head_and_embedding_count_as_autograd_has_them_per_document(model: str) -> None:
    proxy = proxy_of(model)
    assert len(proxy.tables) == (1 if proxy.model.config.tie_word_embeddings else 2)
    chosen = directions(proxy, 3)
    expected, norms = truth(proxy, chosen)
    assert not torch.allclose(expected, truth(tiny_proxy(proxy.model), chosen)[0], rtol=0.1)
    found = scorer(proxy, chosen)(DOCUMENTS, batching(budget=40))
    torch.testing.assert_close(found.scores, expected, rtol=1e-8, atol=1e-8)
    unit = scorer(proxy, chosen, normalize="unit")(DOCUMENTS, batching(budget=40))
    torch.testing.assert_close(unit.norms, norms.float())
    torch.testing.assert_close(unit.scores, expected / norms[:, None], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("model", ["untied", "tied", "bias", "soft cap, scaled embedding"])
def test_weighted_sums_of_gradients_have_the_tables_parts(model: str) -> None:
    proxy = proxy_of(model)
    weights = torch.tensor([[1.0, 0], [0.5, 2], [0, -1], [0, 0], [3, 0]], dtype=torch.float64)
    found = weighted_gradients(proxy, DOCUMENTS, weights, batching(budget=40))
    truths = [whole_gradients(proxy, d)[1] for d in DOCUMENTS]
    for name in (*proxy.tracked, *proxy.tables):
        expected = torch.einsum("sq,svd->qvd", weights, torch.stack([one[name] for one in truths]))
        torch.testing.assert_close(found[name], expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("model", ["untied", "tied"])
@pytest.mark.parametrize("normalize", ["none", "unit"])
def test_scores_depend_on_no_batch_padding_or_order_and_are_the_sums_of_their_tokens(
    model: str, normalize: str
) -> None:
    proxy = proxy_of(model)
    documents, chosen = [*DOCUMENTS, *random_documents([60], seed=2)], directions(proxy, 2)

    def run(whole: Batching, order: int = 1, **settings: Any) -> Any:
        return scorer(proxy, chosen, normalize=normalize, **settings)(documents[::order], whole)

    alone = run(batching(budget=1, long="windows"))
    together = run(batching(budget=2000, long="windows"), -1, per_token=True)
    torch.testing.assert_close(together.scores.flip(0), alone.scores, rtol=1e-9, atol=1e-9)
    sums = torch.stack([t.sum(0) for t in together.tokens])
    torch.testing.assert_close(sums, together.scores)
    assert [len(t) for t in together.tokens] == [len(d.ids) for d in documents[::-1]]


@pytest.mark.parametrize("model", MODELS)
def test_a_tokens_score_is_the_score_of_its_own_loss(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.gradients.head.ROWS_CPU", 16)
    proxy = proxy_of(model)
    (document,), chosen = random_documents([12, 12], seed=4)[1:], directions(proxy, 2)  # with a prompt
    alone = [replace(document, scored=np.arange(12) == t) for t in np.flatnonzero(document.scored)]
    expected = torch.zeros(12, 2, dtype=torch.float64)
    expected[torch.from_numpy(document.scored)] = scorer(proxy, chosen)(alone, batching()).scores
    found = scorer(proxy, chosen, per_token=True)([document], batching()).tokens
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-6 * float(expected.abs().max()))  # type: ignore[index]


def test_adapters_have_no_tables_beside_them() -> None:
    proxy = tiny_proxy()
    object.__setattr__(proxy, "tracked", ("layers.0.mlp.up_proj.lora_A.default",))
    with pytest.raises(SettingsError, match="only adapters are trained"):
        with_tables(proxy)


def test_an_embedding_that_does_more_than_look_up_is_refused() -> None:
    proxy = tiny_proxy()
    embedding: Any = proxy.model.get_input_embeddings()
    embedding.register_forward_hook(lambda *sides: sides[2] + 1)
    with pytest.raises(CurateError, match="does more than look up rows"):
        with_tables(proxy)
