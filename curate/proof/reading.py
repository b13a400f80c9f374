"""Read the rows of a target that a run was scored by, and those that it kept aside."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from curate.documents import Target, read_target
from curate.errors import CurateError
from curate.folders.record import Details
from curate.proxies.tokens import Encoded, Encoder
from curate.schema import Document
from curate.score_settings import ScoreSettings
from curate.scores.run import Run


def scored_rows(run: Run) -> Target:
    """Read again the target's rows that a run was scored by. Raises CurateError where they have changed."""
    scoring = ScoreSettings.from_record(run.located_settings)
    target = read_target(scoring.target, scoring.target_fields, group_by=scoring.group_by, pool_fields=scoring.fields)
    used = _without(target, run.record.details)
    if run.record.fingerprints.target not in (target.fingerprint(), used.fingerprint()):
        raise CurateError(
            f"The target's content has changed since {run.address} was scored.",
            hint="Score the changed target into another run first.",
        )
    return used


def scored_hashes(run: Run) -> frozenset[str]:
    """Return the content hashes of the target's rows that a run was scored by, from its record where it has them."""
    hashes = run.record.details.target_rows
    return frozenset(hashes) if hashes else frozenset(d.content_hash for d in scored_rows(run).documents)


def drawn(documents: Sequence[Document], count: int, seed: int) -> list[Document]:
    """Return a seeded sample in the order of the rows; all where there are fewer."""
    order = np.random.default_rng([seed, 5]).permutation(len(documents))[:count]
    return [documents[i] for i in sorted(order)]


def usable(documents: Iterable[Document], encoder: Encoder) -> tuple[list[Document], list[Encoded]]:
    """Return the documents that have a scored token, and their tokens. Raises CurateError where none has."""
    candidates = list(documents)
    pairs = [(d, e) for d, e in zip(candidates, encoder(candidates), strict=True) if e.num_scored > 0]
    if not pairs:
        raise CurateError(f"None of {len(candidates)} documents has a scored token; expected at least one.")
    return [d for d, _ in pairs], [e for _, e in pairs]


def _without(target: Target, details: Details) -> Target:
    """Leave out the rows that a run kept aside."""
    aside = details.holdout.rows if details.holdout else {}
    positions = [i for i, d in enumerate(target.documents) if d.row not in _rows_of(aside, d.shard)]
    return Target(
        documents=[target.documents[i] for i in positions],
        groups=[target.groups[i] for i in positions],
        skipped=target.skipped,
    )


def _rows_of(aside: Mapping[str, Sequence[int]], shard: str) -> Sequence[int]:
    return aside.get(shard) or aside.get(Path(shard).name) or ()
