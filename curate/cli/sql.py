"""`curate sql`: read-only SQL over runs."""

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from curate.scores.run import Run
    from curate.scores.session import Session

_SHOWN = 40


@click.command(short_help="Ask questions of runs in SQL; without a query, in a shell.")
@click.argument("arguments", nargs=-1, metavar="[RUN]... [QUERY]")
@click.option("--json", "style", flag_value="json", help="Print rows as JSON.")
@click.option(
    "--csv",
    "style",
    flag_value="csv",
    help="Print rows as CSV; text that a spreadsheet would run as a formula (=, +, -, @) gets a ' before it.",
)
@click.option("--parquet", type=click.Path(dir_okay=False), help="Write rows to a Parquet file.")
@click.option("--limit", default=_SHOWN, show_default=True, type=click.IntRange(0), help="Rows of the table to show.")
@click.option("--db", type=click.Path(dir_okay=False), help="Write a DuckDB database file that any client opens.")
@click.option("--allow", multiple=True, type=click.Path(), help="Folder whose files queries may read, too; repeatable.")
@click.option("--pool", multiple=True, metavar="ADDRESS", help="Where the pool is now, if it has moved; repeatable.")
def command(
    arguments: tuple[str, ...],
    style: str | None,
    parquet: str | None,
    limit: int,
    db: str | None,
    allow: tuple[str, ...],
    pool: tuple[str, ...],
) -> None:
    """Query the scores of one or several runs by SQL; without a QUERY, in a shell.

    Arguments that are folders are runs, the other is the query; the default run is the latest under runs/. Views:
    scores, candidates, shards, skipped, runs, documents (the pool's own rows), and tokens (one row per token, of runs
    scored with --per-token). Queries cannot write, nor read other files, unless --allow opens their folder.

    \b
    curate sql "SELECT source, count(*), avg(score) FROM scores GROUP BY source ORDER BY 3 DESC"
    curate sql runs/a runs/b "SELECT corr(a.score, b.score) FROM a JOIN b USING (shard, row)"
    curate sql "SELECT text FROM documents JOIN scores USING (shard, row) ORDER BY score DESC LIMIT 3"
    curate sql "SELECT token, score FROM tokens WHERE doc_id = '17' ORDER BY position"
    """
    from curate.folders.local import refuse_place
    from curate.scores.session import open_session

    refuse_place(parquet, "--parquet")
    runs, query = _split(arguments)
    if db:
        if query:
            raise click.UsageError("--db writes the views; it takes no query.")
        _write_database(runs, db)
        return
    if query is None and parquet:
        raise click.UsageError("--parquet needs a query.")
    with open_session(runs, allow=allow, pool=pool or None) as session:
        if query is not None:
            _show(session, query, style=style, parquet=parquet, limit=limit)
            return
        from curate.cli._shell import run_shell

        worked = run_shell(session, lambda sql: _show(session, sql, style=style, parquet=None, limit=limit))
    if not worked and not sys.stdin.isatty():  # a script needs the exit code; a person has seen the error
        sys.exit(1)


def _split(arguments: tuple[str, ...]) -> tuple[list["Run"], str | None]:
    from curate.cli._runs import chosen_run

    # A word with a slash is no query but a missing folder, and opening it raises the right error.
    folders = [a for a in arguments if a and (_is_folder(a) or ("/" in a and not re.search(r"[\s('\"]", a)))]
    queries = [a for a in arguments if a not in folders]
    if len(queries) > 1:
        missing = next((q for q in queries if " " not in q.strip()), queries[0])
        raise click.UsageError(f"There are {len(queries)} queries; expected one. {missing!r} is no folder.")
    return [chosen_run(f) for f in folders] or [chosen_run(None)], queries[0] if queries else None


def _is_folder(argument: str) -> bool:
    try:
        return Path(argument).is_dir()
    except OSError:  # a query longer than a file's name may be
        return False


def _show(session: "Session", sql: str, **how: Any) -> None:
    """Run a query and show its rows; Ctrl-C stops it."""
    from curate.cli._interrupting import stopping

    with stopping(session.connection):
        _show_rows(session, sql, **how)


def _show_rows(session: "Session", sql: str, *, style: str | None, parquet: str | None, limit: int) -> None:
    from curate.cli._output import print_rows, stderr, stdout

    result = session.query(sql)
    if parquet:
        from curate.scores.export import write_parquet

        rows = write_parquet(result, parquet)
        stderr.print(f"{rows:,} rows written to {parquet}", markup=False, soft_wrap=True)
    elif style:
        from curate.scores.export import write_csv, write_json

        (write_json if style == "json" else write_csv)(result, sys.stdout)
    else:
        rows = result.rows(limit + 1)
        columns = result.columns
        print_rows(columns, [_with_visible_tokens(columns, r) for r in rows[:limit]])
        if len(rows) > limit:
            count = session.count(sql)
            more = f"{count - limit:,} more rows" if count is not None else "more rows"
            stdout.print(f"… and {more}; --limit N shows more, --csv and --parquet FILE all", markup=False)


def _with_visible_tokens(columns: list[str], row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a row for a table: tokens in quotation marks, so that spaces and line ends show."""
    return tuple(
        json.dumps(v, ensure_ascii=False) if c == "token" and isinstance(v, str) else v
        for c, v in zip(columns, row, strict=True)
    )


def _write_database(runs: list["Run"], path: str) -> None:
    from curate.cli._output import stderr
    from curate.scores.export import write_database

    write_database(runs, path)
    stderr.print(f"scores, shards, skipped and runs written to {path}", markup=False, soft_wrap=True)
