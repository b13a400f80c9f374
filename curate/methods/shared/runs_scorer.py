"""Scores along the directions of several training runs, none by a run that trained on the document."""

from collections.abc import Sequence
from dataclasses import dataclass

from curate.gradients.direction_scoring import DirectionScorer
from curate.gradients.documents import Batching
from curate.gradients.scored import Scored, in_order
from curate.proxies.tokens import Encoded


@dataclass(frozen=True, kw_only=True)
class RunsScorer:
    """Score every document by the runs that did not train on it."""

    usual: DirectionScorer
    """For documents that no run trained on."""
    apart: Sequence[tuple[frozenset[str], DirectionScorer]]
    """Content hashes of a run's documents, and the scorer of the other runs."""

    def __call__(self, encoded: Sequence[Encoded], batching: Batching) -> Scored:
        """Return every document's scores; documents of the background are recognised by content hash."""
        runs = [next((i for i, (hashes, _) in enumerate(self.apart) if e.content_hash in hashes), -1) for e in encoded]
        parts: list[tuple[list[int], Scored]] = []
        for run in sorted(set(runs)) or [-1]:
            positions = [i for i, r in enumerate(runs) if r == run]
            scorer = self.usual if run < 0 else self.apart[run][1]
            parts.append((positions, scorer([encoded[i] for i in positions], batching)))
        return in_order(parts)
