"""`curate query`: find the documents of a store with the nearest gradients to a text's."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from curate.cli._settings import given, settings_options
from curate.fields import Fields
from curate.settings import build, option, settings

if TYPE_CHECKING:
    from curate.schema import Document
    from curate.stores.query import Hit, Searcher

ROOT = Path("stores")


@settings
class QuerySettings:
    """The columns of a file's rows."""

    fields: Fields = option(factory=Fields, help="Columns of the file.", suffix="-column")


@click.command(short_help="Find the documents of a store whose gradients are nearest to a text's.")
@click.argument("store", required=False, type=click.Path(path_type=Path))
@click.option("--text", "texts", multiple=True, help="A text to search by; repeatable.")
@click.option(
    "--file", "files", multiple=True, help="File of rows to search by: text, or prompt and completion; repeatable."
)
@click.option(
    "-k", "--nearest", type=click.IntRange(min=1), default=10, show_default=True, help="Documents to return for each."
)
@click.option("--exact", is_flag=True, help="Search every document, even where the store has an approximate index.")
@settings_options(QuerySettings)
@click.option("--json", "as_json", is_flag=True, help="Print the documents as JSON, with whole texts.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    store: Path | None,
    texts: tuple[str, ...],
    files: tuple[str, ...],
    nearest: int,
    exact: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Find the documents of STORE whose gradients lie nearest to a text's.

    \b
    curate query stores/pile --text "The capital of France is" -k 10
    curate query stores/pile --file questions.jsonl --json
    curate query stores/pile                               # asks for texts, one after the other

    STORE is a folder of `curate index`; the default is the latest under stores/. The score is the cosine of whitened
    gradients: above 0, training on the document lowers the text's loss. Of a prompt with its completion, the completion
    alone carries loss.
    """
    from curate.cli._output import RichReporter, loading

    fields = build(QuerySettings, given(ctx, QuerySettings, options), owner="A query").fields
    with loading():
        from curate.stores.query import Searcher
    chosen_store, queries = _chosen(store), _queries(texts, files, fields)
    with RichReporter() as reporter:
        searcher = Searcher.open(chosen_store, exact=exact, reporter=reporter)
        hits_by_query = searcher.query(queries, nearest)
    if as_json:
        _print_json(queries, hits_by_query)
    elif queries:
        for query, hits in zip(queries, hits_by_query, strict=True):
            _print(query if isinstance(query, str) else query.preview, hits)
    else:
        _converse(searcher, nearest)


def _chosen(path: Path | None) -> Any:
    from curate.cli._output import stderr
    from curate.errors import CurateError
    from curate.stores.store import Store

    if path is not None:
        return Store.open(path)
    if not (latest := Store.newest_first(ROOT)):
        raise CurateError(f"There is no store under {ROOT}/.", hint=Store.WHICH)
    stderr.print(f"store: {latest[0]}", style="dim", soft_wrap=True, markup=False)
    return Store.open(latest[0])


def _queries(texts: Sequence[str], files: Sequence[str], fields: Any) -> "list[str | Document]":
    from curate.documents import read_target

    queries: list[Any] = [*texts]
    for file in files:
        target = read_target(file, fields)
        for skipped in target.skipped:
            click.echo(f"{file}, row {skipped.row}: set aside: {skipped.reason}", err=True)
        queries += target.documents
    return queries


def _print(query: str, hits: "list[Hit]") -> None:
    from curate.cli._output import print_rows, stdout

    stdout.print(f"{' '.join(query.split())[:200]}", style="bold", markup=False, soft_wrap=True)
    source = next((c for c in ("source", "domain", "url") if hits and c in hits[0].columns), None)
    rows = [
        (
            h.rank,
            h.score,
            h.columns.get(source, h.shard) if source else h.shard,
            h.doc_id,
            " ".join(h.text.split()),
        )
        for h in hits
    ]
    print_rows(("rank", "score", source or "shard", "id", "text"), rows)


def _print_json(queries: "Sequence[str | Document]", hits_by_query: "list[list[Hit]]") -> None:
    from dataclasses import asdict

    from curate.cli._output import print_json

    print_json(
        [
            {
                "query": q if isinstance(q, str) else q.plain_text,
                "id": None if isinstance(q, str) else q.doc_id,
                "hits": [asdict(h) for h in hits],
            }
            for q, hits in zip(queries, hits_by_query, strict=True)
        ]
    )


def _converse(searcher: "Searcher", nearest: int) -> None:
    """Prompt for texts, a line each, until an empty one."""
    from curate.cli._output import print_error, stderr
    from curate.errors import CurateError

    stderr.print(f"{len(searcher.store):,} documents. A text, then return; an empty line or Ctrl-D ends.", style="dim")
    while True:
        try:
            text = click.prompt("text", default="", show_default=False, prompt_suffix="> ", err=True)
        except click.Abort:
            return
        if not text.strip():
            return
        try:
            _print(text, searcher.query([text], nearest)[0])
        except CurateError as error:
            print_error(error)
