import numpy as np

from curate.students.fitting import TOKENS, Sample, fit, folds_of, normal_scores
from curate.students.judging import judge


def _sample(*, source_alone: bool) -> Sample:
    rng = np.random.default_rng(0)
    of_source = np.repeat([0.0, 3.0], 100)
    features = np.stack([of_source, rng.normal(size=200)], 1).astype(np.float32)
    hidden = rng.normal(size=200)
    scores = of_source + (hidden if source_alone else features[:, 1])
    return Sample(
        features=features,
        sizes=np.full(200, 50),
        sources=["web"] * 100 + ["law"] * 100,
        contents=[str(i) for i in range(200)],
        columns={"score": np.exp(scores), TOKENS: np.full(200, -1.5)},
    )


def test_what_can_be_learned_is_found_within_sources_too() -> None:
    fitted = fit("x", _sample(source_alone=False), folds=4, seed=0, by_source=False)
    figures = fitted.figures["score"]
    assert figures.spearman > 0.95
    assert figures.within_spearman is not None
    assert figures.within_spearman > 0.9
    assert figures.recall[0] <= figures.recall[1] <= figures.recall[2]
    assert figures.verdict is None


def test_a_student_that_knows_the_source_alone_is_caught() -> None:
    fitted = fit("x", _sample(source_alone=True), folds=4, seed=0, by_source=False)
    figures = fitted.figures["score"]
    assert figures.spearman > 0.6
    assert figures.verdict is not None
    assert "sources" in figures.verdict


def test_a_constant_column_is_predicted_as_it_is() -> None:
    sample = _sample(source_alone=False)
    fitted = fit("x", sample, folds=4, seed=0, by_source=False)
    tokens = fitted(sample.features, sample.sizes, sample.sources)[:, fitted.columns.index(TOKENS)]
    np.testing.assert_allclose(tokens, -1.5, rtol=1e-5)


def test_a_constant_by_source_is_learned_and_an_unknown_source_has_none() -> None:
    sample = _sample(source_alone=True)
    blind = Sample(**{**vars(sample), "features": sample.features[:, 1:]})
    fitted = fit("x", blind, folds=4, seed=0, by_source=True)
    one = blind.features[:1]
    web, law, unknown = (fitted(one, blind.sizes[:1], [s])[0, 0] for s in ("web", "law", "other"))
    assert web < unknown < law


def test_normal_scores_keep_ties_order_and_the_place_of_0() -> None:
    scores = normal_scores(np.array([-5.0, 2.0, 2.0, 100.0]))
    assert scores[1] == scores[2]
    assert scores[0] < 0 < scores[1] < scores[3]


def test_copies_of_a_document_share_a_fold() -> None:
    folds = folds_of(["a", "b", "a", "c"], 2, 0)
    assert folds[0] == folds[2]
    assert set(folds.tolist()) == {0, 1}


def test_recall_counts_the_true_best_among_the_predicted_best() -> None:
    truth = np.arange(100.0)
    predicted = truth.copy()
    predicted[95:98] = -1  # three of the best five are missed
    assert judge(truth, predicted, ["one"] * 100).recall == (0.4, 0.4, 0.4)


def test_what_finds_the_best_is_learned_though_what_makes_documents_bad_is_something_else() -> None:
    rng = np.random.default_rng(0)
    good, bad = rng.random((2, 600))
    score = np.where(good > 0.8, good, -bad)  # most are only more or less bad
    noise = rng.normal(size=(600, 60)).astype(np.float32)
    sample = Sample(
        features=np.concatenate([np.stack([good, bad], 1), noise], 1).astype(np.float32),
        sizes=np.full(600, 50),
        sources=["web"] * 600,
        contents=[str(i) for i in range(600)],
        columns={"score": score},
    )
    best, ranks = (fit("x", sample, folds=4, seed=0, by_source=False, learn=learn) for learn in ("best", "ranks"))
    assert best.figures["score"].recall[2] > ranks.figures["score"].recall[2] + 0.05
    assert best.figures["score"].spearman < ranks.figures["score"].spearman
    assert best.merit("best") > ranks.merit("best")
    predicted = best(sample.features, sample.sizes, sample.sources)[:, 0]
    assert abs(np.mean(predicted > 0) - np.mean(score > 0)) < 0.03
