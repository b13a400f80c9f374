"""`curate warmup`: make a proxy from a sample of the pool."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from curate.cli._settings import flags_of, given, settings_options
from curate.settings import build
from curate.training.settings import WarmupSettings

if TYPE_CHECKING:
    from curate.training.warmup import Warmup


@click.command(short_help="Make a small proxy model from a sample of the pool.")
@settings_options(WarmupSettings)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("proxy"), show_default=True, help="Folder of the proxy."
)
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
@click.pass_context
def command(ctx: click.Context, /, out: Path, as_json: bool, **options: Any) -> None:
    """Make a proxy: a tokenizer and a small model trained on a sample of the pool.

    \b
    curate warmup --pool pile/                           # a new model, in proxy/
    curate warmup --pool pile/ --minutes 10 --out small
    curate warmup --pool pile/ --model SmolLM2-135M/ --lora 16 --checkpoints 4
    curate warmup --pool chats/ --model M --share 5% --lora r=128,alpha=512,dropout=0.1 --epochs 4

    The folder loads with `from_pretrained`, and so goes into `curate score --model`; warmup.json says how it
    was made, and checkpoints/step-N/ hold weights and optimiser state by parameter name. A proxy made here
    before is replaced, any other folder refused. A warm-up that was killed leaves nothing and starts anew.
    """
    from curate.cli._output import RichReporter, loading, print_json

    settings = build(WarmupSettings, given(ctx, WarmupSettings, options), owner="A warm-up")
    with loading():
        from curate.pipeline import warmup
    with RichReporter() as reporter:
        record = warmup.run(settings, out, reporter=reporter)
    if as_json:
        from dataclasses import asdict

        print_json(asdict(record))
    else:
        _print(record, settings)


def _print(record: "Warmup", settings: WarmupSettings) -> None:
    from curate.cli._output import print_table, stderr

    rows: list[tuple[str, Any]] = [
        ("parameters", record.parameters),
        ("trained parameters", record.trained_parameters),
        ("vocabulary", record.vocabulary),
        ("trained on", record.unit),
        ("context, tokens", record.context),
        ("documents trained on", record.documents),
        ("documents held out", record.held_out_documents),
        ("steps", record.steps),
        ("ended by", record.ended_by),
        ("tokens seen", record.tokens_seen),
        ("held-out loss before, nats/token", record.held_out_loss_before),
        ("held-out loss after, nats/token", record.held_out_loss_after),
        ("still falling, nats per doubling of the tokens", record.loss_fall),
        ("tokens seen per trained parameter", record.tokens_per_parameter),
        ("seconds in all", record.seconds),
        ("training tokens per second", round(record.tokens_seen / record.training_seconds)),
        ("checkpoints", ", ".join(record.checkpoints) or "none"),
    ]
    print_table(["proxy", str(record.out)], rows)
    pool = [word for address in settings.pool for word in ("--pool", address)]
    following = shlex.join(
        ["curate", "score", "--target", "FILE", *pool, *_reading(settings), "--model", str(record.out)]
    )
    stderr.print(f"next: {following}", markup=False, soft_wrap=True, style="dim")


def _reading(settings: WarmupSettings) -> Iterator[str]:
    """Yield the flags that say how the pool's rows are read, where they are not as by default."""
    for flag in flags_of(WarmupSettings):
        if flag.path[0] == "fields":
            value = getattr(settings.fields, flag.path[1])
            if value != flag.default:
                yield flag.flags[0] if flag.switch else f"{flag.flags[0]}={value}"
