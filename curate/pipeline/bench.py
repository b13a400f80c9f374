"""What scoring costs on this machine, against a plain training step of the same model on the same tokens.

Every row runs on the same random tokens. Throughputs are measured in one process, round by round in turn, so that what
else the machine does falls on all rows alike; the fastest round counts. Peak memory is each row's own process's.
"""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from curate.errors import SettingsError, memory_is_out, nearest
from curate.gradients.directions import DirectionEngine
from curate.gradients.linear import tapped
from curate.gradients.sketches import SketchEngine
from curate.memory import peak_resident
from curate.pipeline.settings import BenchSettings
from curate.progress import Reporter, Silent
from curate.proxies.attention import use_block_attention, use_plain_attention
from curate.proxies.devices import choose_device, products, refuse_wider
from curate.proxies.experts import Rows
from curate.proxies.proxy import DTYPES, Proxy, keep_freed_memory, load_proxy, make_proxy
from curate.proxies.settings import ProxySettings
from curate.proxies.tokens import IGNORED, TokenBatch
from curate.settings import changed, gathered

SHAPES: dict[str, dict[str, Any]] = {
    "pythia-14m": {"kind": "gpt_neox", "width": 128, "layers": 6, "heads": 4, "inner": 512, "vocabulary": 50304},
    "pythia-160m": {"kind": "gpt_neox", "width": 768, "layers": 12, "heads": 12, "inner": 3072, "vocabulary": 50304},
    "pythia-1b": {"kind": "gpt_neox", "width": 2048, "layers": 16, "heads": 8, "inner": 8192, "vocabulary": 50304},
    "smollm2-135m": {"kind": "llama", "width": 576, "layers": 30, "heads": 9, "inner": 1536, "vocabulary": 49152},
}
TRAIN, TUNED, FROZEN = "training step", "training step, tuned allocator", "frozen pass"
SKETCH, DIRECTION = "sketches", "exact direction"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    what: str
    sequences: int
    """Sequences per batch, the fastest of those tried."""
    tokens_per_second: float
    ratio: float
    """Throughput over the plain training step's."""
    peak_gb: float
    """Peak memory of a process that does only this (on a GPU: of tensors), in 10^9 bytes."""
    above_model_gb: float
    """The same above the level with the model loaded."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """All rows, and where the time of a scoring step goes."""

    rows: list[Row]
    seconds: dict[str, float]
    """Per part of a scoring step of all tokens: head, decoder, sketches (0 where that is within the noise)."""
    parameters: int


def run(settings: BenchSettings | None = None, *, reporter: Reporter | None = None, **values: Any) -> Bench:
    """Measure training steps and scoring side by side. Raises SettingsError for an unknown shape."""
    reporter, settings = reporter or Silent(), gathered(BenchSettings, settings, values)
    proxy = build_proxy(settings)
    if proxy.context and settings.length > proxy.context:
        raise SettingsError(f"length is {settings.length}; {settings.model} has {proxy.context} positions.")
    ids = random_tokens(settings, proxy)
    fastest: dict[str, tuple[int, float]] = {}
    with reporter.stage("bench", total=4, unit="steps") as stage:
        # What a user's own script would do: the C library's allocator as it comes.
        _fastest(fastest, {TRAIN: _train(proxy.model, ids)}, settings)
        stage.advance(1)
        if proxy.device.type == "cpu":
            keep_freed_memory()
        steps = {what: _step_of(what, proxy, ids, settings) for what in (FROZEN, SKETCH, DIRECTION)}
        if proxy.device.type == "cpu":
            steps = {TUNED: _train(proxy.model, ids), **steps}
        _fastest(fastest, steps, settings)
        stage.advance(1)
        seconds = _where(proxy, ids, settings, fastest[SKETCH][0])
        stage.advance(1)
        parameters = sum(p.numel() for p in proxy.model.parameters())
        memory = {}
        for what, (sequences, _) in fastest.items():
            memory[what] = _peak(settings, what, sequences, proxy, ids)
        stage.advance(1)
    base = fastest[TRAIN][1]
    rows = [
        Row(what=w, sequences=n, tokens_per_second=s, ratio=s / base, peak_gb=memory[w][0], above_model_gb=memory[w][1])
        for w, (n, s) in fastest.items()
    ]
    return Bench(rows=rows, seconds=seconds, parameters=parameters)


def build_proxy(settings: BenchSettings) -> Proxy:
    """Return the model to measure, random weights for a shape."""
    proxy_settings = ProxySettings(model=settings.model, dtype=settings.dtype, device=settings.device)
    if settings.model in SHAPES:
        torch.manual_seed(0)
        device = choose_device(settings.device)
        refuse_wider(device, dtype=settings.dtype)
        return make_proxy(_random_model(settings).to(device), _no_tokenizer(), proxy_settings)
    if not Path(settings.model).is_dir() and "/" not in settings.model:
        raise SettingsError(f"There is no shape {settings.model!r}.", hint=nearest(settings.model, list(SHAPES)))
    return load_proxy(proxy_settings)


def random_tokens(settings: BenchSettings, proxy: Proxy) -> Tensor:
    """Return seeded token ids `[sequences, length]` on the proxy's device."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = proxy.model.get_input_embeddings().weight.shape[0]  # type: ignore[union-attr]
    return torch.randint(0, int(vocabulary), (settings.sequences, settings.length), generator=generator).to(
        proxy.device
    )


def _random_model(settings: BenchSettings) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = SHAPES[settings.model]
    config = AutoConfig.for_model(
        shape["kind"],
        hidden_size=shape["width"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        intermediate_size=shape["inner"],
        vocab_size=shape["vocabulary"],
        max_position_embeddings=2048,
        **({"num_key_value_heads": 3, "tie_word_embeddings": True} if shape["kind"] == "llama" else {}),
    )
    return AutoModelForCausalLM.from_config(config, dtype=DTYPES[settings.dtype])


def _no_tokenizer() -> Any:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"?": 0}, unk_token="?")))


def _batches(ids: Tensor, sequences: int) -> list[TokenBatch]:
    labels = ids.roll(-1, 1)
    labels[:, -1] = IGNORED
    pairs = zip(ids.split(sequences), labels.split(sequences), strict=True)
    return [TokenBatch(ids=i, labels=t, documents=tuple(range(len(i)))) for i, t in pairs]


Step = Callable[[int], Callable[[], None]]
"""From sequences per batch to one pass over all tokens."""


def _train(model: PreTrainedModel, ids: Tensor, *, weights: bool = True) -> Step:
    """Forward and backward as transformers does them, on weights that take gradients (or only their activations)."""

    def at(sequences: int) -> Callable[[], None]:
        def step() -> None:
            use_plain_attention(model)
            model.train().requires_grad_(weights)
            with products(ProxySettings().precision):
                for part in ids.split(sequences):
                    if weights:
                        model(input_ids=part, labels=part).loss.backward()
                    else:
                        embedded = model.get_input_embeddings()(part).requires_grad_(True)  # type: ignore[operator]
                        model(inputs_embeds=embedded, labels=part).loss.backward()
                    model.zero_grad()

        return step

    return at


def _frozen(model: PreTrainedModel, ids: Tensor) -> Step:
    return _train(model, ids, weights=False)


def _sketch(proxy: Proxy, ids: Tensor, dim: int) -> Step:
    return _scoring(proxy, ids, SketchEngine(proxy, dim=dim, seed=0))


def _direction(proxy: Proxy, ids: Tensor) -> Step:
    generator = torch.Generator().manual_seed(0)
    shapes = {name: proxy.shape(name) for name in proxy.tracked}
    directions = {n: torch.randn(1, o, i + bias, generator=generator) for n, (o, i, bias) in shapes.items()}
    return _scoring(proxy, ids, DirectionEngine(proxy, directions))


def _scoring(proxy: Proxy, ids: Tensor, engine: SketchEngine | DirectionEngine) -> Step:
    def at(sequences: int) -> Callable[[], None]:
        parts = _batches(ids, sequences)

        def step() -> None:
            use_block_attention(proxy.model)
            proxy.model.eval().requires_grad_(False)
            for part in parts:
                engine(part)

        return step

    return at


def _fastest(into: dict[str, tuple[int, float]], steps: dict[str, Step], settings: BenchSettings) -> None:
    """Try batch sizes for every step in turn; keep each one's best, in tokens per second."""
    sizes = [n for n in (1, 2, 4, 8, 16, 32) if n <= settings.sequences]
    tokens = settings.sequences * settings.length
    ready = {(what, n): step(n) for what, step in steps.items() for n in sizes}
    for key in list(ready):
        if not _fits(ready[key]):
            del ready[key]
    for _ in range(settings.rounds):
        for (what, n), run in ready.items():
            speed = tokens / _seconds(run)
            if speed > into.get(what, (0, 0.0))[1]:
                into[what] = (n, speed)


def _fits(run: Callable[[], None]) -> bool:
    """Run once, as a warm-up; say whether memory sufficed."""
    try:
        run()
    except Exception as error:
        if not memory_is_out(error):
            raise
        return False
    return True


def _seconds(run: Callable[[], Any]) -> float:
    _wait()
    start = time.perf_counter()
    run()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _where(proxy: Proxy, ids: Tensor, settings: BenchSettings, sequences: int) -> dict[str, float]:
    """Split a scoring step into the head, the decoder both ways, and what sketching adds to it."""
    proxy.model.eval().requires_grad_(False)
    engine = SketchEngine(proxy, dim=settings.dim, seed=0)
    frozen = engine.frozen
    parts = _batches(ids, sequences)
    hidden = torch.randn(parts[0].ids.numel(), frozen.head.weight.shape[1], device=proxy.device).to(proxy.dtype)

    def head() -> None:
        for part in parts:
            frozen.head(hidden[: part.labels.numel()], part.labels.flatten())

    class Untouched:
        """A tap that keeps nothing: the decoder's own cost."""

        def forward(self, inputs: Tensor, rows: Rows | None = None) -> None: ...

        def backward(self, kept: None, output_gradients: Tensor, rows: Rows | None = None) -> None: ...

    def decoder_and_head() -> None:
        for part in parts:
            with tapped(proxy.linears, lambda _: Untouched()):
                frozen.backward(part)

    def all_of_it() -> None:
        for part in parts:
            engine(part)

    runs = (head, decoder_and_head, all_of_it)
    best = [min(_seconds(run) for _ in range(settings.rounds + 1)) for run in runs]
    return {"head": best[0], "decoder": max(0.0, best[1] - best[0]), "sketches": max(0.0, best[2] - best[1])}


def _peak(settings: BenchSettings, what: str, sequences: int, proxy: Proxy, ids: Tensor) -> tuple[float, float]:
    """Return (peak, peak above the loaded model) in 10^9 bytes."""
    if proxy.device.type == "cuda":
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        _step_of(what, proxy, ids, settings)(sequences)()
        peak = torch.cuda.max_memory_allocated()
        return peak / 1e9, (peak - before) / 1e9
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as child:
        return child.apply(_peak_of, (settings, what, sequences))


def _peak_of(settings: BenchSettings, what: str, sequences: int) -> tuple[float, float]:
    proxy = build_proxy(settings)
    ids = random_tokens(changed(settings, sequences=2 * sequences), proxy)
    if what != TRAIN:
        keep_freed_memory()
    before = peak_resident()
    _step_of(what, proxy, ids, settings)(sequences)()
    peak = peak_resident()
    return peak / 1e9, max(0, peak - before) / 1e9


def _step_of(what: str, proxy: Proxy, ids: Tensor, settings: BenchSettings) -> Step:
    if what == SKETCH:
        return _sketch(proxy, ids, settings.dim)
    if what == DIRECTION:
        return _direction(proxy, ids)
    return _frozen(proxy.model, ids) if what == FROZEN else _train(proxy.model, ids)


def seconds_for(pool_tokens: float, rows: Sequence[Row], what: str) -> float:
    """Return how long one pass over a pool takes at a row's measured speed."""
    return pool_tokens / next(r.tokens_per_second for r in rows if r.what == what)
