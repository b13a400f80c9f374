"""Measure MAGIC beside Bergson's and beside plain training of the same steps, each in a process of its own.

    pip install bergson        # its torchvision and torchaudio need not load
    python examples/magic/beside.py MODEL TEXTS.jsonl [--steps 12 --documents 32 --tokens 64 --repeats 2]

Both walk back through the same steps of the same documents, AdamW, float32, one thread; Bergson with `save_mode="sqrt"`
into a temporary folder, as its command does. Prints processor seconds, and ratios to plain training.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from typing import Any

import torch
from cost import load, magic, plain
from datasets import Dataset
from transformers import AutoModelForCausalLM

from curate.training.replay import Training


def bergson(arguments: argparse.Namespace) -> dict[str, float]:
    """Train and walk back by Bergson's trainer."""
    pytree, torchopt = import_module("torchopt.pytree"), import_module("torchopt")
    trainers, streams = (import_module(f"bergson.magic.{name}") for name in ("trainer", "data_stream"))
    accumulate = import_module("bergson.magic.grad_accum").accumulate_grads
    model, corpus, target, recipe = load(arguments)
    order = [i for batch in Training(model, corpus, recipe).batches for i in batch]

    def stream(documents: list[Any], batch_size: int) -> Any:
        ids = [document.ids.tolist() for document in documents]
        return streams.DataStream(Dataset.from_dict({"input_ids": ids}), batch_size)

    data = stream([corpus.documents[i] for i in order], arguments.documents)
    queries = stream([*target.documents], 8)
    network = AutoModelForCausalLM.from_pretrained(
        arguments.model, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    network.loss_function = import_module("bergson.utils.math").weighted_causal_lm_ce
    optimiser = torchopt.adamw(lambda _: recipe.learning_rate, eps_root=recipe.epsilon, weight_decay=0.01)
    trainer, state = trainers.Trainer.initialize(network.requires_grad_(True), optimiser)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.process_time()
        state = trainer.train(state, data, save_dir=folder, save_mode="sqrt", inplace=True)
        trained = time.process_time()
        state.detach_()
        state.requires_grad = True
        with state.activate(network) as parameters:
            gradients, _ = accumulate(network, parameters, queries[0], 1, create_graph=False)
        moments = [
            t for t in pytree.tree_iter(state.opt_state) if isinstance(t, torch.Tensor) and t.is_floating_point()
        ]
        end = trainers.BackwardState(
            dict(gradients), [torch.zeros_like(t) for t in moments], torch.zeros_like(data.weights)
        )
        asked = time.process_time()
        trainer.backward(folder, data, end, state, inplace=True, save_mode="sqrt")
        back = time.process_time() - asked
    return {"seconds": asked - begun + back, "forward": trained - begun, "target": asked - trained}


KINDS = {"plain": plain, "magic": magic, "bergson": bergson}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("texts")
    for name, default in (
        ("steps", 12),
        ("documents", 32),
        ("tokens", 64),
        ("micro", 512),
        ("lora", 0),
        ("repeats", 2),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--recompute", action="store_true", help="of ours: keep no gradients of the forward run")
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=list(KINDS), help="plain first")
    parser.add_argument("--only", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(KINDS[arguments.only](arguments)))
        return
    for _ in range(arguments.repeats):
        base = 0.0
        for kind in arguments.kinds:
            command = [sys.executable, *sys.argv, "--only", kind]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            told = json.loads(printed.splitlines()[-1])
            base = base or told["seconds"]
            print(kind, {name: round(v, 2) for name, v in told.items()}, f"{told['seconds'] / base:.2f} x plain")


if __name__ == "__main__":
    main()
