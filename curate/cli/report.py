"""`curate report`: judge runs before their scores are trusted."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from curate.reports.report import Report


@click.command(short_help="Judge a run before its scores are trusted: one HTML page.")
@click.argument("runs", nargs=-1, type=click.Path(), metavar="[RUN]...")
@click.option("--out", type=click.Path(), help="The page; with --json only where given.  [default: report.html]")
@click.option("--by", metavar="COLUMN", help="Column of the pool to compare by.  [default: source, else shard]")
@click.option("--pool", multiple=True, metavar="ADDRESS", help="Where the pool is now, if it has moved; repeatable.")
@click.option("--no-texts", is_flag=True, help="Show previews of documents; the pool is not read.")
@click.option("--json", "as_json", is_flag=True, help="Print every figure and verdict as one JSON document.")
def command(
    runs: tuple[str, ...], out: str | None, by: str | None, pool: tuple[str, ...], no_texts: bool, as_json: bool
) -> None:
    """Write a trust report of one run, or of several and how they agree, as one HTML file that needs no network.

    The default RUN is the latest under runs/. The page begins with what must be known: what the checks say, which
    sources win and lose, the best and worst documents, and whether a selection was verified. It goes on with how
    scores are distributed, what they follow (length, loss, gradient norm), which sources and groups they choose,
    duplicates, contamination, coverage, arithmetic, and the best and worst documents with their text; every verdict
    gives its threshold and what to do.

    \b
    curate report
    curate report runs/x --out report.html --by language
    curate report runs/x runs/bm25 runs/random --out compared.html
    curate report runs/x --json
    """
    from curate.cli._output import RichReporter, print_alarm, print_json, stdout
    from curate.cli._runs import chosen_run
    from curate.cli._trust import print_pairs, print_trust
    from curate.reports.report import report

    opened_runs = [chosen_run(r) for r in runs] or [chosen_run(None)]
    page = out or (None if as_json else "report.html")
    with RichReporter() as reporter:
        written: Report = report(opened_runs, out=page, by=by, pool=pool or None, texts=not no_texts, reporter=reporter)
    if as_json:
        print_json(written.record())
        return
    for judged in written.runs:
        print_trust(judged, title=judged.figures.path)
        if warning := judged.figures.arithmetic_warning:
            print_alarm(warning)
    print_pairs(written.pairs)
    stdout.print(f"written to {written.out}", markup=False, soft_wrap=True)
