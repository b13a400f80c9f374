"""From products with a target's rows to the columns of scores: one for all, then one per group where there are several.

Means are linear, so that rows whose mean counts become one query before any document comes; a maximum needs all rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Aggregation:
    """How rows make a group's score, and groups the whole target's."""

    rows: Literal["mean", "max"] = "mean"
    groups: Literal["mean", "max", "round-robin"] = "mean"
    """mean: over all rows, or over the groups' scores where those are maxima; round-robin: the maximum, from which
    `curate select` lets every group choose in turn."""

    def queries(self, values: Float[Tensor, "targets d"], groups: Sequence[str], names: Sequence[str]) -> "Queries":
        """Return the queries of a target's rows, which have been brought to norm 1 or not as documents are."""
        if self.rows == "max":
            members = torch.tensor([names.index(g) for g in groups], device=values.device)
            return Queries(values=values, how=self, members=members, groups=len(names))
        return Queries(values=group_means(values, groups, names), how=self, members=None, groups=len(names))


MEANS = Aggregation()
"""Means of rows, over all rows for the whole."""


@dataclass(frozen=True, kw_only=True)
class Queries:
    """What documents are multiplied by, and how the products become columns."""

    values: Float[Tensor, "queries d"]
    how: Aggregation
    members: Int[Tensor, "queries"] | None
    """Each row's group; None where queries are means already: the whole target's, then each group's."""
    groups: int

    def less(self, control: Float[Tensor, "d"]) -> "Queries":
        """Subtract a control set's mean from every query."""
        return Queries(values=self.values - control, how=self.how, members=self.members, groups=self.groups)

    def columns(self, products: Float[Tensor, "documents queries"]) -> Float[Tensor, "documents columns"]:
        """Return the scores of documents from their products with all queries."""
        if self.members is None:
            if self.how.groups == "mean" or self.groups < 2:
                return products
            return torch.cat([products[:, 1:].amax(1, keepdim=True), products[:, 1:]], 1)
        # Column by column: a NaN of a document stays with it.
        members = self.members.to(products.device)
        groups = torch.stack([products[:, members == g].amax(1) for g in range(self.groups)], 1)
        if self.groups < 2:
            return groups
        whole = groups.mean(1, keepdim=True) if self.how.groups == "mean" else groups.amax(1, keepdim=True)
        return torch.cat([whole, groups], 1)


def group_means(
    values: Float[Tensor, "targets d"], groups: Sequence[str], names: Sequence[str]
) -> Float[Tensor, "columns d"]:
    """Return the mean over all target documents, then the mean of each group when there are several."""
    means = [values.mean(0)]
    if len(names) > 1:
        means += [values[[i for i, g in enumerate(groups) if g == name]].mean(0) for name in names]
    return torch.stack(means)
