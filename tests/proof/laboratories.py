"""A bank of retrainings small enough to be made in a test, and its truths."""

from dataclasses import replace

import numpy as np

from curate.progress import Silent
from curate.proof.bank import Bank, Job, Laboratory
from curate.proof.subsets import indicator, left_out
from curate.proxies.room import Room
from curate.training.recipe import Recipe
from tests.small_models import batching, encoded, tiny_model, tiny_proxy
from tests.training.small_training import SMALL

DOCUMENTS, QUERIES, SUBSETS, DROP = 24, 6, 40, 0.125
RECIPE = Recipe(batch_size=6, steps=8, learning_rate=0.01, epsilon=1e-5)


def laboratory(**changes: object) -> Laboratory:
    """Documents of four vocabularies; the queries are of the same, so that leaving some out matters to some queries."""
    rng = np.random.default_rng(0)

    def text(kind: int) -> list[int]:
        return (1 + 16 * (kind % 4) + rng.integers(0, 16, 12)).tolist()

    found = Laboratory(
        proxy=tiny_proxy(tiny_model(num_key_value_heads=1, **SMALL)),
        recipe=RECIPE,
        documents=[encoded(text(i)) for i in range(DOCUMENTS)],
        queries=[encoded(text(i)) for i in range(QUERIES)],
        tokens=batching().tokens,
        room=Room(128),
    )
    return replace(found, **changes)


def subsets(count: int = SUBSETS) -> list[tuple[int, ...]]:
    return [left_out(DOCUMENTS, DROP, i, seed=0) for i in range(count)]


def masks(left: list[tuple[int, ...]]) -> np.ndarray:
    return np.stack([indicator(one, DOCUMENTS) for one in left])


def changes(bank: Bank, left: list[tuple[int, ...]]) -> np.ndarray:
    """What leaving each out does to every query's loss, `[left, queries]`."""
    found = bank.fetch([Job(0), *(Job(0, one) for one in left)], Silent())
    return found[1:] - found[0]
