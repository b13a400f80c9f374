"""`curate verify`: does training on a selection help?"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from curate.cli._config import config_option_beside, settings_beside
from curate.cli._recipes import make_recipe, parse_share
from curate.errors import SettingsError
from curate.training.recipe import NAMES

if TYPE_CHECKING:
    from curate.proof.verdict import Verification


@click.command(context_settings={"show_default": True})
@click.argument("selection", type=click.Path())
@click.option("--target", multiple=True, show_default="what the run kept aside", help="Rows that did not score.")
@click.option("--pool", multiple=True, show_default="the run's", help="Where the pool is now, if it has moved.")
@click.option("--other", multiple=True, show_default="a sample of the pool", help="Text that is not the target's.")
@click.option("--other-documents", type=int, default=256, help="Size of that sample; no arm trains on it.")
@click.option("--seeds", type=int, default=3, help="Orders of the documents, and draws of random ones.")
@click.option("--tokens", show_default="as many as the selection has", help="Tokens every arm trains on: 2M.")
@click.option("--sweep", help="Shares of the run's ranking to train on, too: 1%,5%,20%.")
@click.option("--baseline", "baselines", multiple=True, default=("bm25", "embedding"), help="Methods to compare with.")
@click.option("--all-times", type=float, default=4.0, help="Budgets of the arm on all of the pool; 0: none.")
@click.option("--points", type=int, default=6, help="Of every learning curve.")
@click.option("--recipe", type=click.Path(exists=True, dir_okay=False), help="YAML file of the training run.")
@click.option("--set", "-s", "given", multiple=True, metavar="NAME=VALUE", help="A setting of the recipe; repeatable.")
@click.option("--model", show_default="the run's", help="Proxy to train: a folder or a hub id.")
@click.option("--device", show_default="the run's", help="auto, cpu, cuda or mps.")
@click.option("--batch-tokens", type=int, show_default="by device", help="Tokens of one micro-batch.")
@click.option("--allow-seen-target", is_flag=True, help="Go on though rows of the target took part in scoring.")
@click.option("--seed", type=int, default=0, help="Of the sample and of random draws; the recipe has its own.")
@click.option("--out", type=click.Path(path_type=Path), show_default="SELECTION-verified", help="Folder of figures.")
@click.option("--plot", type=click.Path(path_type=Path), show_default="OUT/curves.png", help="File of the curves.")
@config_option_beside(NAMES)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.pass_context
def command(ctx: click.Context, /, out: Path | None, plot: Path | None, as_json: bool, **options: Any) -> None:
    """Train the proxy on SELECTION, on random documents and on others' choices, and compare the target's loss.

    \b
    curate verify selected/ --target heldout.jsonl --pool pile/
    curate verify selected/ --target heldout.jsonl --set learning_rate=1e-3 --set batch_size=16
    curate verify selected/ --target heldout.jsonl --sweep 1%,5%,20% --tokens 2M
    curate verify selected/ --target heldout.jsonl --other web.jsonl --json

    Every arm starts from the same proxy and trains by the same recipe on equal tokens, in batches of equal tokens:
    the selection; random documents; the best by BM25 and by embeddings, as many tokens as the selection has; shares of
    a sweep. The arm `all` is one random pass over the pool, cut at four times the others' tokens. Rows of the target
    that took part in scoring are refused; documents that hold a held-out row are left out of every arm. What is
    finished is kept: a killed command goes on with the arm it was at.
    """
    from curate.cli._output import RichReporter, print_json
    from curate.pipeline import verbs as pipeline
    from curate.proof.settings import VerifySettings

    recipe = make_recipe(options, settings_beside(ctx))
    options["tokens"] = _tokens(options["tokens"])
    sweep = tuple(parse_share(s, "--sweep") for s in (options.pop("sweep") or "").split(",") if s.strip())
    settings = VerifySettings(recipe=recipe, sweep=sweep, **options)
    with RichReporter() as reporter:
        found = pipeline.verify(settings, out, plot=plot, reporter=reporter)
    print_json(found.record()) if as_json else _print(found, plot)


def _tokens(text: str | int | None) -> int | None:
    from curate.selection.values import parse_int

    try:
        return None if text is None else parse_int(text)
    except ValueError as error:
        raise SettingsError(f"--tokens: {error}") from None


def _print(found: "Verification", plot: Path | None) -> None:
    from curate.cli._output import print_table, stdout

    def shown(value: float, spread: float | None) -> str:
        return f"{value:.4f}" if spread is None else f"{value:.4f} ± {spread:.4f}"

    rows: list[tuple[Any, ...]] = [
        ("untrained", 0, "", f"{found.untrained['target']:.4f}", f"{found.untrained['other']:.4f}")
    ]
    for r in found.rows():
        target, other = (shown(r[kind], r[f"{kind}_spread"]) for kind in ("target", "other"))
        rows.append((r["arm"], r["tokens"], f"{r['epochs']:.2f}", target, other))
    print_table(["arm", "tokens", "epochs", f"target ({found.held_out} rows)", f"other ({found.others} rows)"], rows)
    stdout.print("Losses in nats per token, ± the standard deviation over seeds.", soft_wrap=True)
    stdout.print(found.sentence, soft_wrap=True, markup=False, style="bold")
    if (share := found.best_share()) is not None:
        alike = f"; no clear difference to {', '.join(share['alike'])}" if share["alike"] else ""
        stdout.print(f"Of the sweep, {share['best']} ends lowest{alike}.", soft_wrap=True, markup=False)
    stdout.print(f"Learning curves: {plot or Path(found.out) / 'curves.png'}", soft_wrap=True, markup=False)
