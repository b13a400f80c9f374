import pytest
import torch

from curate.curvature import diagonal
from curate.gradients.passes import Passes
from tests.curvature.truth import mean, truths
from tests.small_models import batching, random_documents, tiny_model, tiny_proxy


@pytest.mark.parametrize("fisher", ["sampled", "empirical"])
@pytest.mark.parametrize("architecture", ["LlamaConfig", "GPT2Config", "Qwen2Config", "OPTConfig"])
def test_moments_are_the_mean_of_squared_document_gradients(architecture: str, fisher: str) -> None:
    proxy, documents = tiny_proxy(tiny_model(architecture)), random_documents([12, 3, 9, 2, 24])
    tensors = diagonal.fit(Passes(proxy, documents, batching(budget=30), fisher=fisher, seed=4))
    truth = truths(proxy, Passes(proxy, documents, batching(), fisher=fisher, seed=4), 1)
    found = diagonal.Diagonal.of(tensors, damping=0.3)
    for name in proxy.tracked:
        expected = mean([t.gradients[name] ** 2 for t in truth])
        torch.testing.assert_close(tensors[name], expected, rtol=1e-7, atol=1e-10)
        u = torch.randn(2, *expected.shape).double()
        solved = u / (expected + 0.3 * expected.mean())
        torch.testing.assert_close(found.solve({name: u})[name], solved, rtol=1e-7, atol=1e-10)
