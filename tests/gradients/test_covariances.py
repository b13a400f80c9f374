import pytest
import torch

from curate.gradients.covariances import Covariances
from curate.gradients.passes import Passes
from curate.gradients.shared_inputs import input_leaders
from tests.curvature.truth import truths
from tests.small_models import ARCHITECTURES, batching, random_documents, tiny_model, tiny_proxy


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_covariances_equal_those_of_hooked_activations_at_scored_positions(architecture: str) -> None:
    proxy = tiny_proxy(tiny_model(architecture))
    passes = Passes(proxy, random_documents([9, 12, 5, 2]), batching(budget=24), seed=3)
    first = input_leaders(proxy)
    found = passes.run("factors", 1, lambda *_: Covariances(proxy, first))
    expected = truths(proxy, passes, 1)
    assert passes.num_scored == sum(len(t.outputs[proxy.tracked[0]]) for t in expected)
    for name in proxy.tracked:
        a, g = torch.cat([t.inputs[name] for t in expected]), torch.cat([t.outputs[name] for t in expected])
        torch.testing.assert_close(found.inputs[first[name]], a.T @ a, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(found.outputs[name], g.T @ g, rtol=1e-8, atol=1e-10)
