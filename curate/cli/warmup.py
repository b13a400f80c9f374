"""`curate warmup`: make a proxy from a sample of the pool."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from curate.cli._config import config_option
from curate.cli._fields import fields_options, make_fields
from curate.errors import SettingsError

if TYPE_CHECKING:
    from curate.training.warmup import Warmup

_SHAPE = ("vocab_size", "layers", "width", "heads", "untied")


@click.command(context_settings={"show_default": True})
@click.option("--pool", required=True, multiple=True, help="Folder, glob, file or address of the pool; repeatable.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("proxy"), help="Folder to leave the proxy in.")
@click.option("--model", help="Fine-tune this model (folder or hub id) instead of making a new one.")
@click.option("--revision", help="Revision of a model on the hub.")
@click.option("--vocab-size", type=int, default=8192, help="New model: size of its tokenizer.")
@click.option("--layers", type=int, default=4, help="New model: layers.")
@click.option("--width", type=int, default=192, help="New model: size of the hidden states.")
@click.option("--heads", type=int, default=3, help="New model: attention heads.")
@click.option("--untied", is_flag=True, help="New model: an output matrix apart from the embeddings.")
@click.option("--context", type=int, default=512, help="Tokens of a training window.")
@click.option("--documents", type=int, default=20_000, help="Size of the sample from the pool.")
@click.option("--tokens", type=int, show_default="4000000, or by --steps, --minutes", help="Tokens to train on.")
@click.option("--steps", type=int, help="Steps to train, instead of --tokens.")
@click.option("--minutes", type=float, help="End after this time; such a proxy cannot be made again to the byte.")
@click.option("--batch-tokens", type=int, default=4096, help="Tokens of one step.")
@click.option("--lr", type=float, show_default="2e-3 new, 2e-4 adapters, 5e-5 given", help="Peak learning rate.")
@click.option("--lora-rank", type=int, help="With --model: train LoRA adapters of this rank only.")
@click.option("--checkpoints", type=int, default=1, help="Checkpoints with optimiser state to keep.")
@click.option("--seed", type=int, default=0, help="Of the sample, the weights and the order.")
@click.option("--device", default="auto", help="auto, cpu, cuda or mps.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", help="Type of the products.")
@fields_options
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
@click.pass_context
def command(ctx: click.Context, /, pool: tuple[str, ...], out: Path, as_json: bool, **options: Any) -> None:
    """Make a proxy: a tokenizer and a small model trained on a sample of the pool.

    \b
    curate warmup --pool pile/                           # a new model, in proxy/
    curate warmup --pool pile/ --minutes 10 --out small
    curate warmup --pool pile/ --model SmolLM2-135M/ --lora-rank 16 --checkpoints 4

    The folder loads with `from_pretrained`, and so goes into `curate score --model`; warmup.json says how it
    was made, and checkpoints/step-N/ hold weights and optimiser state by parameter name. A proxy made here
    before is replaced, any other folder refused. A warm-up that was killed leaves nothing and starts anew.
    """
    from curate.cli._output import RichReporter, print_json
    from curate.documents import open_pool
    from curate.training.proxies import Shape
    from curate.training.warmup import WarmupSettings, warmup

    given = [o for o in _SHAPE if ctx.get_parameter_source(o) is not ParameterSource.DEFAULT]
    shape = {o: options.pop(o) for o in _SHAPE}
    if options["model"] and given:
        names = ", ".join("--" + o.replace("_", "-") for o in given)
        raise SettingsError(f"{names} shape a new model, but --model gives one", hint="leave one of them out")
    tie = not shape.pop("untied")
    settings = WarmupSettings(shape=Shape(tie_embeddings=tie, **shape), fields=make_fields(options), **options)
    with RichReporter() as reporter:
        made = warmup(open_pool(pool, txt_lines=settings.fields.txt_lines), out, settings=settings, reporter=reporter)
    if as_json:
        from dataclasses import asdict

        print_json(asdict(made))
    else:
        _print(made)


def _print(made: "Warmup") -> None:
    from curate.cli._output import print_table, stderr

    rows: list[tuple[str, Any]] = [
        ("parameters", made.parameters),
        ("trained parameters", made.trained_parameters),
        ("vocabulary", made.vocabulary),
        ("context, tokens", made.context),
        ("documents trained on", made.documents),
        ("documents held out", made.held_out_documents),
        ("steps", made.steps),
        ("ended by", made.ended_by),
        ("tokens seen", made.tokens_seen),
        ("held-out loss before, nats/token", made.held_out_loss_before),
        ("held-out loss after, nats/token", made.held_out_loss_after),
        ("seconds in all", made.seconds),
        ("training tokens per second", round(made.tokens_seen / made.training_seconds)),
        ("checkpoints", ", ".join(made.checkpoints) or "none"),
    ]
    print_table(["proxy", str(made.out)], rows)
    following = f"next: curate score --model {made.out} --target val.jsonl --pool …"
    stderr.print(following, markup=False, soft_wrap=True, style="dim")
