"""A document's tokens with their parts of its score, and how strongly pages and terminals colour each."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenScore:
    """One token, and its part of the document's score."""

    text: str
    score: float


def strengths(scores: Sequence[float]) -> list[float]:
    """Return how strongly each token is coloured, from -1 to 1: its score over the largest, by square root."""
    largest = max((abs(s) for s in scores), default=0.0) or 1.0
    return [(abs(s) / largest) ** 0.5 * (1 if s > 0 else -1) for s in scores]


def coloured(tokens: Sequence[TokenScore]) -> list[tuple[TokenScore, float]]:
    """Return each token with its strength."""
    return list(zip(tokens, strengths([t.score for t in tokens]), strict=True))
