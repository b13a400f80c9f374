"""The first screen of a report."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from curate.reports.finding import ALARM, FINE, NOTE, WARNING, Finding
from curate.reports.report import report
from curate.reports.summary import summary
from curate.scores.run import Run


def finding(about: str, level: str) -> Finding:
    return Finding(about=about, level=level, figure="1", says="", do=None, threshold="")


@pytest.mark.parametrize(
    ("levels", "said"),
    [
        ([FINE, FINE], "None of the 2 checks found a fault."),
        ([FINE, NOTE], "None of the 2 checks found a fault; worth a look: 1."),
        ([WARNING, NOTE], "Usable with care: read about 0 first."),
        ([NOTE, WARNING, ALARM], "Do not select by these scores before you have read: 2, 1."),
    ],
)
def test_the_verdicts_come_first(large: Run, levels: list[str], said: str) -> None:
    figures = report(large).runs[0].figures
    findings = [finding(str(i), level) for i, level in enumerate(levels)]
    assert summary(figures, findings, []).sentences[0] == said


def test_sources_that_win_and_lose_are_named_and_tiny_ones_are_not(large: Run) -> None:
    judged = report(large).runs[0]
    assert judged.summary.winners[0].value == "code"
    assert {s.value for s in judged.summary.losers} <= {"web", "books", None}
    assert "more than the pool does of code (" in " ".join(judged.summary.sentences)
    tiny = replace(judged.figures.sources[0], value="tiny", documents=3, enrichment=20.0, share_of_best={"score": 0.03})
    figures = replace(judged.figures, sources=(tiny, *judged.figures.sources))
    assert summary(figures, [], []).winners == judged.summary.winners
    small_but_most_of_the_best = replace(tiny, documents=19, share_of_best={"score": 0.72})
    figures = replace(judged.figures, sources=(small_but_most_of_the_best, *judged.figures.sources))
    assert summary(figures, [], []).winners[0].value == "tiny"


def test_a_verification_of_the_runs_own_selection_is_told_and_no_others(large: Run, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "Not measured yet" in report(large).runs[0].summary.sentences[-1]
    for name, settings in (("mine", large.record.json["settings"]), ("other", {"method": "loss"})):
        (tmp_path / name).mkdir()
        record = {"settings": settings, "fingerprints": large.record.json["fingerprints"]}
        (tmp_path / name / "manifest.json").write_text(json.dumps({"run": record}))
        (tmp_path / f"{name}-verified").mkdir()
        proof = {"sentence": f"{name} beats random.", "selection": f"somewhere/{name}"}
        (tmp_path / f"{name}-verified" / "verify.json").write_text(json.dumps(proof))
    sentences = report(large).runs[0].summary.sentences
    assert sentences[-1] == "mine-verified: mine beats random."
    assert not any("other" in s for s in sentences)


def test_the_first_screen_of_the_page_has_sentences_sources_and_documents(large: Run, tmp_path: Path) -> None:
    written = report(large, out=tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    first = re.sub(r"<[^>]+>", " ", page[page.index("<main>") : page.index("What the checks say")])
    assert "Which source wins" in first
    assert "The best documents" in first
    assert "The worst documents" in first
    assert "normalize" not in first
    best = written.runs[0].figures.excerpts[0]
    assert best.text[:40] in first
