"""Objects of a store by key, through fsspec: whole reads, whole writes that may ask what was there, bounded retries."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.core import url_to_fs
from fsspec.registry import known_implementations

from curate.errors import CurateError, SettingsError

T = TypeVar("T")

SCHEMES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "hf", "memory"})
"""Of stores that results are written to. What lies under `memory` ends with the process."""
_DIGESTS = ("ETag", "etag", "md5Hash", "content_md5", "blob_id", "generation", "checksum")
_TIMES = ("LastModified", "mtime", "last_modified", "updated", "created")
_PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds, after libraries' own retries: a store that throttles needs time
_FINAL = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError, ValueError)
_FINAL_NAMES = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError")
_CONDITIONS = ("PreconditionFailed", "ConditionalRequestConflict", "pre-condition", "412")
_ONE_PUT = 100 << 20  # bytes: more is written in parts, which no store compares with what was there
_comparing = threading.Lock()


class Changed(Exception):
    """An object is not, or no longer, what a write expected to replace."""


@dataclass(frozen=True, kw_only=True)
class Object:
    """What a store tells of an object."""

    key: str
    size: int
    tag: str
    """Changes with the content: an ETag, else the time of the write."""
    modified: float
    """When it was written, in seconds."""
    is_folder: bool = False


@dataclass(frozen=True)
class Store:
    """The store of an address (`s3://bucket/run`). A value: it pickles, and connects when it is first used."""

    address: str

    @cached_property
    def _opened(self) -> tuple[fsspec.AbstractFileSystem, str]:
        scheme = self.address.partition("://")[0]
        try:
            # Listings that are remembered would hide what other processes write.
            return url_to_fs(self.address, use_listings_cache=False)
        except ImportError as error:
            package = known_implementations.get(scheme, {}).get("class", scheme).split(".")[0]
            extra = " (or pip install 'curate[s3]')" if package == "s3fs" else ""
            raise SettingsError(
                f"{self.address}: {scheme}:// addresses need the package {package!r}, which is not installed.",
                hint=f"Install it: pip install {package}{extra}",
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {"address": self.address}

    @property
    def compares(self) -> bool:
        """Whether a write can ask the store, in one step, what it replaces."""
        return self._scheme in ("s3", "memory")

    @property
    def _scheme(self) -> str:
        protocol = self._opened[0].protocol
        return protocol if isinstance(protocol, str) else protocol[0]

    def _key(self, name: str) -> str:
        return f"{self._opened[1].rstrip('/')}/{name}".rstrip("/")

    def _again(self, what: str, call: Callable[[], T]) -> T:
        """Call until it succeeds; give a store that throttles or is lost some time. Raises CurateError at last."""
        for pause in (*_PAUSES, None):
            try:
                return call()
            except (*_FINAL, CurateError, Changed) as error:
                if isinstance(error, PermissionError):
                    raise CurateError(f"{self.address}: no permission to {what} ({error}).") from error
                raise
            except Exception as error:  # each library has its own classes of lost connections and refusals
                if _is_condition(error):
                    raise Changed from error
                if pause is None or type(error).__name__ in _FINAL_NAMES:
                    raise CurateError(
                        f"{self.address}: cannot {what} ({type(error).__name__}: {error}).",
                        hint="Is the store reachable from here, with the credentials of this process? Repeat the "
                        "command: finished parts are kept.",
                    ) from error
                time.sleep(pause)
        raise AssertionError

    def look(self, name: str) -> Object | None:
        """Return what is told of an object, or of a folder that holds any; None where there is neither."""
        fs, _ = self._opened
        try:
            told = self._again(f"look at {name}", lambda: fs.info(self._key(name)))
        except FileNotFoundError:
            return None
        return self._object(told)

    def list(self, name: str, *, deep: bool = False) -> list[Object]:
        """Return the objects and folders directly under a name, or, `deep`, all objects under it."""
        fs, _ = self._opened
        try:
            if deep:
                found: Any = self._again(f"list {name}", lambda: fs.find(self._key(name), detail=True))
                told = list(found.values())
            else:
                told = self._again(f"list {name}", lambda: fs.ls(self._key(name), detail=True))
        except FileNotFoundError:
            return []
        return [self._object(one) for one in told]

    def read(self, name: str) -> bytes:
        """Return an object's bytes. Raises FileNotFoundError."""
        fs, _ = self._opened
        content: Any = self._again(f"read {name}", lambda: fs.cat_file(self._key(name)))
        return content

    def fetch(self, name: str, path: Path) -> None:
        """Write an object's bytes into a file."""
        fs, _ = self._opened
        self._again(f"read {name}", lambda: fs.get_file(self._key(name), str(path)))

    def write(self, name: str, content: bytes | Path) -> None:
        """Write an object, whatever is there."""
        fs, _ = self._opened
        if isinstance(content, Path) and content.stat().st_size >= _ONE_PUT:
            self._again(f"write {name}", lambda: fs.put_file(str(content), self._key(name)))
            return
        data = content.read_bytes() if isinstance(content, Path) else content
        self._again(f"write {name}", lambda: fs.pipe_file(self._key(name), data))

    def replace(self, name: str, content: bytes | Path, was: Object | None) -> None:
        """Write an object only where there is `was`, or none. Raises Changed.

        Where the store cannot compare in one step it is looked at just before.
        """
        if isinstance(content, Path) and content.stat().st_size >= _ONE_PUT:
            self._refuse_changed(name, was)
            self.write(name, content)
            return
        data = content.read_bytes() if isinstance(content, Path) else content
        try:
            self._again(f"write {name}", lambda: self._compare_and_write(name, data, was))
        except (Changed, FileExistsError, FileNotFoundError) as error:
            if was is None and isinstance(error, FileNotFoundError):
                raise CurateError(
                    f"{self.address}: there is no such bucket.", hint="Make it, or give another."
                ) from error
            # A try whose answer was lost may have written it.
            if (now := self.look(name)) is None or now.size != len(data) or self.read(name) != data:
                raise Changed from error

    def _compare_and_write(self, name: str, data: bytes, was: Object | None) -> None:
        fs, _ = self._opened
        key = self._key(name)
        if self._scheme == "s3":
            condition = {"mode": "create"} if was is None else {"IfMatch": was.tag}
            fs.pipe_file(key, data, **condition)
            return
        with _comparing:
            self._refuse_changed(name, was)
            fs.pipe_file(key, data, mode="create" if was is None else "overwrite")

    def _refuse_changed(self, name: str, was: Object | None) -> None:
        now = self.look(name)
        if (None if now is None else now.tag) != (None if was is None else was.tag):
            raise Changed

    def remove(self, name: str) -> None:
        """Remove an object, or all under a folder; do nothing where there is none."""
        fs, _ = self._opened
        there = self.look(name)
        if there is not None:
            try:
                self._again(f"remove {name}", lambda: fs.rm(self._key(name), recursive=there.is_folder))
            except FileNotFoundError:
                return

    def _object(self, told: dict[str, Any]) -> Object:
        digest = next((str(told[name]) for name in _DIGESTS if told.get(name)), None)
        time_told: Any = next((told[name] for name in _TIMES if told.get(name)), 0.0)
        modified = time_told.timestamp() if isinstance(time_told, datetime) else float(time_told)
        root, full = self._opened[1].strip("/"), told["name"].strip("/")
        size = int(told.get("size") or 0)
        return Object(
            key=full.removeprefix(root).lstrip("/"),
            size=size,
            tag=digest or f"{modified}-{size}",
            modified=modified,
            is_folder=told.get("type") == "directory",
        )


def _is_condition(error: BaseException) -> bool:
    """Return whether a store says that an object is not what a write asked for."""
    link: BaseException | None = error
    while link is not None:
        code = str(getattr(link, "response", {}).get("Error", {}).get("Code", ""))
        if code in _CONDITIONS or any(word in str(link) for word in _CONDITIONS[:3]):
            return True
        link = link.__cause__
    return False
