"""The page of a report: one HTML file that holds all it needs, the same bytes for the same figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from curate import __version__
from curate.reports import plots
from curate.reports.figures import OVERLAP, VARIABLES, Figures, Pair
from curate.reports.finding import FINE, LEVELS, Finding
from curate.reports.ranking_verdicts import FOLLOWS, HEAVY
from curate.reports.summary import Summary
from curate.reports.tokens import coloured
from curate.reports.writing import number, percent, rho, unbroken, with_code
from curate.visible import visible

MADE_HERE = "<!-- made by `curate report` -->"
"""A mark in the page, so that a report replaces no other file."""
_FOLDER = Path(__file__).parent


def page(
    judged: Sequence[tuple[Figures, Sequence[Finding], Summary]],
    pairs: Sequence[tuple[Pair, Finding]],
    *,
    compared_on: int = 1,
) -> str:
    """Write the HTML of one run or several.

    Foreign text (paths, names, values, documents) is escaped where it is printed, its control characters shown.
    """
    runs = [_view(*run) for run in judged]
    possible = len(runs) * (len(runs) - 1) // 2
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            title=f"curate report: {', '.join(figures.path for figures, *_ in judged)}",
            css=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),
            runs=runs,
            several=len(runs) > 1,
            pairs=[{"pair": pair, "finding": finding} for pair, finding in pairs],
            strangers=possible > len(pairs),
            compared_on=compared_on if compared_on > 1 else None,
            version=__version__,
        )
    )


def environment() -> Environment:
    """Return the templates' environment, which escapes foreign text and shows its control characters."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    environment.filters |= {
        "code": with_code,
        "number": number,
        "percent": lambda share: unbroken(percent(share)),
        "rho": rho,
        "unbroken": unbroken,
    }
    environment.globals |= {
        "bands": plots.bands,
        "box": plots.box,
        "coloured": coloured,
        "concentration": plots.concentration,
        "distribution": plots.distribution,
        "small_distribution": plots.small_distribution,
        "follows": FOLLOWS,
        "heavy": HEAVY,
        "overlap": OVERLAP,
        "variables": VARIABLES,
    }
    return environment


def _view(figures: Figures, findings: Sequence[Finding], summary: Summary) -> dict[str, Any]:
    """Arrange a run for the template."""
    ranked = sorted(findings, key=lambda f: LEVELS.index(f.level))
    low, high = _range(figures)
    groups = [
        (s.label, [e for e in figures.excerpts if e.column == s.column])
        for s in figures.scores[1:]
    ]  # fmt: skip
    return {
        "figures": figures,
        "summary": summary,
        "worst": [f for f in ranked if f.level != FINE],
        "fine": [f for f in ranked if f.level == FINE],
        "levels": [(level, n) for level in LEVELS if (n := sum(f.level == level for f in findings))],
        "low": low,
        "high": high,
        "best": [e for e in figures.excerpts if e.column == "score" and e.best],
        "worst_documents": [e for e in figures.excerpts if e.column == "score" and not e.best],
        "best_of_groups": [(label, excerpts) for label, excerpts in groups if excerpts],
    }


def _range(figures: Figures) -> tuple[float, float]:
    """Return the range of the sources' boxes: their own, within nearly all of the run's."""
    quantiles = figures.scores[0].quantiles
    low = min(s.quantiles["q05"] or 0.0 for s in figures.sources)
    high = max(s.quantiles["q95"] or 0.0 for s in figures.sources)
    return max(low, quantiles["q01"] or 0.0), min(high, quantiles["q99"] or 0.0)
