"""Every figure of a run of 100 000 rows against plain loops over its rows."""

import math
from collections import Counter
from collections.abc import Callable
from functools import cache
from statistics import fmean, median, pstdev
from typing import Any

import pytest

from curate.errors import CurateError, SettingsError
from curate.reports import frame
from curate.reports.figures import Figures
from curate.reports.measure import measure
from curate.scores.run import Run

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def table(large: Run) -> Rows:
    return large.scores().collect().to_dicts()


@pytest.fixture(scope="module")
def figures(large: Run) -> Figures:
    return measure(large)


@cache
def mean_ranks(values: tuple[float, ...]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    found, i = [0.0] * len(values), 0
    while i < len(order):
        j = i
        while j + 1 < len(order) and values[order[j + 1]] == values[order[i]]:
            j += 1
        for k in range(i, j + 1):
            found[order[k]] = (i + j) / 2 + 1
        i = j + 1
    return found


def slow_spearman(left: list[float], right: list[float | None]) -> float:
    pairs = [(a, b) for a, b in zip(left, right, strict=True) if b is not None]
    x, y = (mean_ranks(tuple(p[i] for p in pairs)) for i in (0, 1))
    mx, my = fmean(x), fmean(y)
    top = math.fsum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return top / math.sqrt(math.fsum((a - mx) ** 2 for a in x) * math.fsum((b - my) ** 2 for b in y))


def best(table: Rows, share: float, column: str = "score") -> Rows:
    ranked = sorted(range(len(table)), key=lambda i: (-table[i][column], i))  # sorted is stable, and so is the pool
    return [table[i] for i in ranked[: round(share * len(table))]]


def test_counts_are_of_every_row(figures: Figures, table: Rows) -> None:
    assert figures.documents == len(table) == 100_000
    assert figures.tokens == sum(r["n_tokens"] for r in table)
    assert figures.truncated == sum(r["truncated"] for r in table)
    assert figures.skipped == {"empty text": 4}
    assert figures.sampled is None


@pytest.mark.parametrize("i", range(3))
def test_distributions(figures: Figures, table: Rows, i: int) -> None:
    found = figures.scores[i]
    values = [r[found.column] for r in table]
    assert found.mean == pytest.approx(fmean(values), rel=1e-5)
    assert found.std == pytest.approx(pstdev(values), rel=1e-5)
    assert found.positive == pytest.approx(sum(v > 0 for v in values) / len(values), rel=1e-5)
    assert found.quantiles["q50"] == pytest.approx(median(values), rel=1e-5)
    assert (found.quantiles["q00"], found.quantiles["q100"]) == pytest.approx((min(values), max(values)), rel=1e-5)
    sizes = sorted(map(abs, values), reverse=True)
    assert found.mass == pytest.approx(math.fsum(sizes[:1000]) / math.fsum(sizes), rel=1e-5)
    h = found.histogram
    assert sum(h.counts) == len(values)
    width = (h.high - h.low) / len(h.counts)
    inside = [min(len(h.counts) - 1, max(0, math.floor((v - h.low) / width))) for v in values]
    counted = Counter(inside)
    off = sum(abs(counted[b] - n) for b, n in enumerate(h.counts))
    assert off <= len(values) / 1000  # edges are rounded to six digits
    assert h.low <= (found.quantiles["q95"] or 0) <= h.high


@pytest.mark.parametrize("i", range(3))
@pytest.mark.parametrize("variable", ["n_tokens", "loss", "grad_norm"])
def test_rank_correlations(figures: Figures, table: Rows, i: int, variable: str) -> None:
    found = figures.scores[i]
    values, by = [r[found.column] for r in table], [r[variable] for r in table]
    assert found.spearman[variable] == pytest.approx(slow_spearman(values, by), abs=2e-6)
    if i == 0:
        assert found.spearman_of_size[variable] == pytest.approx(slow_spearman([abs(v) for v in values], by), abs=2e-6)


def test_groups_are_compared_with_each_other(figures: Figures, table: Rows) -> None:
    columns = [s.column for s in figures.scores]
    assert columns == ["score", "score_a", "score_b"]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        expected = slow_spearman([r[columns[i]] for r in table], [r[columns[j]] for r in table])
        assert figures.between_groups[i][j] == figures.between_groups[j][i] == pytest.approx(expected, abs=2e-6)
    assert [figures.between_groups[i][i] for i in range(3)] == [1.0, 1.0, 1.0]


def test_sources_and_their_part_of_the_best(figures: Figures, table: Rows) -> None:
    assert figures.by == "source"
    counted = Counter(r["source"] for r in table)
    assert [(s.value, s.documents) for s in figures.sources] == counted.most_common()
    for column in ("score", "score_a", "score_b"):
        top = Counter(r["source"] for r in best(table, 0.05, column))
        for s in figures.sources:
            assert s.share_of_best[column] == pytest.approx(top[s.value] / 5000, rel=1e-5)
    for s in figures.sources:
        here = [r["score"] for r in table if r["source"] == s.value]
        assert s.mean == pytest.approx(fmean(here), rel=1e-5)
        assert s.quantiles["q50"] == pytest.approx(median(here), rel=1e-5)
        assert s.enrichment == pytest.approx(s.share_of_best["score"] / s.share, rel=1e-4)
        assert s.tokens == sum(r["n_tokens"] for r in table if r["source"] == s.value)


def test_any_scalar_column_can_be_compared_by(large: Run, table: Rows) -> None:
    found = measure(large, by="stars")
    counted = Counter(r["stars"] for r in table)
    assert found.other_sources == len(counted) - len(found.sources)
    assert {int(s.value or -1): s.documents for s in found.sources}.items() <= counted.items()
    with pytest.raises(SettingsError, match=r"--by star: (.|\n)*'stars'"):
        measure(large, by="star")


def test_copies_and_contamination(figures: Figures, table: Rows) -> None:
    counted = Counter(r["content_hash"] for r in table)
    d = figures.duplicates
    assert d.contents == sum(n > 1 for n in counted.values())
    assert d.copies == len(table) - len(counted)
    assert d.largest == max(counted.values())
    top = best(table, 0.05)
    assert d.copies_in_best == len(top) - len({r["content_hash"] for r in top})
    hits = [r["target_exact"] or r["target_overlap"] >= 0.5 for r in table]
    c = figures.contamination
    assert (c.exact, c.overlapping) == (sum(r["target_exact"] for r in table), sum(hits))
    assert c.in_best == sum(r["target_exact"] or r["target_overlap"] >= 0.5 for r in best(table, 0.01))


def test_typical_values_of_the_best(figures: Figures, table: Rows) -> None:
    found = figures.typical["n_tokens"]
    assert found.median == median(r["n_tokens"] for r in table)
    assert found.median_of_best == median(r["n_tokens"] for r in best(table, 0.05))


def test_bands_hold_every_document_along_a_variable(figures: Figures, table: Rows) -> None:
    bands = figures.bands["grad_norm"]
    assert len(bands) == 20
    assert [b.low for b in bands] == sorted(b.low for b in bands)
    lowest = sorted(table, key=lambda r: r["grad_norm"])[:5000]
    assert bands[0].quantiles[2] == pytest.approx(median(r["score"] for r in lowest), rel=1e-4)


def test_a_run_that_memory_cannot_hold_is_sampled_and_says_so(
    large: Run, figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame, "VALUES", 250_000)
    found = measure(large)
    assert found.sampled is not None
    assert 20_000 < found.sampled < 30_000
    for sampled, whole in zip(found.scores, figures.scores, strict=True):
        assert sampled.quantiles["q50"] == pytest.approx(whole.quantiles["q50"], abs=0.05 * (whole.std or 0))
        for variable, rho in whole.spearman.items():
            assert sampled.spearman[variable] == pytest.approx(rho, abs=0.03)
    assert found.documents == figures.documents
    assert (found.duplicates.copies, found.contamination.exact) == (
        figures.duplicates.copies,
        figures.contamination.exact,
    )
    assert measure(large) == found


def test_equal_scores_and_a_single_document_have_figures(small: Callable[..., Run]) -> None:
    same = measure(small("same", [1.0] * 50))
    assert same.scores[0].histogram.counts == (50,)
    assert same.scores[0].spearman["n_tokens"] is None
    assert same.scores[0].mass == pytest.approx(0.02)  # of 50 documents the top 1 % is one
    one = measure(small("one", [-2.0]))
    assert one.documents == 1
    assert one.bands == {"n_tokens": (), "loss": (), "grad_norm": ()}


def test_a_run_without_scores_has_nothing_to_report(small: Callable[..., Run]) -> None:
    with pytest.raises(CurateError, match="holds no score"):
        measure(small("none", []))
