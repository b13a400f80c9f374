"""`curate bench`: measure the cost of scoring on this machine."""

from typing import Any

import click

from curate.cli._settings import given, settings_options
from curate.pipeline.settings import BenchSettings
from curate.settings import build


@click.command(short_help="Measure what scoring costs on this machine.")
@settings_options(BenchSettings)
@click.option("--pool-tokens", type=float, help="Also estimate the time for a pool of so many tokens (5e9).")
@click.option("--json", "as_json", is_flag=True, help="Print the measurements as JSON.")
@click.pass_context
def command(ctx: click.Context, /, pool_tokens: float | None, as_json: bool, **options: Any) -> None:
    """Measure scoring against a plain training step of the same model on the same tokens.

    \b
    curate bench --model proxy/
    curate bench --model pythia-14m --dtype bfloat16      # a shape, random weights
    curate bench --model proxy/ --pool-tokens 2e9         # how long will my pool take?

    Shapes: pythia-14m, pythia-160m, pythia-1b, smollm2-135m.
    """
    from dataclasses import asdict

    from curate.cli._output import RichReporter, loading, print_json, print_table, stdout

    settings = build(BenchSettings, given(ctx, BenchSettings, options), owner="A measurement")
    with loading():
        from curate.pipeline import bench
        from curate.pipeline.bench import DIRECTION, SKETCH
    with RichReporter() as reporter:
        result = bench.run(settings, reporter=reporter)
    eta = {w: bench.seconds_for(pool_tokens, result.rows, w) for w in (SKETCH, DIRECTION)} if pool_tokens else None
    if as_json:
        print_json({**asdict(result), "settings": asdict(settings), "pool_seconds": eta})
        return
    rows = [
        (r.what, r.sequences, round(r.tokens_per_second), r.ratio, r.peak_gb, r.above_model_gb) for r in result.rows
    ]
    title = f"{settings.model}, {result.parameters:,} parameters, {settings.dtype}, sequences of {settings.length}"
    columns = ["what", "batch", "tokens/s", "× training step", "peak GB", "above model GB"]
    print_table(columns, rows, title=title)
    total = sum(result.seconds.values())
    print_table(
        ["a scoring step's", "seconds", "share"],
        [(k, v or "within noise", f"{v / total:.0%}") for k, v in result.seconds.items()],
    )
    if eta is not None:
        by = "; ".join(f"{what} {_duration(seconds)}" for what, seconds in eta.items())
        stdout.print(f"One scoring pass over {pool_tokens:,.0f} tokens: {by}.", soft_wrap=True)


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
