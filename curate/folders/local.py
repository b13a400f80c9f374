"""Where results lie, by the address that a user gives: on this machine, or in an object store."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from curate.errors import CurateError, SettingsError
from curate.folders.atomic import atomic_file
from curate.folders.folder import Folder
from curate.folders.local_folder import LocalFolder
from curate.folders.object_folder import ObjectFolder
from curate.folders.objects import SCHEMES
from curate.secrets import without_secrets
from curate.visible import visible_path

# `Path` makes one slash of two. Of drives (`C:/`) the name is one letter.
_BEGINNING = 1600  # bytes, in which a page says who wrote it
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


def path_or_url(address: Path | str) -> Path | str:
    """Return the path of an address on this machine, or its URL in an object store: a path has one slash of two."""
    return _url(address) if is_in_store(address) else Path(address)


def parent_of(address: Path | str) -> tuple[Folder, str]:
    """Return the folder of a file that a user named, and its name there. Raises SettingsError for a whole bucket."""
    if not is_in_store(address):
        path = Path(os.path.abspath(address))
        return open_folder(path.parent), path.name
    parent, _, name = _url(address).rpartition("/")
    if parent.endswith(":/"):
        raise SettingsError(f"{_url(address)} is a bucket; expected a file.", hint=f"Give {_url(address)}/NAME.")
    return open_folder(parent), name


def beside(address: Path | str, suffix: str) -> Path | str:
    """Return the address of a folder beside another, with its name and a suffix."""
    if is_in_store(address):
        return f"{_url(address)}{suffix}"
    path = Path(address)
    return path.with_name(f"{path.resolve().name}{suffix}")


def put_file(address: Path | str, write: Callable[[Path], object]) -> None:
    """Write a file that a user named by `write`, whole or not at all: on this machine, or in an object store."""
    if is_in_store(address):
        folder, name = parent_of(address)
        folder.put(name, write)
        return
    refuse_url(address, "The file of results")
    with atomic_file(address) as temporary:
        write(temporary)


def put_text_file(address: Path | str, text: str) -> None:
    """Write a file of text that a user named, whole or not at all."""
    put_file(address, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def refuse_other_file(address: Path | str, mark: str, *, option: str, example: str, problem: str) -> None:
    """Raise CurateError for a folder, and, with a problem, for a file that does not begin with a mark."""
    folder, name = parent_of(address)
    try:
        beginning = folder.read(name)[:_BEGINNING].decode(errors="replace")
    except FileNotFoundError:
        return
    except IsADirectoryError:
        hint = f"Give a file: {option} {path_or_url(address)}/{example}."
        raise CurateError(f"{path_or_url(address)} is a folder; expected a file.", hint=hint) from None
    if mark not in beginning:
        raise CurateError(f"{path_or_url(address)} exists, and {problem}.", hint=f"Give another name with {option}.")


def refuse_url(address: Path | str | None, what: str) -> None:
    """Raise SettingsError for an object store or a hub where only this machine will do; `what` names the setting."""
    if address is not None and (url := _SCHEME.match(str(address))):
        hint = "Results lie on this machine or in an object store (s3://, gs://, abfs://, hf://): give a folder here."
        if url[1].lower() in SCHEMES:
            hint = "This takes local file systems alone: give a folder here, or copy it first, or when it is done."
        raise SettingsError(
            f"{what} is {url[1]}://{str(address)[url.end() :]}; expected a path on this machine.", hint=hint
        )


def refuse_place(address: Path | str | None, what: str) -> None:
    """Raise SettingsError for a place that results cannot be written to; `what` names the setting.

    That is a URL of no object store, a path below a file or of names that are no text, one without permission, and a
    name that is too long.
    """
    if address is None or is_in_store(address):
        return
    refuse_url(address, what)
    path = Path(os.path.abspath(address))
    if (shown := visible_path(str(path))) != str(path):
        raise SettingsError(f"{what} is {shown}: the path is not UTF-8.", hint=f"Give another place with {what}.")
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
