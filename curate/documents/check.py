"""Check column names before any model loads."""

from collections.abc import Iterator

from curate.documents import formats
from curate.documents.pool import Pool
from curate.documents.shards import Shard
from curate.errors import CurateError, nearest
from curate.fields import Fields

_SHARDS = 8


def check_fields(pool: Pool, fields: Fields, *, also: tuple[str, ...] = ()) -> None:
    """Read the first rows of the first shards; raise where they cannot give a document.

    Raises CurateError when none of the first eight shards with rows has a content column, or when a column the
    user named (`fields` other than the default, `also`) is nowhere in their first rows;
    the error names the columns and the nearest one. Other columns may differ from row to row and are
    not checked. A shard that cannot be read stops no other.
    """
    columns_seen: dict[str, None] = {}
    missing = set(fields.renamed) | set(also)
    first_problem: CurateError | None = None
    has_content, num_filled = False, 0
    for shard, columns in _filled_shards(pool):
        if isinstance(columns, CurateError):
            first_problem = first_problem or columns
            continue
        num_filled += 1
        if fields.has_content(columns):
            has_content = True
        else:
            first_problem = first_problem or _no_content(shard, columns, fields)
        columns_seen.update(dict.fromkeys(columns))
        missing -= set(columns)
        if has_content and not missing:
            return
        if num_filled == _SHARDS:
            break
    if first_problem and not has_content:
        raise first_problem
    if not has_content:
        raise CurateError(f"{', '.join(pool.address)}: the {len(pool.shards)} shard(s) hold no rows.")
    column = min(missing)
    raise CurateError(
        f"{', '.join(pool.address)}: no column {column!r} in the first rows; found: {', '.join(columns_seen)}.",
        hint=nearest(column, list(columns_seen)),
    )


def _filled_shards(pool: Pool) -> Iterator[tuple[Shard, list[str] | CurateError]]:
    for shard in pool.shards:
        try:
            columns = formats.get(shard.format).columns(shard)
        except CurateError as error:
            yield shard, error
            continue
        if columns:
            yield shard, [*columns, *(name for name in shard.partitions if name not in columns)]


def _no_content(shard: Shard, columns: list[str], fields: Fields) -> CurateError:
    expected = f"{fields.text!r}, {fields.messages!r} or {fields.prompt!r} with {fields.completion!r}"
    suggestion = next((s for w in fields.columns[:-1] if (s := nearest(w, columns)).startswith("Did")), None)
    return CurateError(
        f"{shard.url}: no column to read text from; expected {expected}, found: {', '.join(columns)}.",
        hint=f"Name the column that holds the text (--text-column). {suggestion or ''}".strip(),
    )
