"""Measure what MAGIC costs beside plain training of the same steps: processor time and peak memory.

    python examples/magic/cost.py MODEL TEXTS.jsonl [--steps 12 --documents 32 --tokens 64 --micro 512 --lora 0]

Plain training is an ordinary loop: the model's own loss and attention, `backward`, torch.optim.AdamW. Each of the two
runs in a process of its own, so that its peak memory is its own.
"""

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from curate.proxies.proxy import keep_freed_memory
from curate.proxies.room import Room
from curate.proxies.tokens import Encoder, TokenSettings
from curate.schema import Document
from curate.training.adjoint import differentiate
from curate.training.language import LanguageModel
from curate.training.microbatches import Corpus
from curate.training.recipe import Recipe
from curate.training.replay import Replay, Training


def load(arguments: argparse.Namespace) -> tuple[LanguageModel, Corpus, Corpus, Recipe]:
    """Return model, training documents, target documents and recipe."""
    torch.set_num_threads(1)
    keep_freed_memory()
    recipe = Recipe(batch_size=arguments.documents, steps=arguments.steps, lora_rank=arguments.lora)
    settings = TokenSettings(context=arguments.tokens)
    encode = Encoder(AutoTokenizer.from_pretrained(arguments.model), settings)
    wanted = arguments.documents * arguments.steps
    with open(arguments.texts, encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in itertools.islice(file, wanted + 64)]
    documents = [
        Document(doc_id=str(i), shard="", row=i, content_hash="", text=t[: 8 * arguments.tokens])
        for i, t in enumerate(texts)
    ]
    encoded = encode(documents)
    model = LanguageModel(AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32), recipe)
    corpus, target = (Corpus(e, settings, room=Room(arguments.micro)) for e in (encoded[64:], encoded[:64]))
    return model, corpus, target, recipe


def plain(arguments: argparse.Namespace) -> dict[str, float]:
    """Train as anybody would."""
    model, corpus, _, recipe = load(arguments)
    training = Training(model, corpus, recipe)
    trained = [p for p in model.model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=recipe.learning_rate)
    before, begun = memory(), time.process_time()
    for step in range(training.steps):
        optimiser.zero_grad()
        for batch in corpus.microbatches(training.batches[step]):
            coefficients = training.coefficients(batch, step)
            logits = model.model(input_ids=batch.batch.ids, use_cache=False).logits
            losses = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), batch.batch.labels.flatten(), reduction="none"
            )
            (losses * coefficients.flatten().float()).sum().backward()
        optimiser.step()
    return {"seconds": time.process_time() - begun, "before": before, "peak": memory()}


def magic(arguments: argparse.Namespace) -> dict[str, float]:
    """Train and walk back."""
    model, corpus, target, recipe = load(arguments)
    with tempfile.TemporaryDirectory() as folder:
        replay = Replay(Training(model, corpus, recipe), Path(folder), keep_gradients=not arguments.recompute)
        before, begun = memory(), time.process_time()
        replay.run()
        middle, forward = time.process_time(), memory()
        differentiate(replay, target)
        seconds = time.process_time() - begun
    return {
        "seconds": seconds,
        "forward": middle - begun,
        "before": before,
        "forward_peak": forward,
        "peak": memory(),
    }


def memory() -> float:
    """The most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("texts")
    for name, default in (("steps", 12), ("documents", 32), ("tokens", 64), ("micro", 512), ("lora", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--recompute", action="store_true", help="keep no gradients of the forward run")
    parser.add_argument("--only", choices=("plain", "magic"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps({"plain": plain, "magic": magic}[arguments.only](arguments)))
        return
    found = {}
    for name in ("plain", "magic"):
        command = [sys.executable, *sys.argv, "--only", name]
        found[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(name, {k: round(v, 1) for k, v in found[name].items()})
    one, other = found["plain"], found["magic"]
    print(f"time {other['seconds'] / one['seconds']:.2f} x plain, forward {other['forward'] / one['seconds']:.2f} x")
    more = (other["peak"] - other["before"]) / max(1.0, one["peak"] - one["before"])
    print(f"peak memory {other['peak'] / one['peak']:.2f} x plain; above what was there before training {more:.2f} x")


if __name__ == "__main__":
    main()
