"""Say which rows were set aside, for people."""

from collections.abc import Iterator, Sequence

from curate.amounts import counted
from curate.documents.shards import DAMAGED
from curate.schema import Skipped

_NAMED = 5  # damaged files


def sentences(skipped: Sequence[Skipped], what: str) -> Iterator[str]:
    """Yield a sentence per damaged file (the first few), then one per reason; `what` they belong to: the "target"."""
    damaged = [s for s in skipped if s.reason == DAMAGED]
    for s in damaged[:_NAMED]:
        yield f"The {what} file {s.shard} is damaged, what could be read of it is kept: {s.detail}"
    if (more := len(damaged) - _NAMED) > 0:
        yield f"{counted(more, f'more {what} file')} cannot be read to the end."
    for reason in sorted({s.reason for s in skipped} - {DAMAGED}):
        rows = [s for s in skipped if s.reason == reason]
        detail = f": {rows[0].detail}" if rows[0].detail else ""
        yield (
            f"{counted(len(rows), f'{what} row')} set aside: {reason} (the first is row {rows[0].row} of "
            f"{rows[0].shard}{detail}). Mend such rows, or go on without them."
        )
