"""Folders in object stores: one write is whole, a lease is the claim, and what needs a file gets a cached copy."""

import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import xxhash

from curate.errors import CurateError
from curate.folders import cache
from curate.folders.folder import FileFacts
from curate.folders.lease import NAME, Held, Lease
from curate.folders.objects import Changed, Object, Store

_AT_ONCE = 16  # requests: each waits for the store most of its time
_TRIES = 5


@dataclass(frozen=True)
class ObjectFolder:
    """A folder of an object store (`s3://bucket/run`); see `Folder`. There is no rename, no append and no folder."""

    address: str
    held: Held | None = field(default=None, compare=False, repr=False)
    """The claim that every write checks; None: writes of one that has no claim, as on a file system."""

    @cached_property
    def _store(self) -> Store:
        return Store(self.address)

    @property
    def root(self) -> Path:
        return cache.cache() / xxhash.xxh3_64_hexdigest(self.address.encode())

    @property
    def is_here(self) -> bool:
        return False

    def read(self, name: str) -> bytes:
        return self._store.read(name)

    def exists(self, name: str = "") -> bool:
        return self._store.look(name) is not None

    def modified(self, name: str) -> int:
        """See `Folder`. Raises FileNotFoundError."""
        return round(self._there(name).modified * 1e9)

    def list(self, prefix: str = "") -> list[str]:
        """See `Folder`. Raises CurateError where a file has the folder's name."""
        objects = self._store.list(prefix)
        if any(o.key == prefix.rstrip("/") and not o.is_folder for o in objects):
            raise CurateError(
                f"{self.address}/{prefix} is a file; expected a folder.", hint="Give another folder with --out."
            )
        return sorted(f"{o.key}/" if o.is_folder else o.key for o in objects if o.key and not _is_lease(o.key))

    def files(self) -> Sequence[FileFacts]:
        objects = sorted(self._store.list("", deep=True), key=lambda o: o.key)
        return [FileFacts(name=o.key, size=o.size, modified=o.modified) for o in objects]

    def put(self, name: str, write: Callable[[Path], object]) -> None:
        """See `Folder`. Raises LeaseLostError where the folder was claimed, and another has taken over."""
        with tempfile.TemporaryDirectory(prefix="curate-") as scratch:
            path = Path(scratch) / name.rpartition("/")[2]
            write(path)
            self.upload(name, path)

    def upload(self, name: str, path: Path) -> None:
        """Write a file whose content is that of a file here; see `put`."""
        if self.held is None:
            self._store.write(name, path)
            return
        for _ in range(_TRIES):
            was = self._store.look(name)  # before the check, so that what a successor writes after it is not replaced
            self.held.check()
            try:
                self._store.replace(name, path, was)
            except Changed:
                continue
            return
        raise CurateError(
            f"{self.address}/{name}: it changes while it is written.", hint="Does another program write there?"
        )

    def remove(self, name: str) -> None:
        if self.held is not None:
            self.held.check()
        self._store.remove(name)

    def claim(self, *, shared: bool = False) -> Lease:
        """See `Folder`. Waits for a claim that nobody renews to expire."""
        return Lease.beside_others(self._store) if shared else Lease.alone(self._store)

    def sweep(self) -> None:
        """Do nothing: what a killed process had not finished writing is not there."""

    def turn(self, name: str, on_wait: Callable[[], object]) -> Lease:
        return Lease.turn(self._store, name, on_wait)

    def guarded(self, held: Held) -> "ObjectFolder":
        """Return the folder as one whose writes check a lease."""
        return replace(self, held=held)

    def local(self, name: str = "") -> Path:
        """See `Folder`. Raises FileNotFoundError, also for a folder: copies are of files."""
        return self._copy(self._there(name))

    def locals(self, names: Sequence[str]) -> Sequence[Path]:
        """See `Folder`. Raises FileNotFoundError."""
        parents = {name.rpartition("/")[0] for name in names}
        objects = {o.key: o for parent in parents for o in self._store.list(parent)}
        if lacking := [name for name in names if name not in objects]:
            raise FileNotFoundError(f"{self.address}/{lacking[0]}")
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            return [*threads.map(lambda name: self._copy(objects[name]), names)]

    def scratch(self, name: str) -> Path:
        return self.root / cache.SCRATCH / name

    def child(self, name: str) -> "ObjectFolder":
        return ObjectFolder(f"{self.address.rstrip('/')}/{name}", self.held)

    def __getstate__(self) -> dict[str, object]:
        return {"address": self.address, "held": self.held}

    def _there(self, name: str) -> Object:
        there = self._store.look(name)
        if there is None or there.is_folder:
            raise FileNotFoundError(f"{self.address}/{name}")
        return there

    def _copy(self, there: Object) -> Path:
        """Return the path of an object's copy, whose name changes with the content."""
        folder, _, name = there.key.rpartition("/")
        version = xxhash.xxh3_64_hexdigest(f"{there.tag} {there.size}".encode())
        path = self.root / folder / version / name
        cache.begin()
        if not cache.use(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as scratch:
                self._store.fetch(there.key, Path(scratch) / name)
                if (Path(scratch) / name).stat().st_size != there.size:
                    raise CurateError(f"{self.address}/{there.key}: it changed while it was read.", hint="Try again.")
                os.replace(Path(scratch) / name, path)
        return path


def _is_lease(key: str) -> bool:
    name = key.rpartition("/")[2]
    return name.startswith(".") and name.endswith(NAME)
