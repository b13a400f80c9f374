import math

import numpy as np
import pytest
import torch
from torch import Tensor

from curate.errors import CurateError, SettingsError
from curate.gradients.covariances import Covariances
from curate.gradients.frozen import FrozenPass
from curate.gradients.passes import Passes, uniforms
from curate.gradients.shared_inputs import input_leaders
from curate.progress import Silent
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoded
from tests.small_models import VOCABULARY, batching, encoded, random_documents, tiny_model, tiny_proxy

LENGTHS = [12, 3, 9, 2, 24, 12, 17]


def covariances(proxy: Proxy, _: object) -> Covariances:
    return Covariances(proxy, input_leaders(proxy))


def factors(proxy: Proxy, documents: list[Encoded], budget: int = 64, number: int = 1, **changes: int) -> Tensor:
    """All covariances of a pass, one after the other."""
    passes = Passes(proxy, documents, batching(budget=budget), **changes)  # type: ignore[arg-type]
    sums = passes.run("factors", number, covariances)
    return torch.cat([t.flatten() for t in (*sums.inputs.values(), *sums.outputs.values())])


def test_sums_do_not_depend_on_the_batches_or_their_padding() -> None:
    proxy, documents = tiny_proxy(), random_documents(LENGTHS)
    alone = factors(proxy, documents, budget=1)
    for budget in (30, 1000):
        torch.testing.assert_close(factors(proxy, documents, budget), alone, rtol=1e-9, atol=1e-12)


def test_seeds_and_passes_draw_labels_of_their_own_and_the_same_seed_the_same_bytes() -> None:
    proxy, documents = tiny_proxy(), random_documents(LENGTHS)
    once = factors(proxy, documents, seed=1)
    assert factors(proxy, documents, seed=1).equal(once)
    assert not torch.allclose(factors(proxy, documents, seed=2), once)
    assert not torch.allclose(factors(proxy, documents, seed=1, number=2), once)


def test_a_documents_uniforms_are_its_own_whatever_stands_beside_it() -> None:
    proxy, documents = tiny_proxy(), random_documents(LENGTHS)
    passes = Passes(proxy, documents, batching(), seed=5)
    samples = list(passes.samples.values())
    together = uniforms(5, 1, samples, 24)
    for row, sample in zip(together, samples, strict=True):
        n = len(sample.encoded.ids)
        assert row[:n].equal(uniforms(5, 1, [sample], n)[0])
        assert ((row >= 0) & (row < 1)).all()
    assert len({float(x) for x in together[:, 0]}) == len(samples)


def test_windows_of_a_long_document_are_samples_with_uniforms_of_their_own() -> None:
    proxy, (long,) = tiny_proxy(), random_documents([23])
    passes = Passes(proxy, [long], batching(context=6, long="windows"))
    assert [(s.document, s.window) for s in passes.samples.values()] == [(0, i) for i in range(5)]
    assert passes.num_scored == 22
    assert len(uniforms(0, 1, list(passes.samples.values()), 6)[:, 0].unique()) == 5


def test_labels_are_drawn_from_the_models_own_distribution() -> None:
    """Pearson's χ² over the vocabulary at one position; ∂loss/∂h = Σ_v p_v w_v - w_label tells each label."""
    model = tiny_model()
    proxy, tokens, n = tiny_proxy(model), [5, 9], 4000
    counts = torch.zeros(VOCABULARY, dtype=torch.float64)
    passes = Passes(proxy, [encoded(tokens)] * n, batching(budget=4000))
    head = FrozenPass(proxy).head
    probabilities = model(input_ids=torch.tensor([tokens])).logits[0, 0].double().softmax(-1)
    samples = list(passes.samples.values())
    drawn = uniforms(0, 1, samples, 2)[:, 0]
    hidden = proxy.decoder(input_ids=torch.tensor([tokens])).last_hidden_state[0, 0].expand(n, -1)
    _, gradients = head(hidden, torch.full((n,), 9), uniforms=drawn)
    assert gradients is not None
    embeddings = probabilities @ head.weight - gradients  # of the labels that were drawn
    labels = torch.cdist(embeddings, head.weight).argmin(-1)
    counts.index_add_(0, labels, torch.ones(n, dtype=torch.float64))
    chi2 = ((counts - n * probabilities) ** 2 / (n * probabilities)).sum().item()
    freedom = VOCABULARY - 1
    assert abs(chi2 - freedom) < 5 * math.sqrt(2 * freedom)


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.mark.parametrize("where", ["embedding", "gradient"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_document_that_is_not_finite_leaves_all_sums_and_changes_no_other(where: str, bad: float) -> None:
    model = tiny_model()
    spoilt, clean = random_documents([5, 6, 7]), random_documents([5, 6, 7])
    spoilt[1] = Encoded(ids=np.array([1, 66, 3, 4, 5, 6], np.int32), scored=spoilt[1].scored, truncated=False)
    clean = [*clean[:1], encoded([7]), *clean[2:]]  # one that carries no loss holds its place
    spoilt = [Encoded(ids=np.where(e.ids == 66, 2, e.ids), scored=e.scored, truncated=False) for e in spoilt]
    clean = [Encoded(ids=np.where(e.ids == 66, 2, e.ids), scored=e.scored, truncated=False) for e in clean]
    spoilt[1].ids[1] = 66
    proxy = tiny_proxy(model)
    if where == "embedding":
        with torch.no_grad():
            model.model.embed_tokens.weight[66] = bad
    else:  # the forward pass and the upper layers are whole; the first block's gradients are not
        model.model.layers[1].register_forward_pre_hook(poison(model, bad))
    notes = Notes()
    passes = Passes(proxy, spoilt, batching(budget=64), fisher="empirical", reporter=notes)
    found = passes.run("factors", 1, covariances)
    assert [s.document for s in passes.samples.values()] == [0, 2]
    assert notes.notes == ["1 background document(s) left out: their gradient is not finite."]
    expected = Passes(proxy, clean, batching(budget=64), fisher="empirical").run("factors", 1, covariances)
    for name, total in expected.outputs.items():
        assert total.equal(found.outputs[name])
    for name, total in expected.inputs.items():
        assert total.equal(found.inputs[name])


def poison(model: torch.nn.Module, bad: float) -> object:
    """Multiply the gradient by a bad number where the sequence holds token 66."""
    seen: list[Tensor] = []
    model.model.register_forward_pre_hook(  # type: ignore[union-attr, operator]
        lambda _module, _inputs, keywords: seen.__setitem__(slice(None), [keywords["input_ids"]]), with_kwargs=True
    )

    def hook(_module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        factor = torch.where((seen[0] == 66).any(1), bad, 1.0).double()[:, None, None]
        if inputs[0].requires_grad:
            inputs[0].register_hook(lambda gradient: gradient * factor)

    return hook


def test_no_finite_document_is_an_error_and_so_is_none_with_loss() -> None:
    model = tiny_model()
    proxy = tiny_proxy(model)
    with pytest.raises(CurateError, match=r"\(2 of them\) has a token that carries loss"):
        Passes(proxy, [encoded([7]), encoded([7, 8], prompt=2)], batching())
    with torch.no_grad():
        model.model.embed_tokens.weight[66] = math.nan
    with pytest.raises(CurateError, match="has a finite gradient"):
        factors(proxy, [encoded([66, 3, 4]), encoded([66, 5])])


def test_a_fisher_that_is_not_known_is_named() -> None:
    with pytest.raises(SettingsError, match=r"fisher is 'exact'; expected 'sampled' or 'empirical'\."):
        Passes(tiny_proxy(), random_documents([4]), batching(), fisher="exact")
