"""The truth of a study: how every query's loss changes when training goes without some of its documents."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from laboratory import Laboratory

from curate.training.replay import Training


@dataclass(frozen=True, kw_only=True)
class Bank:
    """Retrainings, each without a random share of the documents."""

    out: np.ndarray
    """`[retrainings, documents]`: 1 where a document was left out."""
    changes: np.ndarray
    """`[retrainings, queries]`: how much larger each loss became, in nats per token."""
    orders: np.ndarray
    """`[whole runs, queries]`: losses of the runs on all documents that the changes are taken against."""


def same_order(lab: Laboratory, retrainings: int) -> Bank:
    """Retrain in the very order of the run that is attributed: what differs is what was left out."""
    return _bank(lab, "same_order", retrainings, [lab.recipe.seed], [lab.recipe.seed] * retrainings)


def own_orders(lab: Laboratory, retrainings: int, whole: int) -> Bank:
    """Retrain every time in another order, against the mean of `whole` runs in orders of their own.

    What the order does to a loss is then noise that no method can predict.
    """
    first = lab.recipe.seed + 1
    seeds = range(first + whole, first + whole + retrainings)
    return _bank(lab, f"own_orders_{whole}", retrainings, range(first, first + whole), seeds)


def _bank(lab: Laboratory, name: str, retrainings: int, whole: "range | list[int]", seeds: "range | list[int]") -> Bank:
    nothing = np.zeros(len(lab.own))
    orders = [lab.kept(f"bank/{name}/whole-{s}", lambda s=s: {"losses": _trained(lab, nothing, s)}) for s in whole]
    full = np.stack([kept["losses"] for kept in orders])
    out, losses = [], []
    for r, seed in enumerate(seeds):
        mask = left_out(lab, r)
        kept = lab.kept(f"bank/{name}/{r:04d}", lambda m=mask, s=seed: {"losses": _trained(lab, m, s)})
        out.append(mask)
        losses.append(kept["losses"])
        if (r + 1) % 10 == 0:
            print(f"{name}: retraining {r + 1} of {retrainings}", flush=True)
    return Bank(out=np.stack(out), changes=np.stack(losses) - full.mean(0), orders=full)


def left_out(lab: Laboratory, retraining: int) -> np.ndarray:
    """Return 1 for the documents that a retraining goes without, 0 for the others."""
    documents = len(lab.own)
    mask = np.zeros(documents)
    chosen = np.random.default_rng([lab.setup.seed, retraining]).permutation(documents)
    mask[chosen[: round(lab.setup.drop * documents)]] = 1
    return mask


def _trained(lab: Laboratory, mask: np.ndarray, seed: int) -> np.ndarray:
    weights = lab.own.spread(torch.from_numpy(1 - mask))
    end = Training(lab.model, lab.own, replace(lab.recipe, seed=seed), weights=weights).run()
    return lab.losses(end.parameters)
