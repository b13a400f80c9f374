"""`curate quickstart`: run the main job from end to end, on text that every Python carries."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from curate.quickstart import Enrichment, LibraryPool

MARK = "quickstart.json"
# A model that two CPU cores train in a minute; the time limit is for slower ones.
_PROXY = "--layers 3 --width 128 --heads 2 --vocab-size 4096 --context 256 --batch-tokens 2048"
_LENGTH = "--tokens 300000 --minutes 0.8"
_QUERIES = (
    "SELECT source, count(*) AS documents, avg(score) AS mean_score FROM scores "
    "GROUP BY source HAVING count(*) >= 20 ORDER BY mean_score DESC LIMIT 8",
    "SELECT kind, count(*) AS documents, avg(score) AS mean_score, avg(n_tokens) AS mean_tokens FROM scores "
    "GROUP BY kind ORDER BY mean_score DESC",
    "SELECT doc_id, score, n_tokens FROM scores ORDER BY score DESC LIMIT 5",
)


@click.command(
    context_settings={"show_default": True},
    short_help="Try it all in three minutes, on text that every Python carries.",
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("quickstart"), help="Folder for everything.")
@click.option("--package", default="asyncio", help="Package of the standard library as the target.")
def command(out: Path, package: str) -> None:
    """Run the main job on the standard library's own sources: warm up, score, select, query.

    \b
    curate quickstart
    curate quickstart --package email --out elsewhere

    It holds out some of one package as the target and measures how much of the rest a selection of 5 % finds in a
    pool of 3 000 documents. It needs no network, and less than three minutes on two cores. It prints each command
    before it runs it. Everything lies under --out; a second run starts afresh there.
    """
    from curate.cli._output import RichReporter
    from curate.quickstart import LibrarySettings, build_library_pool, measure_enrichment

    _fresh(out)
    with RichReporter() as reporter, reporter.stage("reading the standard library"):
        built = build_library_pool(out, LibrarySettings(package=package))
    _say(
        f"pool:   {built.documents:,} documents in 5 shard formats, {built.in_package} of them from {package}\n"
        f"target: {built.target_rows} other documents from {package}"
    )
    _curate("warmup", "--pool", str(built.pool), "--out", str(out / "proxy"), *_PROXY.split(), *_LENGTH.split())
    run = str(out / "runs" / "trackstar")
    scoring = [
        "--pool",
        str(built.pool),
        "--model",
        str(out / "proxy"),
        "--method",
        "trackstar",
        "--background",
        "1000",
        "--out",
        run,
    ]
    _curate("score", "--target", str(built.target), *scoring)
    _curate("select", run, "--top", "5%", "--out", str(out / "selected"))
    for query in _QUERIES:
        _curate("sql", run, query)
    _print(measure_enrichment(out / "selected" / "train", built), built)


def _fresh(out: Path) -> None:
    """Make the folder, or empty it of an earlier quickstart's files. Raises SettingsError for another folder."""
    from curate.errors import SettingsError
    from curate.folders.folder import put_text
    from curate.folders.local import open_folder, refuse_place, refuse_url

    refuse_url(out, "--out")
    refuse_place(out, "--out")
    if out.exists() and not out.is_dir():
        raise SettingsError(f"{out} is a file; expected a folder.", hint="Give another folder with --out.")
    if out.is_dir() and any(out.iterdir()):
        if not (out / MARK).is_file():
            raise SettingsError(
                f"{out} is not empty, and no quickstart made it.", hint="Give another folder with --out."
            )
        for name in ("pool", "proxy", "runs", "selected"):
            open_folder(out).remove(name)
    put_text(open_folder(out), MARK, "{}\n")


def _curate(*args: str) -> None:
    """Print one command of this command line, and run it."""
    from curate.cli import group

    _say(f"\n$ curate {shlex.join(args)}", style="bold")
    group.main(args=list(args), prog_name="curate", standalone_mode=False)


def _print(enrichment: "Enrichment", pool: "LibraryPool") -> None:
    from curate.cli._output import print_table

    _say("")
    rows = [
        (f"{pool.package} among all {pool.documents:,} documents", f"{enrichment.base_rate:.1%}"),
        (f"{pool.package} among the {enrichment.selected:,} selected", f"{enrichment.share:.1%}"),
        ("enrichment", f"{enrichment.ratio:.1f}x"),
    ]
    print_table(["what the selection holds", "share"], rows)


def _say(text: str, *, style: str | None = None) -> None:
    from curate.cli._output import stdout

    stdout.print(text, style=style, markup=False, soft_wrap=True)
