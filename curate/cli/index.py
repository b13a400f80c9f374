"""`curate index`: write a pool's gradient sketches to disk once, for any number of targets."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from curate import methods
from curate.cli._methods import MethodCommand
from curate.cli._settings import continue_option, executor_options, given, part_option, place_of, settings_options
from curate.stores.settings import IndexSettings

if TYPE_CHECKING:
    from curate.pipeline.index import IndexPlan
    from curate.stores.approximate import IndexRecord
    from curate.stores.store import Store


@click.command(
    cls=MethodCommand,
    settings_of=lambda name: getattr(methods.get(name).STORE, "Settings", None),
    default=methods.DEFAULT_OF_STORES,
    short_help="Keep a pool's gradient sketches on disk: a new target then costs seconds.",
)
@settings_options(IndexSettings)
@click.option(
    "--search",
    default="auto",
    show_default=True,
    help="Approximate index: auto (from 50 000 documents on), none, or a FAISS factory: BHNSW32, IVF1024,PQ64 …",
)
@continue_option
@click.option("--out", type=click.Path(path_type=Path), help="The store's folder.  [default: stores/POOL]")
@executor_options
@part_option
@click.option("--strict", is_flag=True, help="A damaged shard is an error, once all others are done.")
@click.option("--dry-run", is_flag=True, help="Measure a small part, estimate the whole, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the store and its totals as JSON.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    out: Path | None,
    search: str,
    workers: str,
    executor: str | None,
    part: str | None,
    strict: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write the gradient sketches of a pool to disk, so that a new target costs seconds.

    \b
    curate index --pool pile/ --dry-run                        # what will it take?
    curate index --pool pile/ --model proxy/ --out stores/pile
    curate index --continue stores/pile                        # go on after a stop
    curate index --pool pile/ --out stores/pile --part 3/64     # an array job; Slurm: --executor array
    curate index --pool pile/ --dim 16 --storage int8 --search HNSW32
    curate score --target val.jsonl --store stores/pile
    curate query stores/pile --text "The capital of France is"
    curate index --pool pile/ --method less --model proxies/less --out stores/less
    curate score --target val.jsonl --store stores/less        # its own gradients alone, at every checkpoint

    One pass over the pool. The same command, or --continue, goes on where it stopped; for a pool with new shards it
    adds those, and keeps what was fitted on the first pool, so that scores compare.
    """
    from curate.cli._output import RichReporter, planned, print_alarm
    from curate.pipeline import index
    from curate.scores.arithmetic import arithmetic_warning
    from curate.scores.counts import lost_rows

    settings = IndexSettings.of(given(ctx, IndexSettings, options))
    out = place_of(ctx, out)
    if dry_run:
        _print_plan(planned(index.plan, settings, out), as_json)
        return
    with RichReporter() as reporter:
        how = {"workers": workers, "executor": executor, "part": part, "strict": strict}
        store = index.run(settings, out, search=search, **how, reporter=reporter)
        search_index = index.make_search(store, search) if store.is_finished else None
    if store.is_finished or as_json:  # one of several jobs may leave the end to others
        _print(store, search_index, as_json)
    lost = lost_rows(store.totals) if store.totals else None  # one of several jobs may leave the end to others
    for warning in (arithmetic_warning(store.record.details), lost):
        if warning:
            print_alarm(warning)


def _print_plan(plan: "IndexPlan", as_json: bool) -> None:
    from curate.amounts import duration, size
    from curate.cli._output import print_plan

    rows: list[tuple[str, Any]] = [
        ("documents to index, about", plan.documents),
        ("their tokens, about", plan.tokens),
        ("numbers of a sketch", plan.numbers_per_document),
        ("bytes of a sketch on disk", plan.bytes_per_document),
        ("sketches on disk", size(plan.disk_bytes)),
        ("text before compression, about", size(plan.documents * plan.text_bytes_per_document)),
        ("documents a second, measured", round(plan.documents_per_second)),
        ("time, about", duration(plan.seconds)),
        ("memory, measured on the small part", size(plan.memory_bytes)),
    ]
    if plan.method is not None:
        rows += plan.method.rows().items()
    print_plan(plan, rows, as_json=as_json)


def _print(store: "Store", search_index: "IndexRecord | None", as_json: bool) -> None:
    from dataclasses import asdict

    from curate.amounts import counted, size
    from curate.cli._output import print_json, stderr, stdout

    totals = store.totals or {}
    if as_json:
        search_record = None if search_index is None else asdict(search_index)
        summary = {"store": store.address, "finished": store.is_finished, "sketch_bytes": store.sketch_bytes}
        print_json({**summary, **totals, "search": search_record})
        return
    stdout.print(
        f"{counted(totals['documents'], 'document')}, {counted(totals['tokens'], 'token')} indexed in {store.address}: "
        f"{size(store.sketch_bytes)} of sketches, {store.storage.bytes_per_document:,} bytes each",
        soft_wrap=True,
    )
    for reason, count in totals["skipped"].items():
        stdout.print(f"{counted(count, 'row')} set aside: {reason}", soft_wrap=True)
    if search_index is not None:
        stdout.print(
            f"approximate index {search_index.factory}: {search_index.recall:.3f} of the ten nearest found (recall@10"
            f" against the exact search, on the store's own documents), {search_index.milliseconds:.3g} ms a query,"
            f" exactly {search_index.exact_milliseconds:.3g} ms",
            soft_wrap=True,
        )
    path = shlex.quote(store.address)
    next_ = f"next: curate score --target FILE --store {path}   or   curate query {path}"
    stderr.print(next_, soft_wrap=True, style="dim")
