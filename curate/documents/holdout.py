"""Keep a seeded part of a target aside, to verify scores on rows that took no part in them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, time
from typing import Any

import orjson
import xxhash

from curate.documents.pool import open_pool
from curate.documents.rows import rows
from curate.documents.shards import BadRow
from curate.documents.target import Target
from curate.errors import SettingsError
from curate.folders.folder import Folder

HELDOUT = "target/heldout.jsonl"
"""Where a run keeps the rows that took no part in its scores."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """A target in two parts: what scoring uses, and what it never sees."""

    used: Target
    heldout: Target | None
    share: float
    seed: int
    _address: Sequence[str] = field(repr=False)

    def fingerprints(self) -> dict[str, str]:
        """Return a hash of each part: scores depend on the first, contamination on both."""
        hashes = {"target": self.used.fingerprint()}
        return hashes if self.heldout is None else hashes | {"heldout": self.heldout.fingerprint()}

    def details(self) -> dict[str, Any]:
        """Return for run.json the rows that scoring used (content hashes), and those it did not (file, row number)."""
        details: dict[str, Any] = {"target_rows": sorted({d.content_hash for d in self.used.documents})}
        if self.heldout is not None:
            details["holdout"] = {"share": self.share, "seed": self.seed, "rows": self._places()}
        return details

    def write(self, run: Folder) -> None:
        """Write the rows kept aside, with all their columns, into a run's folder, in place of an earlier start's."""
        if self.heldout is None:
            run.remove(HELDOUT)
            return
        lines = self._lines(self.heldout)
        if not run.exists(HELDOUT) or run.read(HELDOUT) != lines:
            run.put(HELDOUT, lambda path: path.write_bytes(lines))

    def _lines(self, heldout: Target) -> bytes:
        lines: list[bytes] = []
        places = self._places()
        for shard in open_pool(self._address, txt_lines=heldout.txt_lines).shards:
            for _, raw in rows(shard, only=places.get(shard.name, [])):
                assert not isinstance(raw, BadRow)  # it was a document a moment ago
                lines.append(orjson.dumps(raw, default=_plain, option=orjson.OPT_NON_STR_KEYS) + b"\n")
        return b"".join(lines)

    def _places(self) -> dict[str, list[int]]:
        places: dict[str, list[int]] = defaultdict(list)
        for document in () if self.heldout is None else self.heldout.documents:
            places[document.shard].append(document.row)
        return {shard: sorted(numbers) for shard, numbers in sorted(places.items())}


def hold_out(target: Target, share: float, seed: int, *, address: Sequence[str]) -> Split:
    """Split a target: keep a share of every group's rows aside; 0 keeps none.

    Which rows depends on the seed and on where a row stands (file, number), never on its text nor on the order of
    addresses. Copies of a row that is kept aside follow it, into whatever group. Raises SettingsError where a group
    cannot have a row on either side.
    """
    if not share:
        return Split(used=target, heldout=None, share=0.0, seed=seed, _address=address)
    members: dict[str, list[int]] = defaultdict(list)
    for i, group in enumerate(target.groups):
        members[group].append(i)
    aside: set[int] = set()
    for group, positions in members.items():
        if len(positions) < 2:
            raise SettingsError(
                f"--holdout {share:.0%}: {_named(group, target)} has one row; expected at least two.",
                hint="Give it more rows, leave it out, or score without --holdout.",
            )
        drawn = sorted(positions, key=lambda i: _draw(target, i, seed))
        aside.update(drawn[: min(max(1, round(share * len(positions))), len(positions) - 1)])
    contents = {target.documents[i].content_hash for i in aside}
    aside = {i for i, d in enumerate(target.documents) if d.content_hash in contents}
    for group, positions in members.items():
        if aside.issuperset(positions):
            raise SettingsError(
                f"--holdout {share:.0%}: every row of {_named(group, target)} is kept aside, or is a copy of one.",
                hint="Remove copies from the target, hold out less, or take another --seed.",
            )
    used, heldout = (_part(target, aside, kept_aside=kept) for kept in (False, True))
    return Split(used=used, heldout=heldout, share=share, seed=seed, _address=address)


def _draw(target: Target, i: int, seed: int) -> str:
    document = target.documents[i]
    return xxhash.xxh3_128_hexdigest(f"{seed}\0{document.shard}\0{document.row}".encode())


def _part(target: Target, aside: set[int], *, kept_aside: bool) -> Target:
    positions = [i for i in range(len(target.documents)) if (i in aside) == kept_aside]
    return Target(
        documents=[target.documents[i] for i in positions],
        groups=[target.groups[i] for i in positions],
        skipped=[] if kept_aside else target.skipped,
        txt_lines=target.txt_lines,
    )


def _named(group: str, target: Target) -> str:
    return f"the target's group {group!r}" if len(target.group_names) > 1 else "the target"


def _plain(value: Any) -> Any:
    """Return a value that JSON has no type for as text."""
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if isinstance(value, date | time) else str(value)
