from pathlib import Path

import pytest
import torch
from torch import Tensor

from curate.curvature.ekfac import Ekfac, fit
from curate.gradients.direction_scoring import DirectionScorer
from curate.gradients.materialised import weighted_gradients
from curate.methods.contract import Inputs
from curate.methods.relatif import Settings
from curate.methods.shared.directional import fitted
from curate.proxies.tokens import Encoded
from tests.methods.preparing import make_inputs, prepare, scores
from tests.small_models import random_documents, tiny_proxy

TARGET, POOL = random_documents([9, 6, 14], seed=1), random_documents([7, 12, 4, 9], seed=2)
BACKGROUND = random_documents([7, 9, 12, 5, 10, 6], seed=3)
GROUPS = ["law", "code", "law"]


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    return make_inputs(tiny_proxy(), tmp_path, TARGET, BACKGROUND, groups=GROUPS)


def flat(directions: dict[str, Tensor]) -> Tensor:
    return torch.cat([directions[n].flatten(1) for n in sorted(directions)], 1)


def gradients(inputs: Inputs, documents: list[Encoded]) -> dict[str, Tensor]:
    weights = torch.eye(len(documents), dtype=torch.float64)
    return weighted_gradients(inputs.proxy, documents, weights, inputs.batching)


def by_pair(inputs: Inputs) -> Tensor:
    """⟨H⁻¹g_row, g_z⟩ / (√⟨g_row, H⁻¹g_row⟩ ‖g_z‖) of every document and row, from whole gradients."""
    kept = fitted(inputs, "ekfac", Settings(), fit)
    rows, documents = gradients(inputs, TARGET), gradients(inputs, POOL)
    solved = flat(Ekfac.of(kept).solve(rows))
    norms = (flat(rows) * solved).sum(1).sqrt()
    found = flat(documents)
    return (found @ solved.T) / norms / found.norm(dim=1, keepdim=True)


def test_scores_are_means_over_rows_of_products_of_gradients_of_norm_1(inputs: Inputs) -> None:
    expected = by_pair(inputs)
    found = scores("relatif", inputs, POOL).scores
    torch.testing.assert_close(found[:, 0], expected.mean(1), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found[:, 1], expected[:, 1], rtol=1e-8, atol=1e-10)  # code comes before law
    torch.testing.assert_close(found[:, 2], expected[:, [0, 2]].mean(1), rtol=1e-8, atol=1e-10)


def test_a_rows_own_score_is_its_part_of_the_mean(inputs: Inputs) -> None:
    scorer = prepare("relatif", inputs)
    assert isinstance(scorer, DirectionScorer)
    rows = scorer.by_row(POOL[1], TARGET, inputs.batching)
    assert rows is not None
    torch.testing.assert_close(rows.mean(), scorer(POOL, inputs.batching).scores[1, 0])


def test_no_row_outweighs_others_and_each_counts_as_in_a_target_of_its_own(inputs: Inputs, tmp_path: Path) -> None:
    alone = [
        scores("relatif", make_inputs(inputs.proxy, tmp_path / str(i), [row], BACKGROUND), POOL).scores[:, 0]
        for i, row in enumerate(TARGET)
    ]
    torch.testing.assert_close(scores("relatif", inputs, POOL).scores[:, 0], torch.stack(alone).mean(0))


def test_without_norms_it_is_ekfac(inputs: Inputs) -> None:
    plain = scores("relatif", inputs, POOL, normalize="none", normalize_rows="none").scores
    torch.testing.assert_close(plain, scores("ekfac", inputs, POOL).scores, rtol=0, atol=0)


def test_a_refined_direction_has_rows_of_norm_1_by_the_fit(inputs: Inputs) -> None:
    refined = scores("relatif", inputs, POOL, refine="cg", rounds=1, refine_documents=6, evaluation_documents=0).scores
    assert refined.isfinite().all()
    assert not torch.allclose(refined, scores("relatif", inputs, POOL).scores, rtol=1e-3)
