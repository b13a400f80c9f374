"""Does MAGIC predict retraining, and does a run on other documents predict it nearly as well? One bank, two answers.

    python examples/magic/study.py MODEL POOL.jsonl [--documents 768 --queries 20 --retrainings 60 --learning-rate 1e-3]

A warm-started model is fine-tuned on real documents, then again without a random share of them, many times. For every
query, the Spearman correlation of the summed scores of what was left out with the change of the query's loss: the
linear datamodelling score (methods of Park et al. 2023, §2). Scores: MAGIC in the run itself; the adjoint of a run on
entirely other documents, one snapshot; the gradient product at the start, for scale.
"""

import argparse
import itertools
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from curate.arithmetic import spearman
from curate.models import keep_freed_memory
from curate.schema import Document
from curate.tokens import Encoded, Encoder, TokenSettings
from curate.training.adjoint import Snapshot, differentiate, score_unseen, snapshot, target_loss
from curate.training.language import LanguageModel
from curate.training.microbatches import Corpus
from curate.training.recipe import Recipe
from curate.training.replay import Replay, Training
from curate.training.smoothness import smoothness


def read(arguments: argparse.Namespace) -> list[Encoded]:
    """Return enough documents for two runs and the queries, in seeded order, each cut to the context."""
    encode = Encoder(AutoTokenizer.from_pretrained(arguments.model), TokenSettings(context=arguments.tokens))
    with open(arguments.pool, encoding="utf-8") as file:
        texts = [json.loads(line)["text"][: 8 * arguments.tokens] for line in itertools.islice(file, 4000)]
    documents = [
        Document(doc_id=str(i), shard="", row=i, content_hash="", text=t) for i, t in enumerate(texts) if len(t) > 64
    ]
    encoded = [e for e in encode(documents) if e.num_scored >= arguments.tokens // 2]
    order = np.random.default_rng(arguments.seed).permutation(len(encoded))
    wanted = 2 * arguments.documents + arguments.queries
    if len(encoded) < wanted:
        raise SystemExit(f"{arguments.pool} has {len(encoded)} usable documents; {wanted} are needed.")
    return [encoded[i] for i in order[:wanted]]


class Laboratory:
    """One model, one recipe, two disjoint sets of documents, some queries."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.folder, encoded = folder, read(arguments)
        settings, n = TokenSettings(context=arguments.tokens), arguments.documents
        self.recipe = Recipe(steps=arguments.steps, learning_rate=arguments.learning_rate, seed=arguments.seed)
        self.model = LanguageModel(
            AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32), self.recipe
        )
        self.own, self.other = (
            Corpus(encoded[start : start + n], settings, budget=arguments.micro) for start in (0, n)
        )
        self.queries = [Corpus([e], settings, budget=arguments.micro) for e in encoded[2 * n :]]

    def losses(self, parameters: dict[str, torch.Tensor]) -> list[float]:
        return [target_loss(self.model, parameters, q)[0] for q in self.queries]

    def scores(self, positions: list[int]) -> dict[str, np.ndarray]:
        """Return scores `[queries, documents]` by method."""
        own, other = (
            Replay(Training(self.model, corpus, self.recipe), self.folder / name)
            for corpus, name in ((self.own, "own"), (self.other, "other"))
        )
        start = own.training.start()
        own.run()
        other.run()
        found: dict[str, list[np.ndarray]] = {}
        for i, query in enumerate(self.queries):
            found.setdefault("MAGIC, its own run", []).append(differentiate(own, query, f"q{i}").scores.numpy())
            differentiate(other, query, f"q{i}", snapshots=positions)
            snapshots = {f"adjoint of another run, step {k}": snapshot(other, f"q{i}", k) for k in positions}
            gradient = target_loss(self.model, start.parameters, query)[1]
            product = Snapshot(step=0, parameters=start.parameters, directions=gradient, denominator=1)
            for name, kept in (snapshots | {"gradient product at the start": product}).items():
                values = score_unseen(self.model, kept, self.own)
                found.setdefault(name, []).append(self.own.gather(values.double().cpu()).numpy())
            print(f"query {i + 1}/{len(self.queries)} scored", flush=True)
        return {name: np.stack(rows) for name, rows in found.items()}

    def bank(self, retrainings: int, drop: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what was left out `[retrainings, documents]` and the changes of loss `[retrainings, queries]`."""
        whole = np.array(self.losses(Training(self.model, self.own, self.recipe).run().parameters))
        out, changes = [], []
        for r in range(retrainings):
            left = np.random.default_rng([seed, r]).permutation(len(self.own))[: round(drop * len(self.own))]
            mask = np.zeros(len(self.own))
            mask[left] = 1
            weights = self.own.spread(torch.from_numpy(1 - mask))
            end = Training(self.model, self.own, self.recipe, weights=weights).run()
            out.append(mask)
            changes.append(np.array(self.losses(end.parameters)) - whole)
            print(f"retraining {r + 1}/{retrainings}", flush=True)
        return np.stack(out), np.stack(changes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("pool")
    numbers = {"documents": 768, "tokens": 64, "steps": 36, "queries": 20, "retrainings": 60, "micro": 2048, "seed": 0}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--drop", type=float, default=0.02)
    arguments = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        laboratory = Laboratory(arguments, Path(folder))
        smooth = smoothness(Training(laboratory.model, laboratory.own, laboratory.recipe))
        print(f"smoothness {smooth.agreement:.3f}")
        scores = laboratory.scores([arguments.steps * share // 4 for share in (1, 2, 3)])
        out, changes = laboratory.bank(arguments.retrainings, arguments.drop, arguments.seed)
    for name, values in scores.items():
        predicted = out @ values.T
        found = [spearman(p, c) or 0.0 for p, c in zip(predicted.T, changes.T, strict=True)]
        print(f"{name}: LDS {np.mean(found):.3f} ± {np.std(found, ddof=1) / len(found) ** 0.5:.3f}")


if __name__ == "__main__":
    main()
