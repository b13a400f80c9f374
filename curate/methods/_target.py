"""Setting aside target rows that no method can use."""

from collections.abc import Sequence

from curate.errors import CurateError
from curate.methods._contract import EncodedTarget
from curate.progress import Reporter


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
