"""Values that were expensive to make, kept in a folder by a fingerprint of all that they depend on."""

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
from curate.folders.local_folder import LocalFolder

# Raise it whenever the meaning of a fit or a solve changes, so that an older run's tensors are not reused.
ALGORITHMS = 3


class Kept(Generic[T]):
    """Values of one kind in a folder: read from it, else from a neighbour, else made and kept."""

    def __init__(
        self,
        folder: Folder,
        codec: Codec[T],
        neighbours: Sequence[Folder] = (),
        *,
        refusal: Exception | None = None,
    ) -> None:
        """`refusal`: nothing is made or written; this is raised where a value is in none of the folders."""
        self.folder, self.codec, self.neighbours, self.refusal = folder, codec, neighbours, refusal

    def get(self, name: str, depends_on: Mapping[str, object], make: Callable[[], T]) -> T:
        """Return the value kept under `name` for exactly these dependencies; make and keep it first if need be."""
        return self.at(_key(name, depends_on), make)

    def at(self, name: str, make: Callable[[], T]) -> T:
        """Return the value of a file whose name says all that it depends on; make and keep it first if need be."""
        if (value := self.find(name)) is not None:
            return value
        for neighbour in self.neighbours:
            if (value := self._read(neighbour, name)) is not None:
                if self.refusal is not None:
                    return value
                source = neighbour.local(self._file(name))
                self.folder.put(self._file(name), partial(same_file, source))
                return value
        if self.refusal is not None:
            raise self.refusal
        self.keep(name, make())
        # Read back, so that the first use and every later one see the same memory layout and give the same bits.
        value = self.find(name)
        assert value is not None
        return value

    def forget(self, name: str, depends_on: Mapping[str, object]) -> None:
        """Remove the value that this folder keeps under `name` for these dependencies."""
        self.folder.remove(self._file(_key(name, depends_on)))

    def find(self, name: str) -> T | None:
        """Return the value that this folder keeps; None where it is missing or damaged."""
        return self._read(self.folder, name)

    def keep(self, name: str, value: T) -> None:
        """Keep a value; replace an older one."""
        self.folder.put(self._file(name), partial(self.codec.write, value))

    def has(self, name: str) -> bool:
        """Return whether this folder keeps a file of this name, whole or damaged."""
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


def _key(name: str, depends_on: Mapping[str, object]) -> str:
    return f"{name}-{xxhash.xxh3_64_hexdigest(repr([ALGORITHMS, *sorted(depends_on.items())]).encode())}"


def kept_folder(folder: LocalFolder, name: str, fill: Callable[[Path], object]) -> Path:
    """Return a folder whose name says all that it depends on; fill it first if need be."""
    if not folder.exists(name):
        folder.put_folder(name, fill)
    return folder.local(name)


@contextmanager
def workplace(folder: Folder, name: str) -> Iterator[Path]:
    """Yield a folder for a long computation's intermediate files: gigabytes, to resume from after a kill.

    It is removed when the block ends without an error.
    """
    scratch = folder.scratch(name)
    yield scratch
    LocalFolder(scratch.parent).remove(scratch.name)


def same_file(source: Path, copy: Path) -> None:
    """Give a file a second name where the file system can (curvature takes gigabytes), else copy it."""
    try:
        os.link(source, copy)
    except OSError:
        shutil.copyfile(source, copy)
