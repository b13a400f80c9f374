from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from curate.reports.finding import Finding
from curate.reports.measure import measure
from curate.reports.pool_verdicts import left_out
from curate.reports.ranking_verdicts import LEAST_SMOOTHNESS
from curate.reports.report import judge
from curate.scores.run import Run
from curate.training.smoothness import LEAST_AGREEMENT
from tests.small_runs import FINGERPRINTS, SETTINGS, rows, write

RNG = np.random.default_rng(0)
N = 2000


def found(run: Run) -> dict[str, Finding]:
    return {f.about: f for f in judge(run).findings}


def noise() -> np.ndarray:
    return RNG.normal(size=N)


def test_a_ranking_by_length_is_called_one_and_normalising_advised(small: Callable[..., Run]) -> None:
    tokens = RNG.permutation(N) + 1
    scores = tokens + 100 * noise()
    run = small(
        "x", scores.tolist(), n_tokens=tokens.tolist(), loss=(5 + noise()).tolist(), grad_norm=(9 + noise()).tolist()
    )
    run.record.json["settings"]["method_settings"] = {"normalize": "none"}
    length = found(run)["length"]
    assert length.level == "warning"
    assert "nearly follow length (ρ = .9" in length.says
    assert "long documents come first" in length.says
    assert "--normalize length" in (length.do or "")
    assert found(run)["loss"].level == "fine"
    run.record.json["settings"]["method_settings"] = {}
    assert "--normalize" not in (found(run)["length"].do or "")


def test_long_documents_at_both_ends_are_seen_though_the_ranking_has_no_correlation(small: Callable[..., Run]) -> None:
    tokens = RNG.permutation(N) + 1
    signs = RNG.choice([-1.0, 1.0], N)
    length = found(small("x", (signs * tokens).tolist(), n_tokens=tokens.tolist()))["length"]
    assert length.level == "warning"
    assert "both ends of the ranking are long documents" in length.says


def test_a_best_part_of_unlike_length_is_a_note(small: Callable[..., Run]) -> None:
    scores = noise()
    tokens = np.where(scores > np.quantile(scores, 0.95), 300, RNG.integers(50, 150, N))
    length = found(small("x", scores.tolist(), n_tokens=tokens.tolist()))["length"]
    assert length.level == "note"
    assert "The best 5 % are long documents: median length 300" in length.says


def test_a_baseline_is_not_accused_of_being_itself(small: Callable[..., Run]) -> None:
    tokens = RNG.permutation(N) + 1
    assert "length" not in found(small("x", tokens.astype(float).tolist(), method="length", n_tokens=tokens.tolist()))


@pytest.mark.parametrize(("outliers", "level"), [(0.0, "fine"), (60.0, "warning"), (1000.0, "alarm")])
def test_mass_in_a_few_documents(small: Callable[..., Run], outliers: float, level: str) -> None:
    scores = noise()
    scores[:10] += outliers
    assert found(small("x", scores.tolist()))["mass of the top 1 %"].level == level


def test_copies_contamination_and_skipped_rows(small: Callable[..., Run]) -> None:
    hashes = [f"{i % 1000:032x}" for i in range(N)]
    exact = [i == 7 for i in range(N)]
    findings = found(small("x", noise().tolist(), content_hash=hashes, target_exact=exact))
    assert findings["duplicates"].level == "warning"
    assert "repeat another's content: 1,000" in findings["duplicates"].says
    assert findings["contamination"].level == "warning"
    assert "hold a whole target row: 1;" in findings["contamination"].says
    clean = found(small("y", noise().tolist()))
    assert (clean["duplicates"].level, clean["contamination"].level) == ("fine", "fine")


@pytest.mark.parametrize(("reason", "says"), [("chat template", True), ("invalid messages", False)])
def test_conversations_that_no_template_wrote_are_told_of_the_shipped_one(
    small: Callable[..., Run], reason: str, says: bool
) -> None:
    figures = replace(measure(small("x", noise().tolist())), skipped={reason: N})
    (finding,) = left_out(figures)
    assert ("--chat-template shipped" in (finding.do or "")) == says


def test_rows_without_a_score_add_up(small: Callable[..., Run]) -> None:
    figures = replace(measure(small("x", noise().tolist())), skipped={f"reason {i}": 7 - i for i in range(7)})
    (finding,) = left_out(figures)
    assert "28 of" in finding.says
    assert "3 reason 4, 3 for other reasons." in finding.says


def test_one_source_in_most_of_the_best_is_a_note(small: Callable[..., Run]) -> None:
    source = np.array(["a", "b"])[(RNG.random(N) < 0.5).astype(int)]
    one_sided = found(small("x", (noise() + 9 * (source == "b")).tolist(), source=source.tolist()))["source"]
    assert (one_sided.level, one_sided.figure) == ("note", "100 % b")
    assert "--filter quota -p by=source" in (one_sided.do or "")
    assert found(small("y", noise().tolist(), source=source.tolist()))["source"].level == "fine"


def test_a_group_that_the_total_ignores_is_named(small: Callable[..., Run]) -> None:
    loud, quiet = 100 * noise(), noise()
    columns = {"score_loud": loud.tolist(), "score_quiet": quiet.tolist()}
    groups = found(small("x", ((loud + quiet) / 2).tolist(), **columns))["groups"]
    assert groups.level == "note"
    assert "little of quiet's" in groups.says


def checked(predicted: list[float], measured: list[float | None]) -> dict:
    figures = {"predicted": [[v] for v in predicted], "measured": [[v] for v in measured]}
    return figures | {"groups": ["a"], "left_out": 1, "documents": 20}


def ranked(predicted: list[float], measured: list[float | None]) -> dict:
    return checked(predicted, measured) | {"in_nats": False}


RANKED = ranked([1, 2, 3, 4, 5, 6], [9, 22, 31, 38, 52, 61])


@pytest.mark.parametrize(
    ("details", "about", "level"),
    [
        ({"coverage": {"tracked": 80, "total": 100, "uncovered": {}}}, "coverage", "fine"),
        ({"coverage": {"tracked": 20, "total": 100, "uncovered": {}}}, "coverage", "note"),
        ({"coverage": {"tracked": 80, "total": 100, "uncovered": {"mlp.experts": 9}}}, "coverage", "warning"),
        ({"magic": {"smoothness": [0.9, 0.8]}}, "smoothness of training", "fine"),
        ({"magic": {"smoothness": [0.9, 0.4]}}, "smoothness of training", "alarm"),
        ({"magic": {"check": checked([1, 2, 3], [1.1, 1.9, 3.2])}}, "check by retraining", "fine"),
        ({"magic": {"check": checked([1, 2, 3], [3, 5, 9])}}, "check by retraining", "warning"),
        ({"magic": {"check": checked([1, 2, 3], [3, 2, 1])}}, "check by retraining", "warning"),
        ({"magic": {"check": checked([1, 2, 3], [1.1, None, 3.2])}}, "check by retraining", "warning"),
        ({"checked": {"check": RANKED}}, "check by retraining", "fine"),
        ({"checked": {"check": ranked([1, 2, 3, 4, 5, 6], [6, 5, 3, 4, 2, 1])}}, "check by retraining", "warning"),
        ({"checked": {"check": ranked([1, 2, 3], [10, 20, 30])}}, "check by retraining", "note"),
    ],
)
def test_what_the_record_says_is_judged(small: Callable[..., Run], details: dict, about: str, level: str) -> None:
    assert found(small("x", noise().tolist(), details=details))[about].level == level


def test_groups_that_rise_together_say_no_more_than_one(small: Callable[..., Run]) -> None:
    twice = {k: [[*row, *row] for row in v] if k in ("predicted", "measured") else v for k, v in RANKED.items()}
    one, two = (
        found(small(name, noise().tolist(), details={"checked": {"check": check}}))["check by retraining"].figure
        for name, check in (("x", RANKED), ("y", twice | {"groups": ["a", "b"]}))
    )
    assert one == two


@pytest.mark.parametrize(("spearman", "level"), [(0.99, "fine"), (0.4, "alarm")])
def test_scores_of_rounding_are_an_alarm(small: Callable[..., Run], spearman: float, level: str) -> None:
    checked = {
        "dtype": "bfloat16",
        "reference": "float32",
        "least": 0.95,
        "documents": 64,
        "lost": 0,
        "spearman": {"score": spearman},
    }
    assert found(small("x", noise().tolist(), details={"arithmetic": checked}))["arithmetic"].level == level


def test_equal_scores_are_an_alarm_and_an_unfinished_run_a_warning(tmp_path) -> None:
    run = Run.start(tmp_path / "x", settings=SETTINGS, fingerprints=FINGERPRINTS)
    write(run, "a", 0, rows("a", 0, [1.0] * 30))
    run.close()
    findings = found(run)
    assert findings["distribution"].level == "alarm"
    assert findings["progress"].level == "warning"


def test_the_threshold_of_smoothness_is_that_of_training() -> None:
    assert LEAST_SMOOTHNESS == LEAST_AGREEMENT


def test_of_many_groups_with_outliers_the_heaviest_are_named_and_the_others_counted(small: Callable[..., Run]) -> None:
    rng = np.random.default_rng(0)
    groups = {
        f"score_g{i}": pa.array(np.append(rng.standard_normal(199), 100.0 * (i + 1)), pa.float32()) for i in range(6)
    }
    said = found(small("x", rng.standard_normal(200).tolist(), **groups))["mass of the top 1 %"].says
    assert said.count("%") == 3
    assert "g5" in said.split(",")[0]
    assert "and 3 more" in said


@pytest.mark.parametrize(("loss", "level"), [(7.1, "warning"), (6.4, "warning"), (3.2, "fine")])
def test_a_proxy_that_knows_little_more_than_token_frequencies_is_a_warning(
    small: Callable[..., Run], loss: float, level: str
) -> None:
    columns = {"loss": pa.array([loss] * (N - 1) + [float("nan")], pa.float32())}
    training = found(small("x", noise().tolist(), details={"frequency_loss": 7.0}, **columns))["training of the proxy"]
    assert training.level == level
    assert ("hardly learned" in training.says) == (level == "warning")
    assert f"{loss:.2f}" in training.says
    assert "training of the proxy" not in found(small("y", noise().tolist(), **columns))
