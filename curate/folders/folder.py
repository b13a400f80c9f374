"""A folder of results: files by name, each there whole or not at all."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

from curate.folders.record import as_json, canonical
from curate.secrets import addresses_without_secrets


@runtime_checkable
class Claim(Protocol):
    """The right to write a folder; held until `release`, the end of a `with` block or the end of the process."""

    @property
    def is_sole(self) -> bool:
        """Whether nobody else may write."""
        ...

    def share(self) -> None:
        """Let others in that claim the folder as shared."""
        ...

    def become_sole(self) -> bool:
        """Return whether no other is left, and if so, keep others out; if not, the claim is released."""
        ...

    def guard(self, folder: "Folder") -> "Folder":
        """Return the claimed folder as one that writes only as long as the claim holds, in whatever process."""
        ...

    def release(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """What a folder tells of a file without reading it."""

    name: str
    size: int
    modified: float
    """When it was written, in seconds."""


@runtime_checkable
class Folder(Protocol):
    """Results by name (`scores/00000-00000.parquet`). A value that pickles; folders of one address are equal.

    `LocalFolder` and `ObjectFolder` are the kinds so far. Another kind is one more class with these methods, which
    `open_folder` returns for its addresses.
    """

    @property
    def address(self) -> str:
        """The address that a user gives."""
        ...

    @property
    def root(self) -> Path:
        """The folder on this machine that paths of `local` lie under."""
        ...

    @property
    def is_here(self) -> bool:
        """Whether `root` is the folder itself; else it holds copies of what was read."""
        ...

    def read(self, name: str) -> bytes:
        """Return a file's bytes. Raises FileNotFoundError."""
        ...

    def exists(self, name: str = "") -> bool:
        """Return whether a file, or a folder that holds any, has this name; '' is this folder."""
        ...

    def modified(self, name: str) -> int:
        """Return when a file was written, in nanoseconds."""
        ...

    def list(self, prefix: str = "") -> list[str]:
        """Return the names of the entries of the folder `prefix`, sorted; those of folders end with '/'."""
        ...

    def files(self) -> Sequence[FileFacts]:
        """Return all files, those in folders of it too, sorted by name."""
        ...

    def put(self, name: str, write: Callable[[Path], object]) -> None:
        """Write a file by `write`; it takes the name whole or not at all."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with its content; do nothing where there is none."""
        ...

    def claim(self, *, shared: bool = False) -> Claim:
        """Claim the right to write; one that is sole removes killed processes' half-written files.

        Worker processes of the holder put files without a claim of their own. `shared`: beside others that claim it
        so; it is sole, until `share`, where there are none. Raises CurateError while another process holds it alone.
        """
        ...

    def sweep(self) -> None:
        """Remove killed processes' half-written files; hold a sole claim."""
        ...

    def turn(self, name: str, on_wait: Callable[[], object]) -> Claim:
        """Wait for one's turn at what one of several holders does for all; call `on_wait` first where another is at it.

        One that is killed, or whose claim has expired, loses its turn.
        """
        ...

    def local(self, name: str = "") -> Path:
        """Return a path on this machine, for memory maps and FAISS: the file itself, or a cached copy."""
        ...

    def locals(self, names: Sequence[str]) -> Sequence[Path]:
        """Return the `local` paths of many files, which are fetched side by side."""
        ...

    def scratch(self, name: str) -> Path:
        """Return a path on this machine for intermediate files, which a killed process's successor finds again."""
        ...

    def child(self, name: str) -> "Folder":
        """Return the folder of this name, which need not exist yet."""
        ...


def put_text(folder: Folder, name: str, text: str) -> None:
    """Put a small UTF-8 file."""
    folder.put(name, lambda path: path.write_text(text, encoding="utf-8", newline="\n"))


def put_json(folder: Folder, name: str, value: Mapping[str, Any]) -> None:
    """Put a value as its canonical JSON; addresses in it lose their secrets."""
    put_text(folder, name, canonical(addresses_without_secrets(as_json(value))))


def read_json(folder: Folder, name: str) -> Any:
    """Return the value of a JSON file. Raises FileNotFoundError."""
    return json.loads(folder.read(name))
