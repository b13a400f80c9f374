"""RDS+: embedding similarity by the largest cosine with a group's rows; the groups choose documents in turn.

Ivison et al. 2025, arXiv 2503.01807: embeddings as the method `embedding` makes them, the maximum over a task's rows,
and round-robin over the tasks, which `curate select` does.
"""

from curate.gradients.aggregation import Aggregation
from curate.methods.embedding import NEEDS, OFFERS, Settings, prepare

__all__ = ["AGGREGATION", "NEEDS", "OFFERS", "Settings", "prepare"]

AGGREGATION = Aggregation(rows="max", groups="round-robin")
