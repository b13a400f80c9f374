"""Random: a seeded uniform number per document, the baseline that every other method has to beat.

A document's score in [0, 1) is a hash of its content, the seed and the column: it depends on no order, shard or batch,
copies of a document share it, and every target group has a ranking of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import xxhash

from curate.gradients.documents import Batching
from curate.gradients.scored import Scored
from curate.methods.contract import Inputs
from curate.proxies.tokens import Encoded
from curate.settings import Count, option, settings

NEEDS: frozenset[str] = frozenset()


@settings
class Settings:
    """The ranking's seed."""

    seed: Count = option(default=0, help="Seed of the ranking.")


@dataclass(frozen=True, kw_only=True)
class RandomScorer:
    """Hash documents to numbers in [0, 1)."""

    seed: int
    columns: int

    def __call__(self, encoded: Sequence[Encoded], batching: Batching) -> Scored:
        """Return every document's numbers. Raises ValueError for a document without a content hash."""
        uniforms = [[self._uniform(e, column) for column in range(self.columns)] for e in encoded]
        return Scored(scores=torch.tensor(uniforms, dtype=torch.float64).view(len(encoded), self.columns))

    def _uniform(self, document: Encoded, column: int) -> float:
        if not document.content_hash:
            raise ValueError("random needs each document's content_hash; without it all scores would be one number.")
        bits = xxhash.xxh3_64_intdigest(f"{document.content_hash}:{self.seed}:{column}".encode())
        return (bits >> 11) * 2.0**-53


def prepare(inputs: Inputs, settings: Settings) -> RandomScorer:
    """Return the scorer; the target decides only the number of columns."""
    return RandomScorer(seed=settings.seed, columns=inputs.target.columns)
