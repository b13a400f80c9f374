"""Folders on this machine's file systems."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from curate.errors import CurateError
from curate.folders.atomic import atomic_folder, atomic_write, remove_leftovers
from curate.folders.folder import FileFacts
from curate.folders.lock import NAME as LOCK_NAME
from curate.folders.lock import Lock


@dataclass(frozen=True)
class LocalFolder:
    """A folder of this machine; see `Folder`. Files are renamed into place, and an advisory lock is the claim."""

    path: Path

    @property
    def address(self) -> str:
        return str(self.path)

    @property
    def root(self) -> Path:
        return self.path

    @property
    def is_here(self) -> bool:
        return True

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def exists(self, name: str = "") -> bool:
        return (self.path / name).exists()

    def modified(self, name: str) -> int:
        return (self.path / name).stat().st_mtime_ns

    def list(self, prefix: str = "") -> list[str]:
        """See `Folder`. Raises CurateError where a file has the folder's name."""
        try:
            with os.scandir(self.path / prefix) as entries:
                children = [(e.name, e.is_dir()) for e in entries]
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            raise CurateError(
                f"{self.path / prefix} is a file; expected a folder.", hint="Give another folder with --out."
            ) from None
        parent = f"{prefix.rstrip('/')}/" if prefix else ""
        visible = [(n, d) for n, d in children if not (n.startswith(".") and n.endswith((LOCK_NAME, ".tmp")))]
        return sorted(f"{parent}{n}{'/' if is_folder else ''}" for n, is_folder in visible)

    def files(self) -> Sequence[FileFacts]:
        stats = {path: path.stat() for path in sorted(self.path.rglob("*")) if path.is_file()}
        return [
            FileFacts(name=path.relative_to(self.path).as_posix(), size=stat.st_size, modified=stat.st_mtime)
            for path, stat in stats.items()
        ]

    def put(self, name: str, write: Callable[[Path], object]) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            write(temporary)

    def put_folder(self, name: str, fill: Callable[[Path], object]) -> None:
        """Write a folder by `fill`; it takes the name whole or not at all. One process at a time."""
        with atomic_folder(self.path / name) as partial:
            fill(partial)

    def remove(self, name: str) -> None:
        path = self.path / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def claim(self, *, shared: bool = False) -> Lock:
        self.path.mkdir(parents=True, exist_ok=True)
        lock = Lock.beside_others(self.path) if shared else Lock.alone(self.path)
        if lock.is_sole:
            self.sweep()
        return lock

    def sweep(self) -> None:
        remove_leftovers(self.path)

    def turn(self, name: str, on_wait: Callable[[], object]) -> Lock:
        return Lock.turn(self.path, name, on_wait)

    def local(self, name: str = "") -> Path:
        return self.path / name

    def locals(self, names: Sequence[str]) -> Sequence[Path]:
        return [self.path / name for name in names]

    def scratch(self, name: str) -> Path:
        return self.path / name

    def child(self, name: str) -> "LocalFolder":
        return LocalFolder(self.path / name)
