"""What is chosen together: a token, those that share a character with it, or a sentence, line or turn."""

import re

import numpy as np

from curate.selection.labels import reached

SMOOTHINGS = ("none", "sentence", "line", "turn")
_BEHIND = {
    "sentence": re.compile(r"[.!?…]+[\"'”’)\]]*\s+|[。！？]+|\n+"),
    "line": re.compile(r"\n+"),
}


def units_of(text: str, stretches: np.ndarray, scored: np.ndarray, smooth: str) -> np.ndarray:
    """Return the unit of each token, int64 `[tokens]` from 0 in order; -1 for tokens that cannot be chosen.

    Those are the tokens that carry no loss, those that stand for no character, and those that share a character with
    one of either. Tokens of one character are chosen together, as no span divides them. With `smooth` a unit is what
    lies within a sentence or line of the text, or, as a turn, between tokens that carry no loss.
    """
    units = np.full(len(scored), -1, np.int64)
    places = np.flatnonzero(stretches[:, 0] < stretches[:, 1])
    if not len(places):
        return units
    starts, ends = stretches[places].T
    begins = starts >= reached(ends)
    begins[0] = True
    piece, first = np.cumsum(begins) - 1, np.flatnonzero(begins)
    masked = ~scored[places] & (places > 0)  # the first token of a text is never scored, and its label never read
    is_free = ~np.logical_or.reduceat(masked, first) & np.logical_or.reduceat(scored[places], first)
    stretch = _stretches(text, np.maximum.reduceat(ends, first), smooth)
    is_new = is_free & np.append(True, (stretch[1:] != stretch[:-1]) | ~is_free[:-1])
    unit_of_piece = np.where(is_free, np.cumsum(is_new) - 1, -1)
    units[places] = np.where(scored[places], unit_of_piece[piece], -1)
    return units


def _stretches(text: str, ends: np.ndarray, smooth: str) -> np.ndarray:
    """Return the number of the sentence, line or turn in which each piece ends."""
    if smooth == "none":
        return np.arange(len(ends))
    if smooth == "turn":
        return np.zeros(len(ends), np.int64)
    boundaries = [m.end() for m in _BEHIND[smooth].finditer(text)]
    return np.searchsorted(boundaries, ends - 1, side="right")


def unit_scores(units: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each unit's mean of tokens' scores, float32 `[units]`, and its number of tokens, int32 `[units]`."""
    tokens = np.flatnonzero(units >= 0)
    counts = np.bincount(units[tokens])
    sums = np.bincount(units[tokens], weights=scores[tokens].astype(np.float64))
    return (sums / np.maximum(counts, 1)).astype(np.float32), counts.astype(np.int32)


def best(scores: np.ndarray, counts: np.ndarray, tokens: int) -> np.ndarray:
    """Return which units are the best of together no more than so many tokens, bool `[units]`; of equal ones the first.

    Whole units are taken from the best on until the next one does not fit.
    """
    order = np.argsort(-scores, kind="stable")
    chosen = np.zeros(len(scores), bool)
    chosen[order[np.cumsum(counts[order], dtype=np.int64) <= tokens]] = True
    return chosen
