"""Check column names before any model loads."""

from collections.abc import Iterator
from itertools import islice

from curate.documents import formats
from curate.documents.pool import Pool
from curate.documents.shards import Shard
from curate.errors import CurateError, nearest
from curate.fields import Fields

_SHARDS = 8


def check_fields(pool: Pool, fields: Fields, *, also: tuple[str, ...] = ()) -> None:
    """Read the first rows of the first shards; raise where they cannot give a document.

    Raises CurateError when the first shard with rows has none of the content columns, or when a column the
    user named (`fields` other than the default, `also`) is nowhere in the first rows of up to eight shards;
    the error names the columns and the nearest one. Other columns may differ from row to row and are
    not checked.
    """
    columns_seen: dict[str, None] = {}
    missing = set(fields.renamed) | set(also)
    pool_is_empty = True
    for shard, columns in islice(_filled_shards(pool), _SHARDS):
        if pool_is_empty and not fields.has_content(columns):
            raise _no_content(shard, columns, fields)
        pool_is_empty = False
        columns_seen.update(dict.fromkeys(columns))
        missing -= set(columns)
        if not missing:
            return
    if pool_is_empty:
        raise CurateError(f"{', '.join(pool.address)}: the {len(pool.shards)} shard(s) hold no rows.")
    column = min(missing)
    raise CurateError(
        f"{', '.join(pool.address)}: no column {column!r} in the first rows; found: {', '.join(columns_seen)}.",
        hint=nearest(column, list(columns_seen)),
    )


def _filled_shards(pool: Pool) -> Iterator[tuple[Shard, list[str]]]:
    for shard in pool.shards:
        if columns := formats.get(shard.format).columns(shard):
            yield shard, columns


def _no_content(shard: Shard, columns: list[str], fields: Fields) -> CurateError:
    expected = f"{fields.text!r}, {fields.messages!r} or {fields.prompt!r} with {fields.completion!r}"
    suggestion = next((s for w in fields.columns[:-1] if (s := nearest(w, columns)).startswith("Did")), None)
    return CurateError(
        f"{shard.url}: no column to read text from; expected {expected}, found: {', '.join(columns)}.",
        hint=f"Name the column that holds the text (--text-column). {suggestion or ''}".strip(),
    )
