"""Settings of a warm-up, and the shape of a new proxy. Free of torch."""

from typing import Annotated, Literal

from curate.errors import SettingsError
from curate.fields import Fields
from curate.proxies.settings import DEVICES, Device
from curate.settings import Count, Flag, Number, Words, above, least, option, settings

DEFAULT_TOKENS = 4_000_000
MIN_VOCABULARY = 256 + 4  # every byte, and the special tokens


@settings
class Shape:
    """A Llama from scratch: RMSNorm, rotary positions, SwiGLU, no bias, no dropout, tied embeddings."""

    vocab_size: Annotated[Count, least(MIN_VOCABULARY)] = option(
        default=8192, help="New model: size of its tokenizer; every byte and four special tokens at least."
    )
    layers: Annotated[Count, least(1)] = option(default=4, help="New model: layers.")
    width: Annotated[Count, least(1)] = option(default=192, help="New model: size of the hidden states.")
    heads: Annotated[Count, least(1)] = option(default=3, help="New model: attention heads.")
    tie_embeddings: Flag = option(
        default=True, help="New model: an output matrix apart from the embeddings.", flags=("--untied",)
    )

    def __post_init__(self) -> None:
        if self.width % self.heads or (self.width // self.heads) % 2:
            fitting = [h for h in range(1, self.width // 2 + 1) if self.width % (2 * h) == 0]
            raise SettingsError(
                f"width is {self.width}; expected a width that splits into {self.heads} heads of an even size.",
                hint=f"Heads that fit this width: {', '.join(map(str, fitting)) or 'none; use an even width'}.",
            )


@settings
class WarmupSettings:
    """How to make a proxy. On one machine, settings without `minutes` always give the same weights."""

    pool: Words = option(default=(), help="Folder, glob, file or address of the pool; repeatable.")
    model: str | None = option(
        default=None, help="Fine-tune this model (folder or hub id) instead of making a new one."
    )
    revision: str | None = option(default=None, help="Revision of a model on the hub.")
    shape: Shape = option(factory=Shape, help="")
    context: Annotated[Count, least(8)] = option(
        default=512, help="Tokens of a training window; of a new model also the longest document that it reads."
    )
    documents: Annotated[Count, least(1)] = option(default=20_000, help="Size of the sample from the pool.")
    tokens: Annotated[Count, least(1)] | None = option(
        default=None,
        help="Tokens to train on, repeating the sample.",
        shown=f"{DEFAULT_TOKENS}, or by --steps, --minutes",
    )
    steps: Annotated[Count, least(1)] | None = option(default=None, help="Steps to train, instead of --tokens.")
    minutes: Annotated[Number, above(0)] | None = option(
        default=None, help="End after this time; such a proxy cannot be made again byte for byte."
    )
    batch_tokens: Annotated[Count, least(1)] = option(default=4096, help="Tokens of one step.")
    learning_rate: Annotated[Number, above(0)] | None = option(
        default=None,
        help="Peak learning rate.",
        flags=("--learning-rate", "--lr"),
        shown="2e-3 new, 2e-4 adapters, 5e-5 given",
    )
    weight_decay: Annotated[Number, least(0)] = option(
        default=0.01, help="Decoupled weight decay, times the learning rate."
    )
    lora_rank: Annotated[Count, least(1)] | None = option(
        default=None, help="With --model: train LoRA adapters of this rank only."
    )
    checkpoints: Annotated[Count, least(0)] = option(
        default=1, help="Checkpoints with optimiser state to keep, evenly spread, the last at the end."
    )
    seed: Count = option(default=0, help="Seed of the sample, the weights and the order.")
    device: Device = option(default="auto", help=f"Where to train: {DEVICES}")
    dtype: Literal["float32", "bfloat16"] = option(
        default="float32", help="Type of the products; weights and optimiser state stay in float32."
    )
    fields: Fields = option(factory=Fields, help="Columns of the pool.", suffix="-column")

    def __post_init__(self) -> None:
        if self.tokens is not None and self.steps is not None:
            raise SettingsError("tokens and steps both say how long to train.", hint="Give one of them.")
        if self.context > self.batch_tokens:
            raise SettingsError(
                f"context is {self.context}; expected at most batch_tokens ({self.batch_tokens}).",
                hint="Raise --batch-tokens, or lower --context.",
            )
        if self.lora_rank is not None and self.model is None:
            raise SettingsError("lora_rank needs a model to adapt.", hint="Give --model DIR, or leave --lora-rank out.")

    @property
    def peak_learning_rate(self) -> float:
        if self.learning_rate is not None:
            return self.learning_rate
        return 2e-3 if self.model is None else 2e-4 if self.lora_rank else 5e-5
