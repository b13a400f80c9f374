"""Count the bytes per token of scoring on a pretended GPU, and the batches that a room takes on cards of several sizes.

python -m tests.pretended_memory

A shape's bytes are counted at its full width with two and with four layers, and continued to all of them: every tensor
that the pass holds at once, but not what single operations need while they run.
"""

from dataclasses import dataclass
from typing import Any

from tests import pretended

TOKENS, CARDS = 512, (16, 24, 40, 80)


@dataclass(frozen=True)
class Shape:
    """A Llama's size."""

    name: str
    dtype: str
    width: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int
    tied: bool


SHAPES = (
    Shape("SmolLM2-135M", "float32", 576, 1536, 30, 9, 3, 49152, True),
    Shape("SmolLM2-135M", "bfloat16", 576, 1536, 30, 9, 3, 49152, True),
    Shape("Llama-3.2-1B", "float32", 2048, 8192, 16, 32, 8, 128256, True),
    Shape("Llama-3.1-8B", "bfloat16", 4096, 14336, 32, 32, 8, 128256, False),
)


def main() -> None:
    machine = pretended.start("cuda", capacity=1 << 50)
    print("| shape | type | weights | work | bytes a token | " + " | ".join(f"{c} GB" for c in CARDS) + " |")
    print("| --- | --- | --- | --- | --- | " + " | ".join("---" for _ in CARDS) + " |")
    for shape in SHAPES:
        weights = _weights(shape)
        for work in ("sketches", "directions"):
            few, more = (_needed(machine, shape, layers, work) for layers in (2, 4))
            fixed, per_layer = few[0] - (more[0] - few[0]), (more[0] - few[0]) / 2
            resident = weights + few[1] + (more[1] - few[1]) / 2 * (shape.layers - 2)
            per_token = (fixed + per_layer * shape.layers) / TOKENS
            chosen = [_chosen(card * 1e9 - resident, per_token) for card in CARDS]
            cells = " | ".join(f"{n:,}" if n else "no" for n in chosen)
            row = f"{shape.name} | {shape.dtype} | {weights / 1e9:.2f} GB | {work} | {per_token / 1e6:.3f} MB"
            print(f"| {row} | {cells} |", flush=True)


def _chosen(free: float, per_token: float) -> int:
    """Return the tokens of a batch that a room comes to; 0 where not even one short sequence fits."""
    from curate.gradients.documents import MOST_GPU_TOKENS
    from curate.proxies.room import SHARE

    fitting = int(SHARE * free / per_token)
    if fitting < 64:
        return 0
    return min(MOST_GPU_TOKENS["cuda"], 1 << (fitting.bit_length() - 1))


def _weights(shape: Shape) -> int:
    import torch

    with torch.device("meta"):
        model = _model(shape, shape.layers)
    return sum(p.numel() for p in model.parameters()) * (4 if shape.dtype == "float32" else 2)


def _model(shape: Shape, layers: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=2048,
    )
    return LlamaForCausalLM(config).to(torch.float32 if shape.dtype == "float32" else torch.bfloat16)


def _needed(machine: pretended.Machine, shape: Shape, layers: int, work: str) -> tuple[int, int]:
    """Return the peak of one pass beyond what was held, and what the engine holds beside the weights."""
    import torch

    from curate.gradients.directions import DirectionEngine
    from curate.gradients.sketches import SketchEngine
    from curate.proxies.proxy import make_proxy
    from curate.proxies.settings import ProxySettings
    from curate.proxies.tokens import TokenBatch
    from tests.small_models import tiny_tokenizer

    with torch.no_grad():
        model = _model(shape, layers).to("cuda:0")
    proxy = make_proxy(model, tiny_tokenizer(), ProxySettings(model="", dtype=shape.dtype))  # type: ignore[arg-type]
    held = machine.live
    engine: Any
    if work == "sketches":
        engine = SketchEngine(proxy, dim=16, seed=0)
    else:
        shapes = {n: proxy.shape(n) for n in proxy.tracked}
        engine = DirectionEngine(proxy, {n: torch.zeros(1, o, i + b) for n, (o, i, b) in shapes.items()})
    ids = torch.arange(TOKENS).remainder(1000).view(1, -1)
    batch = TokenBatch(ids=ids, labels=ids.roll(-1, 1), documents=(0,))
    engine(batch)  # what is made on first use stays
    before = machine.live
    machine.peak = machine.live
    engine(batch)
    return machine.peak - before, before - held


if __name__ == "__main__":
    main()
