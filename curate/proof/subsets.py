"""Which documents each retraining leaves out."""

import numpy as np

from curate.proof.settings import num_dropped


def left_out(documents: int, drop: float, subset: int, seed: int) -> tuple[int, ...]:
    """Return the positions that one retraining leaves out, in order; each subset is a draw of its own."""
    drawn = np.random.default_rng([seed, 1, subset]).permutation(documents)[: num_dropped(documents, drop)]
    return tuple(sorted(int(i) for i in drawn))


def indicator(left: tuple[int, ...], documents: int) -> np.ndarray:
    """Return float64 `[documents]`: 1 for what is left out."""
    mask = np.zeros(documents)
    mask[list(left)] = 1
    return mask
