"""Folders on this machine's file systems; other addresses are refused."""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from curate.errors import CurateError, SettingsError
from curate.folders.atomic import atomic_file, atomic_folder, atomic_write, remove_leftovers
from curate.folders.folder import Folder
from curate.folders.lock import NAME as LOCK_NAME
from curate.folders.lock import Lock

# `Path` makes one slash of two. Of drives (`C:/`) the name is one letter.
_MARK = len("..12345678.tmp")  # what a temporary name has beside the name
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")


@dataclass(frozen=True)
class LocalFolder:
    """A folder of this machine; see `Folder`. Files are renamed into place, and an advisory lock is the claim."""

    path: Path

    @property
    def address(self) -> str:
        return str(self.path)

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

    def put(self, name: str, write: Callable[[Path], object]) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            write(temporary)

    def put_folder(self, name: str, fill: Callable[[Path], object]) -> None:
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

    def child(self, name: str) -> "LocalFolder":
        return LocalFolder(self.path / name)


def open_folder(address: Path | str) -> Folder:
    """Return the folder of an address, which need not exist yet. Raises SettingsError for a URL."""
    refuse_url(address, "The folder of results")
    # Arrow takes a relative path that begins with a word and a colon (`c4:train`) for a URL.
    path = Path(address)
    return LocalFolder(path.absolute() if ":" in "".join(path.parts[:1]) else path)


def put_file(path: Path | str, write: Callable[[Path], object]) -> None:
    """Write a file that a user named by `write`, whole or not at all. Raises SettingsError for a URL."""
    refuse_url(path, "The file of results")
    with atomic_file(path) as temporary:
        write(temporary)


def put_text_file(path: Path | str, text: str) -> None:
    """Write a file of text that a user named, whole or not at all."""
    put_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def refuse_url(address: Path | str | None, what: str) -> None:
    """Raise SettingsError for an object store or a hub as the place of results; `what` names the setting."""
    if address is not None and (url := _SCHEME.match(str(address))):
        raise SettingsError(
            f"{what} is {url[1]}://{str(address)[url.end() :]}; expected a path on this machine.",
            hint="Results are written to local file systems alone: give a folder here, and copy it when it is done.",
        )


def refuse_place(address: Path | str | None, what: str) -> None:
    """Raise SettingsError for a place that results cannot be written to; `what` names the setting.

    That is a URL, a path below a file, one without permission, and a name that is too long.
    """
    refuse_url(address, what)
    if address is None:
        return
    path = Path(os.path.abspath(address))
    try:
        nearest = next(p for p in (path, *path.parents) if p.exists())
        too_long = len(os.fsencode(path.name)) + _MARK > os.pathconf(nearest, "PC_NAME_MAX")
        problem = "its name is too long" if too_long else _cannot_hold(nearest, path)
    except OSError as error:
        problem = str(error.strerror)
    if problem:
        raise SettingsError(f"{what} is {address}: {problem}.", hint=f"Give another place with {what}.")


def _cannot_hold(nearest: Path, path: Path) -> str | None:
    folder = nearest if nearest != path or nearest.is_dir() else nearest.parent
    if not folder.is_dir():
        return f"{folder} is a file; expected a folder"
    return None if os.access(folder, os.W_OK | os.X_OK) else f"no permission to write in {folder}"
