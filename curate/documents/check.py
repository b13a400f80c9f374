"""Finding a wrong column name before any model loads."""

from collections.abc import Iterator
from itertools import islice

from curate.documents.columnar import schema_of
from curate.documents.lines import numbered_lines
from curate.documents.pool import Pool
from curate.documents.rows import rows
from curate.documents.shards import BadRow, Shard
from curate.errors import CurateError, nearest
from curate.fields import Fields

_FIRST_ROWS = 1000
_SHARDS = 8


def check_fields(pool: Pool, fields: Fields, *, also: tuple[str, ...] = ()) -> None:
    """Read the first rows of the first shards and raise when no document can come of them.

    Raises CurateError when the first shard with rows has none of the content columns, or when a column the
    user named (`fields` other than the default, `also`) is nowhere in the first rows of up to eight shards;
    the error names the columns found and the nearest one. Other columns may differ from row to row and are
    not checked.
    """
    seen: dict[str, None] = {}
    missing = set(fields.renamed) | set(also)
    first = True
    for shard, columns in islice(_filled_shards(pool), _SHARDS):
        if first and not fields.has_content(columns):
            raise _no_content(shard, columns, fields)
        first = False
        seen.update(dict.fromkeys(columns))
        missing -= set(columns)
        if not missing:
            return
    if first:
        raise CurateError(f"{', '.join(pool.address)}: the {len(pool.shards)} shard(s) hold no rows.")
    column = min(missing)
    raise CurateError(
        f"{', '.join(pool.address)}: no column {column!r} in the first rows; found: {', '.join(seen)}.",
        hint=nearest(column, list(seen)),
    )


def _filled_shards(pool: Pool) -> Iterator[tuple[Shard, list[str]]]:
    for shard in pool.shards:
        if columns := first_columns(shard):
            yield shard, columns


def first_columns(shard: Shard) -> list[str]:
    """List the columns of a shard's first thousand rows; none for an empty shard.

    Raises CurateError when none of those rows can be decoded, or the file is one JSON array.
    """
    if shard.format != "jsonl":
        return list(schema_of(shard).names) if next(iter(rows(shard, columns=[])), None) else []
    first = next(numbered_lines(shard), None)
    if first and first[2].lstrip().startswith(b"["):
        raise CurateError(
            f"{shard.url}: the file begins with a JSON array; expected one object per line.",
            hint="Turn it into lines: jq -c '.[]' FILE > FILE.jsonl",
        )
    found: dict[str, None] = {}
    bad: BadRow | None = None
    for _, row in islice(rows(shard), _FIRST_ROWS):
        if isinstance(row, BadRow):
            bad = bad or row
        else:
            found.update(dict.fromkeys(row))
    if bad and not found:
        raise CurateError(
            f"{shard.url}: none of the first lines is an object; {bad.reason}, {bad.detail}",
            hint="Each line must hold one JSON object. To put them on lines: jq -c . FILE > FILE.jsonl",
        )
    return list(found)


def _no_content(shard: Shard, columns: list[str], fields: Fields) -> CurateError:
    wanted = f"{fields.text!r}, {fields.messages!r} or {fields.prompt!r} with {fields.completion!r}"
    close = next((s for w in fields.columns[:-1] if (s := nearest(w, columns)).startswith("Did")), None)
    return CurateError(
        f"{shard.url}: no column to read text from; expected {wanted}, found: {', '.join(columns)}.",
        hint=f"Name the column that holds the text (--text-column). {close or ''}".strip(),
    )
