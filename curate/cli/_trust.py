"""Print the short form of a trust report: a table of all checks, and the verdicts that are not fine."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from curate.cli._output import print_table, stdout

if TYPE_CHECKING:
    from curate.progress import Reporter
    from curate.reports.figures import Pair
    from curate.reports.finding import Finding
    from curate.reports.report import Judged
    from curate.scores.run import Run


def judged(run: "Run", reporter: "Reporter") -> "Judged | None":
    """Return a run's judgement; None where it has no document to judge.

    A run that cannot be read back gives a warning: its scores exist.
    """
    from curate.errors import CurateError
    from curate.reports.report import judge

    if not (run.totals or {}).get("documents"):
        return None
    try:
        with reporter.stage("trust report", total=1, unit="runs") as stage:
            judgement = judge(run)
            stage.advance(1)
    except CurateError as error:
        reporter.warn(f"No trust report: {error}")
        return None
    return judgement


def print_trust(judged: "Judged", *, title: str | None = None) -> None:
    """Print a run's summary where there is a title, its checks with their figures, then the verdicts that are not fine.

    Problems of the arithmetic are left to the red box (`print_alarm`).
    """
    from curate.reports.finding import FINE, LEVELS

    if title is not None:
        stdout.print(title, style="bold", soft_wrap=True)
        for sentence in judged.summary.sentences:
            stdout.print(f"- {sentence.replace('`', '')}", soft_wrap=True)
    rows = [(f.about, f.figure, f.level) for f in judged.findings]
    print_table(("trust", "figure", "verdict"), rows)
    for finding in sorted(judged.findings, key=lambda f: LEVELS.index(f.level)):
        if finding.level != FINE and finding.about != "arithmetic":
            _print(finding)


def print_pairs(pairs: Sequence[tuple["Pair", "Finding"]]) -> None:
    """Print how every two runs agree."""
    if not pairs:
        return
    rows = [
        (p.left, p.right, p.documents, p.spearman, p.overlap.get("1 %"), p.overlap.get("5 %"), f.says)
        for p, f in pairs
    ]  # fmt: skip
    print_table(("run", "run", "documents", "ρ", "best 1 % shared", "best 5 % shared", "verdict"), rows)


def short(judged: "Judged | None") -> dict[str, Any]:
    """Return the short form as JSON values: every check by name."""
    if judged is None:
        return {}
    return {f.about: {"level": f.level, "figure": f.figure, "says": f.says, "do": f.do} for f in judged.findings}


def _print(finding: "Finding") -> None:
    do = f" {finding.do.replace('`', '')}" if finding.do else ""
    text = f"{finding.level}, {finding.about}: {finding.says.replace('`', '')}{do}"
    stdout.print(text, markup=False, soft_wrap=True)
