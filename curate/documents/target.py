"""Read a target: a pool small enough for memory, with its groups."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import xxhash

from curate.documents.check import FirstRows, check_fields, fallen_back, look
from curate.documents.pool import open_pool
from curate.documents.records import DocumentMaker
from curate.documents.rows import rows
from curate.documents.shards import DAMAGED, BadRow, DamagedShard, Row, Shard
from curate.errors import CurateError
from curate.fields import Fields
from curate.schema import Document, Skipped

SINGLE_GROUP = "target"


@dataclass(frozen=True, kw_only=True)
class Target:
    """The validation set in memory; `groups` is aligned with `documents`."""

    documents: list[Document]
    groups: list[str]
    skipped: list[Skipped]
    txt_lines: bool = False
    """Whether every line of a .txt file was read as a row."""
    read_as: FirstRows | None = None
    """The shapes of its first rows."""
    shards: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """Size and digest of its files by name."""
    left_out: str = field(default="", compare=False)
    """What of its address was not read, in one line; '' where all was."""

    @property
    def group_names(self) -> tuple[str, ...]:
        """Distinct groups, sorted."""
        return tuple(sorted(set(self.groups)))

    def fingerprint(self) -> str:
        """Hash content and groups in order, wherever the files lie; 32 hex digits."""
        pairs = [(d.content_hash, g) for d, g in zip(self.documents, self.groups, strict=True)]
        return xxhash.xxh3_128_hexdigest(orjson.dumps(pairs))


def read_target(
    address: str | Path | Sequence[str | Path],
    fields: Fields | None,
    *,
    group_by: str | None = None,
    pool_fields: Fields | None = None,
) -> Target:
    """Read every row of a target, grouped by the values of one column (any column but a nested one).

    What `fields` shares with the pool's holds only where the target has it: it is read by its own columns and shape.
    Rows that are no documents, rows whose group is null ('no group'), and what a damaged file no longer gives are set
    aside with their reason.
    Raises CurateError when a column is missing or no document is left.
    """
    pools = pool_fields or Fields()
    fields = fields or pools
    pool, prefix = open_pool(address, txt_lines=fields.txt_lines), "--target-" if pool_fields else "--"
    shared = [column for column in fields.renamed if column in pools.renamed]
    if shared or fields.format_as:
        fields = fallen_back(pool, fields, pools)
    check_fields(
        pool,
        fields,
        also=(group_by,) if group_by else (),
        may_lack=shared,
        prefix=prefix,
    )
    documents: list[Document] = []
    groups: list[str] = []
    skipped: list[Skipped] = []
    for shard in pool.shards:
        make = DocumentMaker(shard.name, fields)
        for number, raw in _readable(shard):
            document = make(number, raw)
            group = SINGLE_GROUP if group_by is None else _group(raw, group_by)
            if isinstance(document, Skipped):
                skipped.append(document)
            elif group is None:
                detail = f"column {group_by!r} holds no value to group by"
                skipped.append(
                    Skipped(shard=shard.name, row=number, reason="no group", detail=detail, doc_id=document.doc_id)
                )
            else:
                documents.append(document)
                groups.append(group)
    if not documents:
        reason = (
            f"; the first of {len(skipped)} rows set aside: {skipped[0].reason}, {skipped[0].detail}" if skipped else ""
        )
        columns = f"{prefix}text-column, or {prefix}prompt-column and {prefix}completion-column"
        raise CurateError(
            f"{', '.join(pool.address)}: the target holds no document{reason}.",
            hint=f"Name the columns that hold the content ({columns}), or write it as text into columns of its own.",
        )
    return Target(
        documents=documents,
        groups=groups,
        skipped=skipped,
        txt_lines=fields.txt_lines,
        shards=pool.shard_fingerprints(),
        left_out=pool.listing if pool.ignored or pool.other_splits else "",
        read_as=look(pool, fields),
    )


def _readable(shard: Shard) -> Iterator[tuple[int, Row]]:
    """Stream a file's rows; a damaged one ends with a row that says so."""
    try:
        yield from rows(shard)
    except DamagedShard as error:
        yield error.row, BadRow(reason=DAMAGED, detail=error.message)


def _group(raw: Row, column: str) -> str | None:
    value = ((raw.others or {}) if isinstance(raw, BadRow) else raw).get(column)
    is_nan = isinstance(value, float) and math.isnan(value)  # as pandas writes what is missing
    if value is None or is_nan or isinstance(value, list | dict | bytes) or value == "":
        return None
    return str(value)
