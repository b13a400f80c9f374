import pytest
import torch

from curate.curvature import shampoo
from curate.gradients.passes import Passes
from tests.curvature.truth import mean, truths
from tests.small_models import batching, random_documents, tiny_model, tiny_proxy

LENGTHS = [12, 3, 9, 2, 24, 12, 17]


@pytest.mark.parametrize("architecture", ["LlamaConfig", "GPT2Config", "Qwen2Config", "OPTConfig"])
def test_bases_come_from_document_gradients_and_eigenvalues_are_the_mean_over_documents(architecture: str) -> None:
    proxy, documents = tiny_proxy(tiny_model(architecture)), random_documents(LENGTHS)
    tensors = shampoo.fit(Passes(proxy, documents, batching(budget=30), seed=4))
    passes = Passes(proxy, documents, batching(), seed=4)
    one, two = truths(proxy, passes, 1), truths(proxy, passes, 2)
    names = sorted(proxy.tracked)
    for name in names:
        assert names[int(tensors[f"inputs_of/{name}"])] == name  # no two layers share a basis
        q_s, q_a = tensors[f"outputs/{name}"], tensors[f"inputs/{name}"]
        gradients = [t.gradients[name] for t in one]
        left, right = mean([d @ d.T for d in gradients]), mean([d.T @ d for d in gradients])
        for basis, moment in ((q_s, left), (q_a, right)):
            diagonal = basis.T @ moment @ basis
            torch.testing.assert_close(diagonal, diagonal.diagonal().diag(), rtol=0, atol=1e-9 * diagonal.max().item())
        expected = mean([(q_s.T @ t.gradients[name] @ q_a) ** 2 for t in two])
        torch.testing.assert_close(tensors[f"eigenvalues/{name}"], expected, rtol=1e-7, atol=1e-9)
