"""Settings of a warm-up, and the shape of a new proxy. Free of torch."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from curate.errors import SettingsError
from curate.fields import Fields
from curate.proxies.settings import DEVICES, Device
from curate.settings import Count, Flag, Number, Share, Words, above, changed, least, option, settings
from curate.training.lora import LoraText

T = TypeVar("T")
Unit = Literal["windows", "documents"]
Fall = Literal["cosine", "linear", "constant"]
DEFAULT_TOKENS = 4_000_000
DEFAULT_DOCUMENTS = 20_000
MIN_VOCABULARY = 256 + 4  # every byte, and the special tokens
WINDOW, BATCH_TOKENS = 512, 4096
# Those of LESS (arXiv 2402.04333, §5.1 and its released code).
DOCUMENT_TOKENS, BATCH_DOCUMENTS = 2048, 128


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
    chat_template: str | None = option(
        default=None,
        help="With --model: how conversations become text: 'shipped' (ChatML), a file, or one of the model's by name.",
        shown="the model's",
    )
    documents: Annotated[Count, least(1)] | None = option(
        default=None, help="Size of the sample from the pool.", shown=f"{DEFAULT_DOCUMENTS}"
    )
    share: Annotated[Share, Field(gt=0)] | None = option(
        default=None, help="Size of the sample as a share of the pool: 5%. Instead of --documents."
    )
    unit: Unit | None = option(
        default=None,
        help="What is one example: 'windows' pack texts one after the other and train on every token, which teaches the"
        " pool; 'documents' are rows of their own, padded, with loss on completions and assistant turns alone, which"
        " teaches to answer.",
        shown="documents with --model where most rows are conversations or completions, else windows",
    )
    context: Annotated[Count, least(8)] | None = option(
        default=None,
        help="Tokens of a window, or of a document at most; of a new model also the longest that it reads.",
        shown=f"{WINDOW} of windows, {DOCUMENT_TOKENS} of documents",
    )
    tokens: Annotated[Count, least(1)] | None = option(
        default=None,
        help="Tokens to train on, repeating the sample.",
        shown=f"{DEFAULT_TOKENS}, or by --epochs, --steps, --minutes",
    )
    epochs: Annotated[Count, least(1)] | None = option(
        default=None, help="Passes over the sample, instead of --tokens; keeps a checkpoint of each."
    )
    steps: Annotated[Count, least(1)] | None = option(default=None, help="Steps to train, instead of --tokens.")
    minutes: Annotated[Number, above(0)] | None = option(
        default=None, help="End after this time; such a proxy cannot be made again byte for byte."
    )
    batch_tokens: Annotated[Count, least(1)] | None = option(
        default=None, help="Windows: tokens of one step.", shown=f"{BATCH_TOKENS}"
    )
    batch_documents: Annotated[Count, least(1)] | None = option(
        default=None, help="Documents: how many one step takes.", shown=f"{BATCH_DOCUMENTS}"
    )
    learning_rate: Annotated[Number, above(0)] | None = option(
        default=None,
        help="Peak learning rate.",
        flags=("--learning-rate", "--lr"),
        shown="2e-3 new, 2e-4 adapters, 5e-5 given; 2e-5 given, on documents",
    )
    schedule: Fall | None = option(
        default=None,
        help="The rate after its rise: 'cosine' falls to a tenth, 'linear' to 0.",
        shown="cosine of windows, linear of documents",
    )
    warmup: Annotated[Share, Field(lt=1)] | None = option(
        default=None,
        help="Share of the training over which the rate rises.",
        shown="0.05 of windows, 0.03 of documents",
    )
    weight_decay: Annotated[Number, least(0)] | None = option(
        default=None,
        help="Decoupled weight decay, times the learning rate.",
        shown="0.01 of windows, 0 of documents",
    )
    lora: LoraText | None = option(
        default=None,
        help="With --model: train LoRA adapters only, of this rank, or r=8,alpha=16,dropout=0.1,targets=q_proj+v_proj."
        " Alpha is twice the rank, dropout 0, and targets are all linear layers unless given.",
        metavar="N|NAME=VALUE,…",
    )
    checkpoints: Annotated[Count, least(0)] | None = option(
        default=None,
        help="Checkpoints with optimiser state to keep, evenly spread, the last at the end.",
        shown="1, or one of each of --epochs",
    )
    seed: Count = option(default=0, help="Seed of the sample, the weights and the order.")
    device: Device = option(default="auto", help=f"Where to train: {DEVICES}")
    dtype: Literal["float32", "bfloat16"] = option(
        default="float32", help="Type of the products; weights and optimiser state stay in float32."
    )
    fields: Fields = option(factory=Fields, help="Columns of the pool.", suffix="-column")

    def __post_init__(self) -> None:
        self._refuse_both("documents", "share", "how large the sample is")
        for one, other in (("tokens", "steps"), ("tokens", "epochs"), ("steps", "epochs")):
            self._refuse_both(one, other, "how long to train")
        for name in ("lora", "chat_template"):
            if getattr(self, name) is not None and self.model is None:
                flag = f"--{name.replace('_', '-')}"
                need = "a model to adapt" if name == "lora" else "a given model: a new one has ChatML"
                raise SettingsError(f"{name} needs {need}.", hint=f"Give --model DIR, or leave {flag} out.")
        self._refuse_other_batch()
        context, batch = self.context or WINDOW, self.batch_tokens or BATCH_TOKENS
        if self.certain_unit == "windows" and context > batch:
            raise SettingsError(
                f"context is {context}; expected at most batch_tokens ({batch}).",
                hint="Raise --batch-tokens, or lower --context.",
            )

    def _refuse_both(self, one: str, other: str, what: str) -> None:
        if getattr(self, one) is not None and getattr(self, other) is not None:
            raise SettingsError(f"{one} and {other} both say {what}.", hint="Give one of them.")

    def _refuse_other_batch(self) -> None:
        """Refuse a batch of the other unit, which would have no effect."""
        batches = {"windows": "batch_tokens", "documents": "batch_documents"}
        for unit, name in batches.items():
            if self.certain_unit not in (None, unit) and getattr(self, name) is not None:
                other = batches["windows" if unit == "documents" else "documents"]
                raise SettingsError(
                    f"{name} is {getattr(self, name)}, but this training is on {self.certain_unit}.",
                    hint=f"Give --unit {unit}, or --{other.replace('_', '-')} instead.",
                )

    @property
    def certain_unit(self) -> Unit | None:
        """The unit, None where it depends on the sample's rows."""
        return self.unit or ("windows" if self.model is None else None)

    def decided(self, unit: Unit) -> "Decided":
        """Fill in every default that depends on the unit. Raises SettingsError where settings do not fit it."""
        fitting, windows = changed(self, unit=unit), unit == "windows"
        batch = fitting.batch_tokens if windows else fitting.batch_documents
        return Decided(
            settings=fitting,
            unit=unit,
            context=_or(fitting.context, WINDOW if windows else DOCUMENT_TOKENS),
            batch=_or(batch, BATCH_TOKENS if windows else BATCH_DOCUMENTS),
            learning_rate=_or(fitting.learning_rate, self._usual_rate(unit)),
            schedule=_or(fitting.schedule, "cosine" if windows else "linear"),
            warmup=_or(fitting.warmup, 0.05 if windows else 0.03),
            weight_decay=_or(fitting.weight_decay, 0.01 if windows else 0.0),
            checkpoints=_or(fitting.checkpoints, fitting.epochs or 1),
        )

    def _usual_rate(self, unit: Unit) -> float:
        if self.model is None:
            return 2e-3
        return 2e-5 if unit == "documents" else 2e-4 if self.lora else 5e-5


@dataclass(frozen=True, kw_only=True)
class Decided:
    """The settings of a warm-up whose unit is known."""

    settings: WarmupSettings
    unit: Unit
    context: int
    batch: int
    """Tokens of windows, or documents, of a step."""
    learning_rate: float
    schedule: Fall
    warmup: float
    weight_decay: float
    checkpoints: int

    def as_dict(self) -> dict[str, Any]:
        """Return all settings by name, with what was decided."""
        values = asdict(self)
        settings, batch = values.pop("settings"), values.pop("batch")
        values["batch_tokens" if self.unit == "windows" else "batch_documents"] = batch
        if self.settings.lora is not None:
            settings["lora"]["alpha"] = self.settings.lora.scale
        return settings | values


def _or(value: T | None, default: T) -> T:
    return default if value is None else value
