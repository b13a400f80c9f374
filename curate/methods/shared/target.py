"""A target's usable rows, and its groups as columns of scores."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from curate.errors import CurateError
from curate.gradients.documents import Batching, document_losses
from curate.gradients.frozen import FrozenPass
from curate.methods.contract import EncodedTarget
from curate.progress import Reporter
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoded


def group_shares(target: EncodedTarget, rows: Sequence[int]) -> Float[Tensor, "groups"]:
    """Return each group's share of the rows, in float64: it weighs the group's mean loss in the whole target's."""
    return torch.tensor([len(members) / len(rows) for members in target.by_group(rows).values()], dtype=torch.float64)


def group_columns(shares: Float[Tensor, "groups"]) -> Float[Tensor, "columns groups"]:
    """Return the whole target as a mixture of its groups, then each group where there are several."""
    whole = shares[None]
    return whole if len(shares) == 1 else torch.cat([whole, torch.eye(len(shares), dtype=shares.dtype)])


def usable_rows(target: EncodedTarget, finite: Sequence[bool], reporter: Reporter) -> list[int]:
    """Return the positions of rows whose gradient is finite, with a warning about the others.

    Raises CurateError when none is left, or none of a group.
    """
    rows = [i for i, ok in enumerate(finite) if ok]
    if not rows:
        raise CurateError(
            "No target row has a finite gradient.",
            hint="Use --dtype float32, and check that the model itself is whole.",
        )
    if len(rows) < len(finite):
        reporter.warn(f"{len(finite) - len(rows)} target row(s) set aside: their gradient is not finite.")
    if empty := sorted(set(target.names) - {target.groups[i] for i in rows}):
        raise CurateError(f"The target's group {empty[0]!r} has no row with a finite gradient.")
    return rows


def usable_groups(
    target: EncodedTarget, proxy: Proxy, batching: Batching, reporter: Reporter
) -> tuple[list[int], dict[str, list[Encoded]]]:
    """Return the rows with a finite loss, and their documents by group; groups are named for folders."""
    with reporter.stage("target", total=len(target.encoded), grows="target") as stage:
        finite = finite_losses(proxy, target.encoded, batching)
        stage.advance(len(finite))
    rows = usable_rows(target, finite, reporter)
    groups = target.by_group(rows).values()
    return rows, {f"group-{i}": [target.encoded[r] for r in members] for i, members in enumerate(groups)}


def finite_losses(proxy: Proxy, encoded: Sequence[Encoded], batching: Batching) -> list[bool]:
    """Return whether the proxy's loss is finite, for every document."""
    return document_losses(FrozenPass(proxy), encoded, batching).isfinite().tolist()
