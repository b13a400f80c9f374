"""Where results lie, by the address that a user gives: on this machine, or in an object store."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from curate.errors import SettingsError
from curate.folders.atomic import atomic_file
from curate.folders.folder import Folder
from curate.folders.local_folder import LocalFolder
from curate.folders.object_folder import ObjectFolder
from curate.folders.objects import SCHEMES
from curate.secrets import without_secrets

# `Path` makes one slash of two. Of drives (`C:/`) the name is one letter.
_MARK = len("..12345678.tmp")  # what a temporary name has beside the name
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")


def open_folder(address: Path | str) -> Folder:
    """Return the folder of an address, which need not exist yet. Raises SettingsError for a URL of no object store."""
    if is_in_store(address):
        return ObjectFolder(_url(address))
    refuse_url(address, "The folder of results")
    # Arrow takes a relative path that begins with a word and a colon (`c4:train`) for a URL.
    path = Path(address)
    return LocalFolder(path.absolute() if ":" in "".join(path.parts[:1]) else path)


def is_in_store(address: Path | str) -> bool:
    """Return whether an address is one of an object store. Raises SettingsError where it holds a password."""
    match = _SCHEME.match(str(address))
    if match is None or match[1].lower() not in SCHEMES:
        return False
    if without_secrets(_url(address)) != _url(address):
        raise SettingsError(
            f"{_url(address)}: an address of results holds a password or a key.",
            hint="Leave it out: credentials are those of the process (its environment, its profile, its machine).",
        )
    return True


def _url(address: Path | str) -> str:
    match = _SCHEME.match(str(address))
    assert match is not None
    return f"{match[1].lower()}://{str(address)[match.end() :].rstrip('/')}"


def put_file(path: Path | str, write: Callable[[Path], object]) -> None:
    """Write a file that a user named by `write`, whole or not at all. Raises SettingsError for a URL."""
    refuse_url(path, "The file of results")
    with atomic_file(path) as temporary:
        write(temporary)


def put_text_file(path: Path | str, text: str) -> None:
    """Write a file of text that a user named, whole or not at all."""
    put_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def refuse_url(address: Path | str | None, what: str) -> None:
    """Raise SettingsError for an object store or a hub where only this machine will do; `what` names the setting."""
    if address is not None and (url := _SCHEME.match(str(address))):
        raise SettingsError(
            f"{what} is {url[1]}://{str(address)[url.end() :]}; expected a path on this machine.",
            hint="This takes local file systems alone: give a folder here, or copy it first, or when it is done.",
        )


def refuse_place(address: Path | str | None, what: str, *, stores: bool = False) -> None:
    """Raise SettingsError for a place that results cannot be written to; `what` names the setting.

    That is a URL, a path below a file, one without permission, and a name that is too long. `stores`: an object store
    will do.
    """
    if address is None or (stores and is_in_store(address)):
        return
    refuse_url(address, what)
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
