"""`curate why`: say why one document of a run has its score."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from curate.reports.explanation import Explanation

_FAINT = 0.15  # weaker tokens are not coloured


@click.command(short_help="Say why a document was chosen: its tokens, and the target rows it helps and hurts.")
@click.argument("run", type=click.Path())
@click.argument("doc", required=False)
@click.option("--rank", type=click.IntRange(min=1), metavar="N", help="The N-th best document, in place of DOC.")
@click.option("--group", metavar="NAME", help="Group (or column) of the target that is meant.  [default: all]")
@click.option("--rows", type=click.IntRange(min=1), default=5, show_default=True, help="Rows to show on each side.")
@click.option(
    "--target-rows",
    metavar="N|all",
    help="Target rows that are scored one by one.  [default: some, drawn at random, in about a second]",
)
@click.option("--store", type=click.Path(), help="Gradient store to find near documents in.  [default: the run's]")
@click.option("--pool", multiple=True, metavar="ADDRESS", help="Where the pool is now, if it has moved; repeatable.")
@click.option("--html", type=click.Path(), metavar="FILE", help="Write one page that needs no network.")
@click.option("--json", "as_json", is_flag=True, help="Print every figure as one JSON document.")
def command(
    run: str,
    doc: str | None,
    rank: int | None,
    group: str | None,
    rows: int,
    target_rows: str | None,
    store: str | None,
    pool: tuple[str, ...],
    html: str | None,
    as_json: bool,
) -> None:
    """Say why the document DOC of RUN has its score. DOC is a doc_id, or shard:row.

    \b
    curate why runs/x web-1042
    curate why runs/x --rank 1                            # the best
    curate why runs/x pool-00.jsonl:17 --group law --html why.html
    curate why runs/x --rank 3 --target-rows all --json

    It tells score and rank; the tokens in colour, green where they raise the score and red where they lower it, which
    sum to the score; the target rows that it helps and hurts most, each scored as if it were the whole target; and near
    documents, where there is a gradient store. Nothing is fitted: the run keeps what it was scored along. Methods
    without scores of tokens (bm25, less, trackstar ...) tell score, rank and neighbours.
    """
    from curate.cli._output import RichReporter, loading, print_json, stdout

    with loading():
        from curate.pipeline import why
    number = int(target_rows) if target_rows is not None and target_rows.isdecimal() else target_rows
    with RichReporter() as reporter:
        explanation = why.run(
            run,
            doc,
            rank=rank,
            group=group,
            rows=rows,
            target_rows=number,
            store=store,
            pool=pool or None,
            html=html,
            reporter=reporter,
        )
    if as_json:
        print_json(explanation.record())
        return
    _print(explanation, rows)
    if html is not None:
        stdout.print(f"written to {html}", soft_wrap=True)


def _print(e: "Explanation", shown: int) -> None:
    from curate.cli._output import print_rows, print_table, stdout

    stdout.print(f"{e.doc_id}  ({e.shard}, row {e.row}; {e.n_tokens:,} tokens)", style="bold", soft_wrap=True)
    table = [(s.column, s.score, s.rank, s.documents, f"{100 * s.share:.2g} %" if s.share else "") for s in e.standings]
    print_table(("column", "score", "rank", "of", "share"), table)
    stdout.print(e.left_out, soft_wrap=True)
    if e.tokens_note is not None:
        stdout.print(e.tokens_note, soft_wrap=True)
    else:
        _print_tokens(e, shown)
    for title, scored in (("helped most", e.helps), ("hurt most", e.hurts)):
        if scored:
            lines = [(r.score, r.group, r.shard, r.row, r.text) for r in scored]
            stdout.print(f"\ntarget rows {title}", style="bold")
            print_rows(("score", "group", "file", "row", "text"), lines)
    if e.rows_note is not None:
        stdout.print(e.rows_note, soft_wrap=True)
    if e.neighbours:
        stdout.print(f"\nnearest documents in {e.store}", style="bold", soft_wrap=True)
        near = [(n.cosine, n.doc_id, n.shard, n.row, n.text) for n in e.neighbours]
        print_rows(("cosine", "doc_id", "shard", "row", "text"), near)


def _print_tokens(e: "Explanation", shown: int) -> None:
    """Print the document with its tokens coloured, then the strongest with their numbers."""
    from rich.text import Text

    from curate.cli._output import print_table, stdout
    from curate.reports.tokens import coloured
    from curate.visible import visible

    text = Text()
    for token, strength in coloured(e.tokens):
        text.append(visible(token.text), style=_colour(strength))
    stdout.print(text, soft_wrap=True)
    order = sorted(enumerate(e.tokens), key=lambda pair: -pair[1].score)
    best = [(i, t.text.strip(), t.score) for i, t in order[:shown] if t.score > 0]
    worst = [(i, t.text.strip(), t.score) for i, t in order[::-1][:shown] if t.score < 0]
    print_table(("position", "token", f"part of {e.column}"), [*best, *worst])


def _colour(strength: float) -> str:
    if abs(strength) < _FAINT:
        return ""
    pale = round(225 * (1 - abs(strength)))
    return f"black on rgb({pale},220,{pale})" if strength > 0 else f"black on rgb(255,{pale},{pale})"
