"""LESS features of a pool's documents: ours in batches, a loop of batch size one, and a LoRA training step, compared.

python examples/less/throughput.py --model MODEL --pool POOL.jsonl --rank 8 --documents 64

All in one process, on the same documents, in turns; the loop is what the released code of LESS does: one document at a
time through the model with gradients of its adapters, Adam's correction, and a projection by signs of sixteen vectors
together.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, get_peft_model

from curate import threads
from curate.documents import open_pool, sample_rows
from curate.fields import Fields
from curate.gradients.documents import Batching, make_room
from curate.gradients.features import FeatureEngine
from curate.gradients.whole_projections import WholeProjection, whole_projection
from curate.memory import peak_memory
from curate.methods.shared.features import AdamStep
from curate.proxies.proxy import keep_freed_memory, make_proxy
from curate.proxies.settings import ProxySettings
from curate.proxies.tokens import Encoded, Encoder, TokenSettings, batches

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]
DIM, INTERVAL = 8192, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--pool", required=True)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--skip-signs", action="store_true", help="Leave the loop with its own projection out.")
    options = parser.parse_args()
    keep_freed_memory()
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    base = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    config = LoraConfig(r=options.rank, lora_alpha=4 * options.rank, target_modules=TARGETS, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(0)
        model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    proxy = make_proxy(model.get_base_model(), tokenizer, ProxySettings(model=options.model, device="cpu"))
    threads.choose(proxy.coverage.total)
    tokens = TokenSettings(context=options.context)
    documents = sample_rows(open_pool(options.pool), options.documents, 0, Fields())
    encoded = [e for e in Encoder(tokenizer, tokens)(documents) if e.num_scored]
    count = sum(len(e.ids) for e in encoded)
    learnt = [p for n, p in model.named_parameters() if "lora_" in n]
    size = sum(p.numel() for p in learnt)
    step = AdamStep(first=1e-4 * torch.randn(size), second=1e-6 * torch.rand(size) + 1e-8, betas=(0.9, 0.999))
    fast, signs = whole_projection("hadamard", DIM, 0), whole_projection("signs", DIM, 0)
    batching = Batching(tokens=tokens, room=make_room(proxy, None))
    engine = FeatureEngine(proxy, fast)

    def ours() -> None:
        for _ in engine(encoded, batching, step):
            pass

    def gradient(document: Encoded) -> torch.Tensor:
        ids = torch.from_numpy(document.ids).long()[None]
        labels = ids.masked_fill(torch.from_numpy(~document.scored)[None], -100)
        for parameter in learnt:
            parameter.grad = None
        model(input_ids=ids, labels=labels).loss.backward()
        return step(torch.cat([p.grad.flatten() for p in learnt])[None])  # type: ignore[union-attr]

    def loop(project: WholeProjection | None, interval: int) -> Callable[[], None]:
        def run() -> None:
            with_gradients(True)
            for start in range(0, len(encoded), interval):
                vectors = torch.cat([gradient(e) for e in encoded[start : start + interval]])
                if project is not None:
                    project(vectors)
            with_gradients(False)

        return run

    def train() -> None:
        with_gradients(True)
        model.train()
        optimizer = torch.optim.AdamW(learnt, lr=0.0)
        for batch in batches(encoded, tokens, budget=lambda: 2048):
            optimizer.zero_grad()
            labels = torch.cat([torch.full((len(batch), 1), -100), batch.labels[:, :-1]], 1)
            model(input_ids=batch.ids, labels=labels).loss.backward()
            optimizer.step()
        model.eval()
        with_gradients(False)

    def with_gradients(on: bool) -> None:
        for parameter in learnt:
            parameter.requires_grad_(on)

    works = {
        "curate, in batches, Hadamard projection": ours,
        "a training step of the same adapters": train,
        "loop of batch size one, no projection": loop(None, 1),
        "loop of batch size one, Hadamard projection": loop(fast, 1),
    }
    if not options.skip_signs:
        works["loop of batch size one, signs for 16 vectors"] = loop(signs, INTERVAL)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    ours()  # libraries set themselves up on first use
    peak = peak_memory(proxy.device)
    for repeat in range(options.repeats):
        for name, work in works.items():
            if name.endswith("16 vectors") and repeat:
                continue  # minutes
            begun = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - begun)
    print(f"{Path(options.model).name}, LoRA r {options.rank}: {size:,} numbers;")
    print(f"{len(encoded)} documents, {count:,} tokens;")
    print(f"{torch.get_num_threads()} threads; peak memory of ours {peak / 1e9:.2f} GB.")
    print("\n| work | tokens a second | ours is faster by |\n| --- | --- | --- |")
    first = statistics.median(seconds["curate, in batches, Hadamard projection"])
    for name, times in seconds.items():
        print(f"| {name} | {count / statistics.median(times):,.0f} | {statistics.median(times) / first:.2f} |")


if __name__ == "__main__":
    main()
