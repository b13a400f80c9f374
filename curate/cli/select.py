"""`curate select`: from scores to a dataset, in seconds and without scoring again."""

import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from curate.cli._settings import format_option

if TYPE_CHECKING:
    from pathlib import Path

    from curate.cli._output import RichReporter
    from curate.scores.run import Run
    from curate.selection.selection import Selection
    from curate.selection.steps import FilterChoice

_LISTED = 12
_FILTER, _PARAM = ("--filter", "-f"), ("--param", "-p")


class _InOrder(click.Command):
    """Tie every -p to the --filter before it: click itself forgets the order of options of different names."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _numbered(ctx, args))


def _numbered(ctx: click.Context, args: Sequence[str]) -> list[str]:
    """Write the number of its filter before every parameter: `-p by=source` becomes `-p 0:by=source`."""
    numbered, filters, rest = [], -1, iter(args)
    for arg in rest:
        flag, joined, value = arg.partition("=") if arg.startswith("--") else (arg[:2], arg[2:], arg[2:])
        if flag in _FILTER:
            filters += 1
        if flag not in _PARAM:
            numbered.append(arg)
            continue
        if filters < 0:
            ctx.fail(f"{arg}: a parameter belongs to the --filter before it, and there is none.")
        numbered += [flag, f"{filters}:{value if joined else next(rest, '')}"]
    return numbered


@click.command(cls=_InOrder, short_help="Choose documents, or their tokens, by their scores: a dataset.")
@click.argument("runs", nargs=-1, type=click.Path(), metavar="[RUN]")
@click.option(
    "--top",
    metavar="SHARE|N",
    help="Keep the best: a share (5%, 0.05) or a number of documents. Of a run of `curate score --only` a share is one"
    " of all documents that it was narrowed from. With --unit token a share of the tokens, or a number of them.",
)
@click.option("--budget", metavar="TOKENS", help="Keep the best up to so many tokens: 20M, 1.5B.")
@click.option(
    "--documents", metavar="SHARE|N", help="With --unit token: choose among the tokens of the best documents."
)
@click.option(
    "--smooth",
    type=click.Choice(["none", "sentence", "line", "turn"]),
    help="With --unit token: what has its tokens' mean score and is chosen whole.  [default: none]",
)
@click.option(
    "-f", "--filter", "names", multiple=True, metavar="NAME|FILE.sql", help="A filter; repeatable, in this order."
)
@click.option(
    "-p", "--param", "params", multiple=True, metavar="KEY=VALUE", help="A parameter of the --filter before it."
)
@click.option(
    "--rank-by",
    type=click.Choice(["score", "density"]),
    help="Rank by the score or by the score per token.  [default: score]",
)
@click.option("--group", metavar="NAME", help="Rank by this target group's scores.  [default: all]")
@click.option("--list-filters", is_flag=True, help="Show the filters and their parameters, and stop.")
@click.option("--store", metavar="STORE", help="Gradient store for filters on likeness.  [default: the run's]")
@click.option("--no-decontaminate", is_flag=True, help="Keep documents that hold rows of the target.")
@click.option(
    "--aggregate",
    type=click.Choice(["score", "round-robin"]),
    help="Take the best by score, or let every target group choose in turn.  [default: as the run was scored]",
)
@click.option(
    "--unit",
    type=click.Choice(["document", "shard", "token"]),
    default="document",
    show_default=True,
    help="Choose documents, whole shards, or tokens of a run that was scored with --per-token.",
)
@click.option(
    "--shard-score",
    default="mean",
    show_default=True,
    help="A shard's score: the mean, sum, max, q05 … q95 of its documents.",
)
@click.option("--out", default="selected", show_default=True, type=click.Path(), help="Folder of the dataset.")
@format_option
@click.option("--tokenised", is_flag=True, help="Write input_ids and labels; -100 where a token carries no loss.")
@click.option("--tokenizer", metavar="DIR", help="Tokenizer of input_ids and labels.  [default: the proxy's]")
@click.option("--pack", type=int, metavar="TOKENS", help="Join tokenised documents to rows of this length.")
@click.option("--map", is_flag=True, help="Add columns x and y, places on a map by the proxy's embeddings.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier selection in --out.")
@click.option("--dry-run", is_flag=True, help="Show the documents left by every filter; write nothing.")
@click.option("--partial", is_flag=True, help="Select from a run that is not finished.")
@click.option("--pool", multiple=True, metavar="ADDRESS", help="Where the pool is now, if it has moved; repeatable.")
@click.option(
    "--by",
    metavar="COLUMN",
    help="Column to compare composition by.  [default: that of a quota, else source, else shard]",
)
@click.option(
    "--workers",
    default="auto",
    metavar="N",
    show_default=True,
    help="Processes that share the writing, shard by shard; auto: one per core where there is enough to write.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    runs: tuple[str, ...],
    top: str | None,
    budget: str | None,
    names: tuple[str, ...],
    params: tuple[str, ...],
    list_filters: bool,
    store: str | None,
    no_decontaminate: bool,
    out: str,
    dry_run: bool,
    pool: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Choose documents, or their tokens, by their scores and write them as a dataset.

    RUN is a folder of `curate score`; the default is the latest under runs/. Documents that hold a row of the
    target are dropped first; then come the filters in the order given, then --top and --budget. The dataset keeps
    the pool's columns, adds the scores, and loads with datasets.load_dataset. With --unit token it also has the
    chosen stretches of each text (spans), and that text as input_ids and labels: -100 where a token carries no loss.

    \b
    curate select --top 5%                                     # the best 5 % of the latest run, into selected/
    curate select runs/x --top 30000                           # the best 30 000 documents
    curate select runs/x --budget 20M --group law --rank-by density
    curate select --list-filters                               # what else can be asked for
    curate select runs/x --budget 20M --filter quota -p by=source --filter dedup --dry-run
    curate select runs/x --filter mine.sql --unit shard --top 20%
    curate select runs/x --top 5% --filter dedup -p near=0.97 --filter diverse --store stores/pile
    curate select runs/x --unit token --documents 20% --top 20% --smooth sentence --tokenised
    curate select runs/x --budget 20M --tokenised --pack 2048 --format parquet   # rows of tokens, for any trainer
    curate select runs/x --budget 20M --tokenizer models/7b --format megatron

    HANDOVER.md beside the dataset holds the lines that load it into TRL, axolotl, LLaMA-Factory and transformers'
    Trainer. Tokenised documents are whole, and masked as they were scored: prompts and users' turns carry no loss.
    Packed documents each end in the tokenizer's end token; attention crosses them, loss does not.
    """
    from curate.cli._output import RichReporter, print_json

    if list_filters:
        _print_filters(as_json)
        return
    from curate.cli._runs import chosen_run
    from curate.errors import SettingsError
    from curate.pipeline import select

    filters = _filters(names, params)
    if len(runs) > 1:
        merge = shlex.join(["curate", "merge", *runs, "--out", "runs/all"])
        raise SettingsError(
            f"{len(runs)} runs are given; expected one.", hint=f"Runs of slices of a pool become one first: {merge}"
        )
    opened_run = chosen_run(*runs or (None,))
    with RichReporter() as reporter:
        selection = select.run(
            opened_run,
            filters=filters,
            top=top,
            budget=budget,
            decontaminate=not no_decontaminate,
            out=None if dry_run else out,
            pool=pool or None,
            neighbours=_neighbours(filters, opened_run, store or opened_run.located_settings.get("store"), reporter),
            reporter=reporter,
            **options,
        )
    if as_json:
        print_json({**selection.record(), "out": str(selection.out) if selection.out else None})
    else:
        _print_selection(selection, options["format"])
        if selection.out:
            _print_next(selection.out, opened_run)


def _print_next(out: "Path | str", run: "Run") -> None:
    from curate.cli._output import stderr
    from curate.documents.holdout import HELDOUT

    verify = f"   or   {shlex.join(['curate', 'verify', str(out)])}" if run.folder.exists(HELDOUT) else ""
    stderr.print(f"next: {out}/HANDOVER.md loads it into a trainer{verify}", soft_wrap=True, style="dim")


def _filters(names: Sequence[str], params: Iterable[str]) -> list["FilterChoice"]:
    parameters: list[dict[str, str]] = [{} for _ in names]
    for param in params:
        number, _, text = param.partition(":")
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise click.UsageError(f"-p is {text}; expected KEY=VALUE.")
        parameters[int(number)][key.strip()] = value
    return list(zip(names, parameters, strict=True))


def _neighbours(
    filters: "Sequence[FilterChoice]", run: "Run", store: str | None, reporter: "RichReporter"
) -> "Path | None":
    """Find the store's pairs of near documents where a filter reads them; only then import torch."""
    from curate.selection.filters import needs_neighbours

    if store is None or not needs_neighbours(filters):
        return None
    from curate.errors import SettingsError
    from curate.pipeline.index import neighbours
    from curate.stores.store import Store

    opened = Store.open(store)
    pool = opened.record.details.pool_fingerprint
    same = run.located_settings.get("store") == store or run.record.fingerprints.pool == pool
    if not same:
        raise SettingsError(
            f"{store} does not hold the pool that {run.address} scored.",
            hint="Name a store of that pool.",
        )
    return neighbours(opened, reporter=reporter)


def _print_selection(selection: "Selection", format: str) -> None:
    from curate.amounts import counted
    from curate.cli._output import print_table, stdout

    rows: list[tuple[Any, ...]] = [("(all)", None, selection.documents_before, selection.tokens_before, None)]
    for s in selection.stages:
        parameters = ", ".join(f"{k}={v}" for k, v in s.asked.items())
        if s.ranked_by and not selection.ranking.is_plain:
            parameters += f"{', ' if parameters else ''}by {', '.join(s.ranked_by)}"
        kept = f"{s.kept:,} {'shard' if s.kept == 1 else 'shards'}; " if s.unit == "shard" else ""
        rows.append((s.name, s.documents_dropped, s.documents, s.tokens, kept + parameters))
    print_table(("filter", "dropped", "documents", "tokens", "parameters"), rows)
    _print_composition(selection)
    for change in selection.changes:
        stdout.print(f"changed: {change}", markup=False, soft_wrap=True)
    if selection.changes and format != "jsonl.zst" and selection.token_count is None:
        stdout.print("Rows of JSON lines stay as they are with --format jsonl.zst.", markup=False, soft_wrap=True)
    figures = selection.token_figures
    chosen = "" if figures is None else f" chosen ({figures.carrying_loss:,} carry loss, of {figures.tokens:,} in all)"
    if (count := selection.token_count) is not None:
        marks = f", {count.end_marks:,} of them added to end documents" if count.end_marks else ""
        text = f"{count.rows:,} rows of {count.tokens:,} tokens{marks}; {count.loss_tokens:,} carry loss"
        stdout.print(text, markup=False, soft_wrap=True)
    where = f"written to {selection.out}" if selection.out else "dry run: nothing written"
    amount = f"{counted(selection.documents, 'document')}, {counted(selection.tokens, 'token')}"
    stdout.print(f"{amount}{chosen}; {where} ({selection.seconds:.1f} s)", markup=False, soft_wrap=True)


def _print_composition(selection: "Selection") -> None:
    """Print the commonest values of a column among the chosen documents, and how many more there are."""
    from curate.cli._output import print_table, stdout

    chosen = [c for c in selection.composition if c.documents]
    print_table(
        (selection.by, "documents", "of", "tokens", "× its share", f"mean {selection.ranked_by}"),
        [
            (c.value, c.documents, c.pool_documents, c.tokens, round(c.enrichment, 2), c.mean_score)
            for c in chosen[:_LISTED]
        ],
    )
    for rest, what in (
        (len(chosen) - _LISTED, "more"),
        (len(selection.composition) - len(chosen), "without a document"),
    ):
        if rest > 0:
            stdout.print(f"… and {rest:,} {what}")


def _print_filters(as_json: bool) -> None:
    from dataclasses import asdict

    from curate.cli._output import print_json, stdout
    from curate.selection.filters import named_filters

    filters = named_filters().values()
    if as_json:
        print_json([asdict(f) for f in filters])
        return
    for f in filters:
        stdout.print(f"{f.name}: {f.summary}", style="bold", markup=False, soft_wrap=True)
        for p in f.params:
            stdout.print(f"    {p.name:<12} {p.type:<8} {p.default:<13} {p.meaning}", markup=False, soft_wrap=True)
