from pathlib import Path

import pytest
import torch

from curate import methods
from curate.errors import SettingsError
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoded
from tests.methods.preparing import make_inputs, scores
from tests.small_models import CONTEXT, batching, encoded, model_loss, random_documents, tiny_proxy


@pytest.fixture(scope="module")
def proxy() -> Proxy:
    return tiny_proxy()


def pieces(document: Encoded) -> list[Encoded]:
    """Its windows as documents: one token is shared, so that each is predicted once."""
    found = []
    for start in range(0, len(document.ids) - 1, CONTEXT - 1):
        end = start + CONTEXT
        found.append(Encoded(ids=document.ids[start:end], scored=document.scored[start:end].copy(), truncated=False))
        found[-1].scored[0] = False
    return found


@pytest.mark.parametrize(("prefer", "sign"), [("low", -1), ("high", 1)])
def test_a_score_is_the_mean_loss_over_all_windows(prefer: str, sign: int, proxy: Proxy, tmp_path: Path) -> None:
    pool = random_documents([12, 61, 7, 24, 49], seed=1)
    inputs = make_inputs(proxy, tmp_path, [encoded([1, 2])], [], batches=batching(long="windows"))
    found = scores("loss", inputs, pool, prefer=prefer)
    expected = torch.stack([sum((model_loss(proxy.model, p) for p in pieces(d)), torch.zeros(())) for d in pool])
    counts = torch.tensor([d.num_scored for d in pool])
    assert found.losses is not None
    torch.testing.assert_close(found.losses, expected)
    torch.testing.assert_close(found.scores[:, 0], sign * expected / counts)


def test_another_preference_is_refused() -> None:
    with pytest.raises(SettingsError, match="prefer is 'middle'; expected one of low, high"):
        methods.get("loss").Settings(prefer="middle")
