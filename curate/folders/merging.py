"""Merge parts into files of many, so that the files of a large folder are few.

Every PARTS parts, counted in the pool's order, become one file, whatever shards they belong to; those that are left at
the end stay as they are. Where columns differ between neighbours, a file ends. So files follow from the parts alone,
whoever merges them and when.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from curate.folders.folder import Folder
from curate.folders.parts import Part, Place, Span, metadata_of_several
from curate.schema import SKIPPED_SCHEMA

PARTS = 256
GROUP_ROWS = 16_384
"""A row group ends with the part that brings it to so many rows."""
AT_ONCE = 4
"""Files that `merge_all` writes side by side: a store, or a disk, is waited for most of the time."""


def merge_all(folder: Folder, rows: str, parts: Sequence[Part]) -> None:
    """Merge a folder's parts; these are all of them, in the pool's order, up to where one is missing."""
    starts = range(0, len(parts) - PARTS + 1, PARTS)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for _ in threads.map(lambda start: merge(folder, rows, parts[start : start + PARTS]), starts):
            pass  # but raise what was raised


def merge(folder: Folder, rows: str, together: Sequence[Part]) -> list[str]:
    """Make one file of PARTS parts, or one of every stretch of equal columns; return the names of the new ones."""
    loose = [alike for alike in _alike(together) if len({part.path for part in alike}) > 1]
    return [_merged(folder, rows, alike) for alike in loose]


def _alike(parts: Sequence[Part]) -> Iterator[list[Part]]:
    stretch: list[Part] = []
    for part in parts:
        if stretch and not part.schema.equals(stretch[-1].schema):
            yield stretch
            stretch = []
        stretch.append(part)
    yield stretch


def _merged(folder: Folder, rows: str, parts: Sequence[Part]) -> str:
    """Write a file of parts, then remove theirs: one that is stopped leaves parts that are there twice, never none."""
    name = f"{parts[0].name}-to-{parts[-1].name}.parquet"
    aside = set(folder.list("skipped"))  # in one request, where most parts have none
    tables = [part.skipped(folder) for part in parts if f"skipped/{part.path.name}" in aside]
    skipped = pa.concat_tables([SKIPPED_SCHEMA.empty_table(), *tables]).combine_chunks()
    places = _places([_num_rows(part) for part in parts])
    metadata, schema = metadata_of_several(parts, places), pq.read_schema(parts[0].path)
    if skipped.num_rows:
        folder.put(f"skipped/{name}", lambda path: _write(path, SKIPPED_SCHEMA, [skipped], metadata))
    folder.put(f"{rows}/{name}", lambda path: _write(path, schema, _groups(parts, places), metadata))
    for path in dict.fromkeys(part.path for part in parts):
        if path.name != name:
            folder.remove(f"{rows}/{path.name}")
            if f"skipped/{path.name}" in aside:
                folder.remove(f"skipped/{path.name}")
    return f"{rows}/{name}"


def _num_rows(part: Part) -> int:
    return pq.read_metadata(part.path).num_rows if part.place is None else part.place.num_rows


def _places(counts: Sequence[int]) -> list[Place]:
    places: list[Place] = []
    group, offset = 0, 0
    for count in counts:
        places.append(Place(group=group, offset=offset, num_rows=count))
        offset += count
        if offset >= GROUP_ROWS:
            group, offset = group + 1, 0
    return places


def _groups(parts: Sequence[Part], places: Sequence[Place]) -> Iterator[pa.Table]:
    for _, members in groupby(zip(parts, places, strict=True), key=lambda pair: pair[1].group):
        yield pa.concat_tables([part.rows().replace_schema_metadata() for part, _ in members]).combine_chunks()


def _write(path: Path, schema: pa.Schema, groups: Iterable[pa.Table], metadata: dict[str, str]) -> None:
    with pq.ParquetWriter(path, schema.with_metadata(metadata), compression="zstd") as writer:
        for group in groups:
            writer.write_table(group.replace_schema_metadata(metadata), row_group_size=max(1, group.num_rows))


@dataclass
class Sequel:
    """Spans as they are finished, in any order; tells the files of the next PARTS in the pool's order once all are."""

    next_place: tuple[int, int] = (0, 0)
    waiting: dict[tuple[int, int], Span] = field(default_factory=dict)
    together: list[Span] = field(default_factory=list)

    def add(self, span: Span) -> Iterator[list[str]]:
        """Yield the names of the files, without their folder, that are to be merged now that this span is finished."""
        self.waiting[span.order] = span
        while (following := self.waiting.pop(self.next_place, None)) is not None:
            number, index = self.next_place
            self.next_place = (number + 1, 0) if following.last else (number, index + 1)
            self.together.append(following)
            if len(self.together) == PARTS:
                names = list(dict.fromkeys(map(_file_of, self.together)))
                self.together = []
                if len(names) > 1:
                    yield names


def _file_of(span: Span) -> str:
    return span.path.name if isinstance(span, Part) else f"{span.name}.parquet"
