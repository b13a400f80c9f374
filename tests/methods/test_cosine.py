from pathlib import Path

import torch

from tests.methods.preparing import make_inputs, scores
from tests.small_models import random_documents, tiny_proxy, whole_gradients

WHOLE = 10_000


def test_unprojected_scores_are_mean_cosines_of_whole_gradients(tmp_path: Path) -> None:
    proxy = tiny_proxy()
    target, pool = random_documents([9, 6, 14], seed=1), random_documents([7, 12, 4, 9], seed=2)
    found = scores("cosine", make_inputs(proxy, tmp_path, target, []), pool, dim=WHOLE)
    ours, theirs = (
        torch.stack([torch.cat([g.flatten() for g in whole_gradients(proxy, d)[1].values()]) for d in documents])
        for documents in (pool, target)
    )
    cosines = torch.nn.functional.cosine_similarity(ours[:, None], theirs[None], dim=-1)
    torch.testing.assert_close(found.scores[:, 0], cosines.mean(1))
    torch.testing.assert_close(found.norms.double(), ours.norm(dim=1), rtol=1e-6, atol=1e-6)


def test_the_same_document_has_cosine_1_at_any_projection(tmp_path: Path) -> None:
    same = random_documents([9])
    for dim in (2, 16):
        inputs = make_inputs(tiny_proxy(), tmp_path / str(dim), same, [])
        torch.testing.assert_close(
            scores("cosine", inputs, same, dim=dim).scores, torch.ones(1, 1, dtype=torch.float64)
        )
