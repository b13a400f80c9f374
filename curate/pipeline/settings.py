"""What a measurement of this machine's speed is asked for. Free of torch."""

from typing import Annotated, Literal

from curate.proxies.settings import DEVICES, Device
from curate.settings import Count, least, option, settings


@settings
class BenchSettings:
    """What to measure."""

    model: str = option("smollm2-135m", "Folder, hub id, or shape with random weights (see below).")
    dtype: Literal["float32", "bfloat16", "float64"] = option("float32", "Type of the arithmetic.")
    device: Device = option("auto", f"Where it runs: {DEVICES}")
    sequences: Annotated[Count, least(1)] = option(8, "Sequences of a pass; batches of 1, 2, 4 … of them are tried.")
    length: Annotated[Count, least(2)] = option(512, "Tokens of a sequence.")
    dim: Annotated[Count, least(1)] = option(16, "Projection dimensions per side and layer.")
    rounds: Annotated[Count, least(1)] = option(3, "Rounds; the fastest counts.")
