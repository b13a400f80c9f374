"""Features of whole gradients against autograd, one document at a time."""

import pytest
import torch

from curate.gradients import features
from curate.gradients.features import FeatureEngine, flattened
from curate.gradients.whole_projections import Hadamard
from tests.small_models import batching, random_documents, tiny_model, tiny_proxy, whole_gradients

DOCUMENTS = random_documents([12, 3, 9, 2, 23, 12])


@pytest.mark.parametrize("architecture", ["LlamaConfig", "GPT2Config", "Qwen2Config", "OlmoeConfig"])
def test_features_are_projected_gradients_of_mean_losses(architecture: str) -> None:
    proxy = tiny_proxy(tiny_model(architecture))
    project = Hadamard(64, 0)
    engine = FeatureEngine(proxy, project)
    for batch in engine(DOCUMENTS, batching()):
        for i, document in enumerate(batch.documents):
            loss, gradients = whole_gradients(proxy, DOCUMENTS[document])
            vector = flattened(proxy, gradients)
            assert len(vector) == engine.width
            expected = project(vector[None] / DOCUMENTS[document].num_scored)[0]
            torch.testing.assert_close(batch.values[i], expected, rtol=1e-8, atol=1e-12)
            assert float(batch.losses[i]) == pytest.approx(loss, rel=1e-10)
            assert float(batch.norms[i]) == pytest.approx(float(vector.norm()), rel=1e-10)


def in_order(engine: FeatureEngine, **how: int | str) -> torch.Tensor:
    values = torch.zeros(len(DOCUMENTS), 64, dtype=torch.float64)
    for batch in engine(DOCUMENTS, batching(**how), torch.abs):  # type: ignore[arg-type]
        values[list(batch.documents)] = batch.values
    return values


def test_groups_and_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FeatureEngine(tiny_proxy(), Hadamard(64, 0))
    expected = in_order(engine)
    torch.testing.assert_close(in_order(engine, budget=1), expected, rtol=1e-9, atol=1e-12)
    monkeypatch.setattr(features, "GROUP_BYTES", 1)
    assert engine.group == 1
    torch.testing.assert_close(in_order(engine, budget=1000), expected, rtol=1e-9, atol=1e-12)


def test_windows_of_a_document_add_up_before_the_correction() -> None:
    proxy = tiny_proxy()
    engine = FeatureEngine(proxy, Hadamard(64, 0))
    windows = in_order(engine, context=6, long="windows")
    (long,) = [i for i, d in enumerate(DOCUMENTS) if len(d.ids) == 23]
    total = torch.zeros(engine.width, dtype=torch.float64)
    for start in range(0, 22, 5):
        piece = DOCUMENTS[long].scored[start : start + 6].copy()
        piece[0] = False
        window = type(DOCUMENTS[long])(ids=DOCUMENTS[long].ids[start : start + 6], scored=piece, truncated=False)
        total += flattened(proxy, whole_gradients(proxy, window)[1])
    expected = engine.projection((total / DOCUMENTS[long].num_scored).abs()[None])[0]
    torch.testing.assert_close(windows[long], expected, rtol=1e-8, atol=1e-12)
