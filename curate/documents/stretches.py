"""Marks within large plain files, so that reading that is taken up again need not begin at the file's start.

A mark lies behind a row, and whoever set it has read all rows before: within a file by itself no line of csv could be
told from one of a quoted field.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from curate.folders.folder import Folder, put_json, read_json

STRETCH = 64 << 20


class Mark(NamedTuple):
    """The place behind a row: how much of the file comes before; START in a file that is read from its start only."""

    offset: int = 0
    """In bytes."""
    row: int = 0
    """In rows: records that are not blank."""
    line: int = 0
    """In lines."""


START = Mark()


def may_have_marks(size: int | None) -> bool:
    """Return whether a file of so many bytes is large enough for marks; None: its size is not known."""
    return size is None or size > STRETCH


@dataclass(slots=True)
class Course:
    """The way of one reading through a shard, which follows it."""

    start: int = 0
    """Rows before it are passed over without decoding them, where the format allows it; it may be raised meanwhile."""
    mark: Mark = START
    """Where reading begins, then the place behind the row that was read last."""


@dataclass
class Marks:
    """The marks of a shard that is being read, kept in a folder, at most one in a STRETCH of bytes."""

    folder: Folder
    name: str
    passed: list[Mark] = field(default_factory=list)

    def before(self, row: int) -> Mark:
        """Return the last mark from which a row is reached; forget those behind it.

        Where a shard is read from its first row, whatever was kept may be of another file of that name.
        """
        if row == 0:
            self.folder.remove(self.name)
        kept = read_json(self.folder, self.name)["marks"] if self.folder.exists(self.name) else []
        self.passed = [mark for mark in (Mark(*numbers) for numbers in kept) if mark.row <= row]
        return self.passed[-1] if self.passed else START

    def reach(self, mark: Mark) -> None:
        """Keep a mark that lies in a later STRETCH of the file than the last one."""
        last = self.passed[-1] if self.passed else START
        if mark.offset // STRETCH > last.offset // STRETCH:
            self.passed.append(mark)
            put_json(self.folder, self.name, {"marks": self.passed})
