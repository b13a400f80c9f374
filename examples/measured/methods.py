"""Which method chooses best? The target's held-out loss after training on what each method chose, method by method.

    python examples/measured/methods.py runs/random runs/bm25 runs/ekfac runs/magic --model proxy \
        --heldout gsm8k=gsm8k_heldout.jsonl --heldout legal=legal_heldout.jsonl \
        --shares 5%,20% --rank-by score,density --tokens 200k --seeds 3 --out study

Every run has scored the same pool for the same groups. For every group of --heldout, every run, share of the pool's
tokens and way of ranking, `curate select --budget` chooses and `curate verify` trains the proxy on the choice, as on
random documents. What is finished is kept under --out: the same command goes on, and more runs or groups add to it. The
table gives the loss on the group's held-out rows by method, the mean rank, the mean gain over random documents, the
share of the way from random to the best method, and the worst distance from the best.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import curate
from curate.proof.settings import RANDOM
from curate.selection.ranking import is_summed
from curate.training.recipe import Recipe


@dataclass(frozen=True)
class Choice:
    """One selection: who chose, for whom, how much, ranked by what."""

    run: Path
    group: str
    share: str
    rank_by: str

    @property
    def method(self) -> str:
        return self.run.name if self.rank_by == "score" else f"{self.run.name}, {self.rank_by}"

    @property
    def name(self) -> str:
        return f"{self.group}-{self.share.rstrip('%')}-{self.run.name}-{self.rank_by}"


@dataclass(frozen=True)
class Outcome:
    """What training on a choice gave: nats per token on held-out rows, by seed."""

    group: str
    share: str
    method: str
    losses: list[float]
    random: list[float]
    untrained: float


def outcome(choice: Choice, heldout: str, args: argparse.Namespace) -> Outcome:
    """Select and verify one choice, or read it where it is finished."""
    kept = Path(args.out) / "outcomes" / f"{choice.name}.json"
    if not kept.exists():
        selection, out = (Path(args.out) / kind / choice.name for kind in ("selections", "verified"))
        run = curate.Run.open(choice.run)
        tokens = int(pool_tokens(args.runs) * float(choice.share.rstrip("%")) / 100)
        curate.select(run, budget=tokens, group=choice.group, rank_by=choice.rank_by, out=selection, overwrite=True)
        found = curate.verify(
            selection=str(selection),
            target=(heldout,),
            model=args.model,
            baselines=(),
            all_times=0.0,
            points=1,
            tokens=args.tokens,
            seeds=args.seeds,
            other_documents=args.other_documents,
            recipe=Recipe(learning_rate=args.learning_rate, batch_size=args.batch_size),
            out=out,
        )
        losses = {o.name: o.final("target").tolist() for o in found.outcomes}
        random = losses.pop(RANDOM)
        (chosen,) = losses.values()
        result = Outcome(choice.group, choice.share, choice.method, chosen, random, found.untrained["target"])
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(asdict(result)), encoding="utf-8")
    return Outcome(**json.loads(kept.read_text(encoding="utf-8")))


def pool_tokens(runs: Iterable[Path | str]) -> int:
    """Return the tokens of the pool: of the run that has scored most."""
    return max(curate.Run.open(r).scores().select("n_tokens").sum().collect().item() for r in runs)


def choices(args: argparse.Namespace, heldout: dict[str, str]) -> Iterator[Choice]:
    for group, share, run, rank_by in product(heldout, args.shares, map(Path, args.runs), args.rank_by):
        if rank_by == "score" or is_summed(curate.Run.open(run)):
            yield Choice(run, group, share, rank_by)


def table(outcomes: Sequence[Outcome], title: str) -> Table:
    """Return one share's losses by method and target, and how the methods stand over all targets."""
    groups = list(dict.fromkeys(o.group for o in outcomes))
    found = {(o.method, o.group): float(np.mean(o.losses)) for o in outcomes}
    random = {o.group: float(np.mean(o.random)) for o in outcomes}
    methods = list(dict.fromkeys(o.method for o in outcomes))
    best = {g: min(found[m, g] for m in methods if (m, g) in found) for g in groups}
    ranks = {g: {m: 1 + sum(found[o, g] < found[m, g] for o in methods) for m in methods} for g in groups}
    result = Table("target", "untrained", "random", *methods, title=title)
    for g in groups:
        untrained = next(o.untrained for o in outcomes if o.group == g)
        result.add_row(g, f"{untrained:.3f}", f"{random[g]:.3f}", *(f"{found[m, g]:.3f}" for m in methods))
    spans = {m: [(random[g] - found[m, g]) / (random[g] - best[g]) for g in groups] for m in methods}
    result.add_section()
    result.add_row("mean rank", "", "", *(f"{np.mean([ranks[g][m] for g in groups]):.1f}" for m in methods))
    result.add_row("mean gain", "", "", *(f"{np.mean([random[g] - found[m, g] for g in groups]):.3f}" for m in methods))
    result.add_row("of the way", "", "", *(f"{np.mean(spans[m]):.2f}" for m in methods))
    result.add_row("worst", "", "", *(f"{max(found[m, g] - best[g] for g in groups):.3f}" for m in methods))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--heldout", action="append", required=True, metavar="GROUP=FILE")
    parser.add_argument("--model", required=True, help="the proxy to train")
    parser.add_argument("--shares", type=lambda s: s.split(","), default=["5%"])
    parser.add_argument("--rank-by", type=lambda s: s.split(","), default=["score"])
    parser.add_argument("--tokens", default="200k", help="that every training takes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--other-documents", type=int, default=256, help="of the pool, that no arm trains on")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--out", default="study")
    args = parser.parse_args()
    console = Console(width=200)
    heldout = dict(pair.split("=", 1) for pair in args.heldout)
    done: list[Outcome] = []
    for choice in choices(args, heldout):
        done.append(outcome(choice, heldout[choice.group], args))
        last = done[-1]
        console.print(f"{choice.name}: {np.mean(last.losses):.3f}, random {np.mean(last.random):.3f}")
    for share in args.shares:
        console.print(table([o for o in done if o.share == share], f"{share} of the tokens"))


if __name__ == "__main__":
    main()
