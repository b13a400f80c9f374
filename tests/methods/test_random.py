from dataclasses import replace
from pathlib import Path

import pytest
import torch

from curate.proxies.tokens import Encoded
from tests.methods.preparing import make_inputs, scores
from tests.small_models import encoded, tiny_proxy

POOL = [encoded([1 + i % 60, 1 + i // 60, 7]) for i in range(2000)]


@pytest.fixture
def inputs(tmp_path: Path):
    return make_inputs(tiny_proxy(), tmp_path, [encoded([1, 2]), encoded([3, 4])], [], groups=["a", "b"])


def test_scores_are_uniform_and_columns_are_independent(inputs) -> None:
    found = scores("random", inputs, POOL).scores
    assert found.min() >= 0
    assert found.max() < 1
    for column in found.T:
        gaps = column.sort().values - (torch.arange(len(POOL)) + 0.5) / len(POOL)
        assert gaps.abs().max() < 1.63 / len(POOL) ** 0.5  # Kolmogorov and Smirnov's bound at 1 %
    assert torch.corrcoef(found.T).triu(1).abs().max() < 4 / len(POOL) ** 0.5


def test_copies_share_a_score_wherever_they_are(inputs) -> None:
    whole = scores("random", inputs, POOL).scores
    shortened = replace(POOL[7], ids=POOL[7].ids[:2], scored=POOL[7].scored[:2])
    assert scores("random", inputs, [shortened]).scores.equal(whole[7:8])


def test_another_seed_is_another_ranking(inputs) -> None:
    one, other = (scores("random", inputs, POOL, seed=seed).scores[:, 0] for seed in (0, 1))
    assert torch.corrcoef(torch.stack([one, other]))[0, 1].abs() < 4 / len(POOL) ** 0.5


def test_a_document_without_its_hash_is_refused(inputs) -> None:
    bare = Encoded(ids=POOL[0].ids, scored=POOL[0].scored, truncated=False)
    with pytest.raises(ValueError, match="content_hash"):
        scores("random", inputs, [bare])
