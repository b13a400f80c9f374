"""What was expensive to make and is kept in a folder, by a fingerprint of all that it depends on."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Generic

import xxhash

from curate.folders.codecs import Codec, T
from curate.folders.folder import Folder

# Raised whenever a fit or a solve comes to mean something else, so that no older run's tensors are taken for it.
ALGORITHMS = 2


class Kept(Generic[T]):
    """Values of one kind in a folder: found there, else in a neighbour, else made, and kept for the next time."""

    def __init__(self, folder: Folder, codec: Codec[T], neighbours: Sequence[Folder] = ()) -> None:
        self.folder, self.codec, self.neighbours = folder, codec, neighbours

    def get(self, name: str, depends_on: Mapping[str, object], make: Callable[[], T]) -> T:
        """Return the value kept under `name` for exactly these dependencies, making and keeping it if need be."""
        key = xxhash.xxh3_64_hexdigest(repr([ALGORITHMS, *sorted(depends_on.items())]).encode())
        return self.at(f"{name}-{key}", make)

    def at(self, name: str, make: Callable[[], T]) -> T:
        """Return the value of a file whose name says all that it depends on, making and keeping it if need be."""
        if (there := self.find(name)) is not None:
            return there
        for neighbour in self.neighbours:
            if (theirs := self._read(neighbour, name)) is not None:
                source = neighbour.local(self._file(name))
                self.folder.put(self._file(name), partial(_same_file, source))
                return theirs
        self.keep(name, make())
        # Read back, so that the first use and every later one see the same memory layout and give the same bits.
        made = self.find(name)
        assert made is not None
        return made

    def find(self, name: str) -> T | None:
        """Return the value that this folder keeps; None where there is none, or it is damaged and better made again."""
        return self._read(self.folder, name)

    def keep(self, name: str, value: T) -> None:
        """Keep a value, in the place of any that is there."""
        self.folder.put(self._file(name), partial(self.codec.write, value))

    def has(self, name: str) -> bool:
        """Whether this folder keeps a file of this name, whole or damaged."""
        return self.folder.exists(self._file(name))

    def _file(self, name: str) -> str:
        return f"{name}{self.codec.suffix}"

    def _read(self, folder: Folder, name: str) -> T | None:
        if not folder.exists(self._file(name)):
            return None
        try:
            return self.codec.read(folder.local(self._file(name)))
        except (OSError, ValueError):
            return None


def kept_folder(folder: Folder, name: str, fill: Callable[[Path], object]) -> Path:
    """Return a folder whose name says all that it depends on, filled now unless it is there."""
    if not folder.exists(name):
        folder.put_folder(name, fill)
    return folder.local(name)


@contextmanager
def workplace(folder: Folder, name: str) -> Iterator[Path]:
    """Yield a place for what a long making leaves on its way: gigabytes, to go on from after a kill.

    It goes when the block ends without an error.
    """
    yield folder.local(name)
    folder.remove(name)


def _same_file(source: Path, copy: Path) -> None:
    """Give a file a second name where the file system can (curvature takes gigabytes), else copy it."""
    try:
        os.link(source, copy)
    except OSError:
        shutil.copyfile(source, copy)
