"""Which model stands in for the one that will be trained, and how documents become its tokens. Free of torch."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator

from curate.fields import Fields
from curate.settings import Count, Words, least, option, settings

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M"
MAX_DEFAULT_CONTEXT = 2048


def _device(name: str) -> str:
    if name not in ("auto", "cpu", "cuda", "mps") and not re.fullmatch(r"cuda:\d+", name):
        raise ValueError("expected auto, cpu, cuda, cuda:N or mps")
    return name


Device = Annotated[str, AfterValidator(_device)]
DEVICES = "auto, cpu, cuda, cuda:N or mps."


@settings
class ProxySettings:
    """Which model, and how it runs."""

    model: str = option(default=DEFAULT_MODEL, help="Folder or hub id of the proxy.")
    revision: str | None = option(default=None, help="Revision of a model on the hub.")
    chat_template: str | None = option(
        default=None,
        help="How conversations become text: 'shipped' (ChatML), a file, or the name of one of the model's templates.",
        shown="the model's",
    )
    modules: Words = option(
        default=(), help="Glob over layers to track (`*.mlp.*`); repeatable.", shown="all linear layers"
    )
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = option(
        default="float32", help="Type of the proxy's arithmetic."
    )
    precision: Literal["tf32", "float32"] = option(
        default="tf32", help="How CUDA multiplies float32: 'tf32', with 10 bits of its 23, or 'float32', whole."
    )
    device: Device = option(default="auto", help=f"Where the proxy runs: {DEVICES}")


@settings
class ReadingSettings:
    """How documents are read, cut into parts and turned into tokens."""

    context: Annotated[Count, least(2)] | None = option(
        default=None, help="Tokens of a sequence.", shown=f"the model's, at most {MAX_DEFAULT_CONTEXT}"
    )
    long: Literal["truncate", "windows"] = option(
        default="truncate",
        help="Longer documents: 'truncate', or 'windows' whose gradients and scores add up.",
    )
    batch_tokens: Annotated[Count, least(2)] | None = option(
        default=None, help="Tokens of one batch.", shown="by device"
    )
    part_documents: Annotated[Count, least(1)] = option(
        default=1024, help="Documents of one part: at most these are lost when a process is killed."
    )
    fields: Fields = option(factory=Fields, help="Columns of the pool.", suffix="-column")


@settings
class SamplingSettings:
    """The sample of the pool, and the seed."""

    background: Annotated[Count, least(1)] | None = option(
        default=None, help="Documents of the pool that curvature is fitted on.", shown="the method's"
    )
    seed: Count = option(default=0, help="Seed of all that is random: background, hold-out, the method's projections.")


@settings
class PassSettings(ProxySettings, ReadingSettings, SamplingSettings):
    """How the documents of a pool go through a proxy: what scoring and indexing share."""

    pool: Words = option(default=(), help="Documents: folder, glob, file or address; repeatable.")
