import numpy as np
import polars as pl
import pytest

from curate.progress import Silent
from curate.proof.bank import Bank
from curate.proof.in_run import in_run
from curate.proof.lds import correlations, lds
from tests.proof.laboratories import DOCUMENTS, changes, laboratory, masks, subsets


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return Bank(laboratory(), tmp_path_factory.mktemp("banks"))


@pytest.fixture(scope="module")
def measured(bank: Bank) -> np.ndarray:
    return changes(bank, subsets())


@pytest.fixture(scope="module")
def truth(bank: Bank) -> np.ndarray:
    """What leaving out each document alone does, `[documents, queries]`."""
    return changes(bank, [(i,) for i in range(DOCUMENTS)])


def reference(left: np.ndarray, right: np.ndarray) -> float:
    return pl.DataFrame({"l": left, "r": right}).select(pl.corr("l", "r", method="spearman")).item()


def test_correlations_are_spearmans_with_ties_at_their_mean_rank() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 5, (30, 4)).astype(float), rng.normal(size=(30, 4))
    found = correlations(left, right, np.ones((1, 30)))[0]
    np.testing.assert_allclose(found, [reference(left[:, q], right[:, q]) for q in range(4)], atol=1e-12)


def test_counts_are_copies() -> None:
    rng = np.random.default_rng(1)
    left, right = rng.normal(size=(2, 12, 3)).round(1)
    counts = rng.multinomial(12, np.full(12, 1 / 12), size=5)
    for some, row in zip(counts, correlations(left, right, counts.astype(float)), strict=True):
        copied = np.repeat(np.arange(12), some)
        expected = [reference(left[copied, q], right[copied, q]) for q in range(3)]
        np.testing.assert_allclose(row, expected, atol=1e-12)


def test_the_interval_narrows_with_more_subsets_and_covers_what_is_true() -> None:
    rng = np.random.default_rng(2)

    def sample(subsets: int, seed: int) -> tuple[float, float]:
        clean = np.random.default_rng(seed).normal(size=(subsets, 8))
        found = lds(clean, clean + rng.normal(size=clean.shape), resamples=300)
        return found.low, found.high

    truth = 6 / np.pi * np.arcsin(0.5**0.5 / 2)  # Spearman's of a normal pair whose correlation is √½
    intervals = [sample(60, seed) for seed in range(40)]
    assert sum(low <= truth <= high for low, high in intervals) >= 33
    assert np.mean([h - low for low, h in intervals]) > 1.5 * np.mean(
        [np.diff(sample(400, seed))[0] for seed in range(5)]
    )


def test_a_query_whose_predictions_are_all_equal_counts_as_0_and_is_told() -> None:
    measured = np.random.default_rng(0).normal(size=(20, 2))
    predicted = measured.copy()
    predicted[:, 1] = 3
    found = lds(predicted, measured)
    assert (found.mean, found.queries, found.undefined) == (0.5, (1.0, 0.0), 1)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="subsets ≥ 3"):
        lds(np.zeros((2, 4)), np.zeros((2, 4)))


@pytest.mark.slow
def test_an_oracle_has_1_and_its_negation_minus_1(measured: np.ndarray) -> None:
    """The oracle: scores that solve the measured changes, on as many subsets as that is possible for."""
    some = masks(subsets())[: DOCUMENTS // 2]
    oracle = np.linalg.pinv(some) @ measured[: len(some)]
    predicted = some @ oracle
    np.testing.assert_allclose(predicted, measured[: len(some)], atol=1e-9)
    for sign in (1, -1):
        found = lds(sign * predicted, measured[: len(some)])
        assert (found.mean, found.low, found.high) == pytest.approx((sign, sign, sign), abs=1e-9)


@pytest.mark.slow
def test_leaving_documents_out_one_by_one_predicts_leaving_out_several(measured: np.ndarray, truth: np.ndarray) -> None:
    found = lds(masks(subsets()) @ truth, measured)
    assert found.mean > 0.9
    assert found.low > 0.8
    assert lds(-(masks(subsets()) @ truth), measured).mean == pytest.approx(-found.mean)


@pytest.mark.slow
def test_shuffled_scores_have_an_interval_that_holds_0(measured: np.ndarray, truth: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    holds = 0
    for _ in range(20):
        shuffled = np.stack([rng.permutation(column) for column in truth.T], 1)
        found = lds(masks(subsets()) @ shuffled, measured, resamples=400)
        assert found.low < found.mean < found.high
        holds += found.low <= 0 <= found.high
    assert holds >= 17


@pytest.mark.slow
def test_magic_in_the_banks_own_training_predicts_it_and_is_kept(
    bank: Bank, measured: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = in_run(bank, Silent())
    assert lds(masks(subsets()) @ scores, measured).mean > 0.85  # an eighth less is no infinitely small change
    assert not bank.folder.exists("replay")
    monkeypatch.setattr("curate.proof.in_run.differentiate", None)
    np.testing.assert_array_equal(in_run(bank, Silent()), scores)
