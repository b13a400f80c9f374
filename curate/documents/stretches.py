"""Marks within large files of plain lines, so that reading that is taken up again need not begin at the file's start.

A stretch ends with the line that reaches the next multiple of STRETCH bytes: where one ends follows from the file.
"""

from collections.abc import Iterator
from dataclasses import astuple, dataclass, field
from typing import IO

from curate.folders.folder import Folder, put_json, read_json

STRETCH = 64 << 20
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Mark:
    """The start of a stretch: how much of the file comes before."""

    offset: int = 0
    """In bytes."""
    row: int = 0
    """In rows: lines that are not blank."""
    line: int = 0
    """In lines."""


@dataclass
class Marks:
    """The marks of a shard that is being read, kept in a folder."""

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
        return self.passed[-1] if self.passed else Mark()

    def add(self, mark: Mark) -> None:
        self.passed.append(mark)
        put_json(self.folder, self.name, {"marks": [astuple(m) for m in self.passed]})


class Stretch:
    """The blocks of a stretch; what it holds is known once they have been read."""

    def __init__(self, stream: IO[bytes], start: Mark) -> None:
        self._stream, self._start = stream, start
        self.size = 0
        """In bytes."""
        self.lines = 0
        self.is_last = False

    def __iter__(self) -> Iterator[bytes]:
        self._stream.seek(self._start.offset)
        goal = STRETCH - self._start.offset % STRETCH
        while block := self._stream.read(_BLOCK):
            end = block.find(b"\n", max(0, goal - 1 - self.size)) + 1 if self.size + len(block) >= goal else 0
            block = block[:end] if end else block
            self.size += len(block)
            self.lines += block.count(b"\n")
            yield block
            if end:
                return
        self.is_last = True
