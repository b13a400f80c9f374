"""Settings of a measurement of this machine's speed. Free of torch."""

from typing import Annotated, Literal

from curate.gradients.shapes import DIM
from curate.proxies.settings import DEVICES, Device
from curate.settings import Count, least, option, settings


@settings
class BenchSettings:
    """What to measure."""

    model: str = option(default="smollm2-135m", help="Folder, hub id, or shape with random weights (see below).")
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = option(
        default="float32", help="Type of the arithmetic."
    )
    device: Device = option(default="auto", help=f"Where it runs: {DEVICES}")
    sequences: Annotated[Count, least(1)] = option(
        default=8, help="Sequences of a pass; batches of 1, 2, 4 … of them are tried."
    )
    length: Annotated[Count, least(2)] = option(default=512, help="Tokens of a sequence.")
    dim: Annotated[Count, least(1)] = option(default=DIM, help="Projection dimensions per side and layer.")
    rounds: Annotated[Count, least(1)] = option(default=3, help="Rounds; the fastest counts.")
