"""What a person must know of a run first: what the checks say, which sources win and lose, what is proven."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.reports.figures import Figures, Source
from curate.reports.finding import ALARM, FINE, WARNING, Finding
from curate.reports.writing import number, percent
from curate.scores.run import Run

_ENDS = 3
_ENOUGH = 20
"""Documents of a source, below which its share of the best is chance, unless that share is large."""
_LARGE = 0.1
"""Documents from which a source is judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The first screen of a report."""

    sentences: tuple[str, ...]
    winners: tuple[Source, ...]
    """Sources with more than their share of the best 5 %, the most over-represented first."""
    losers: tuple[Source, ...]
    """Sources with less than their share, the least represented first."""


def summary(figures: Figures, findings: Sequence[Finding], verified: Sequence[str]) -> Summary:
    """Sum a run up; `verified` are the sentences of verifications of its selections."""
    ranked = sorted(
        (s for s in figures.sources if _counts(s, figures.scores[0].column) and s.enrichment is not None),
        key=lambda s: -(s.enrichment or 0),
    )
    winners = tuple(s for s in ranked if (s.enrichment or 0) > 1)[:_ENDS]
    losers = tuple(s for s in reversed(ranked) if (s.enrichment or 0) < 1)[:_ENDS]
    positive = percent(figures.scores[0].positive)
    sentences = [
        _judgement(findings),
        *([f"The run holds {figures.narrowed}."] if figures.narrowed else []),
        *([_ends(figures.by, winners, losers)] if winners and losers else []),
        f"{positive} of {number(figures.documents)} documents score above 0: more weight on them lowers the target's "
        "loss.",
        *verified,
    ]
    if not verified:
        sentences.append(
            "Not measured yet: whether training on a selection beats random documents (`curate verify SELECTION`)."
        )
    return Summary(sentences=tuple(sentences), winners=winners, losers=losers)


def _counts(source: Source, column: str) -> bool:
    return source.documents >= _ENOUGH or source.share_of_best.get(column, 0.0) >= _LARGE


def _judgement(findings: Sequence[Finding]) -> str:
    alarms, warnings = ([f.about for f in findings if f.level == level] for level in (ALARM, WARNING))
    if alarms:
        return f"Do not select by these scores before you have read: {', '.join([*alarms, *warnings])}."
    if warnings:
        return f"Usable with care: read about {', '.join(warnings)} first."
    notes = [f.about for f in findings if f.level != FINE]
    worth = f"; worth a look: {', '.join(notes)}" if notes else ""
    return f"None of the {len(findings)} checks found a fault{worth}."


def _ends(by: str, winners: Sequence[Source], losers: Sequence[Source]) -> str:
    def named(sources: Sequence[Source]) -> str:
        return ", ".join(f"{s.value or '(none)'} ({number(s.enrichment, 2)} ×)" for s in sources)

    return f"By {by}, the best 5 % hold more than the pool does of {named(winners)}, and less of {named(losers)}."


def verifications(run: Run) -> list[str]:
    """Return what verifications of this run's selections say, of those that lie here or beside the run."""
    beside = (run.path.parent, run.path.parent.parent) if run.folder.is_here else ()
    places = dict.fromkeys(p.resolve() for p in (Path(), *beside))
    files = sorted({f for place in places for f in place.glob("*/verify.json")})
    return [f"{f.parent.name}: {content['sentence']}" for f, content in _read(files) if _is_of(f, content, run)]


def _read(files: Iterable[Path]) -> Iterable[tuple[Path, dict[str, Any]]]:
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and {"sentence", "selection"} <= content.keys():
            yield file, content


def _is_of(file: Path, content: dict[str, Any], run: Run) -> bool:
    """Return whether a verification's selection was made from the run."""
    selection = Path(content["selection"])
    for folder in (file.parent.parent / selection.name, selection):
        if (folder / "manifest.json").is_file():
            record = json.loads((folder / "manifest.json").read_text(encoding="utf-8")).get("run", {})
            return all(record.get(part) == run.record.json[part] for part in ("settings", "fingerprints"))
    return False
