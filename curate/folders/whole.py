"""Folders at addresses that users give: they appear with all their files, and are read as folders of this machine."""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import xxhash

from curate.folders.atomic import atomic_folder
from curate.folders.folder import Folder, put_text
from curate.folders.lease import NAME as LEASE
from curate.folders.local import open_folder
from curate.folders.object_folder import ObjectFolder

UNFINISHED = ".unfinished"
"""In a folder of an object store while its files are uploaded, and after a kill meanwhile."""
_AT_ONCE = 4  # uploads: each may hold a hundred megabytes


@contextmanager
def new_folder(address: Path | str, *, last: str, by: str = "Another process") -> Iterator[Path]:
    """Yield an empty folder to fill; when the block ends without an error its content takes the place of `address`.

    In an object store files appear one by one, and `last`, the name of one of them, after all others: without it a
    folder is not whole. Raises CurateError while another process fills it; `by` names that process.
    """
    folder = open_folder(address)
    if not isinstance(folder, ObjectFolder):
        with atomic_folder(folder.root, by=by) as partial:
            yield partial
        return
    with folder.claim() as claim:
        shutil.rmtree(folder.scratch("new"), ignore_errors=True)  # of a killed process
        scratch = folder.scratch(f"new/{claim.token}")
        scratch.mkdir(parents=True)
        try:
            yield scratch
            _upload(scratch, claim.guard(folder), last)
        except OSError:
            claim.held.check()  # one that was paused meanwhile: its successor has removed what it wrote
            raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def is_taken(folder: Folder) -> bool:
    """Return whether a folder holds anything but what a killed process has left of a new one."""
    return bool(folder.list()) and (folder.is_here or not folder.exists(UNFINISHED))


def local_copy(folder: Folder) -> Path:
    """Return a folder of this machine with all files of a folder: itself, or copies, at a path that tells the content.

    Raises FileNotFoundError where an object store holds no such folder.
    """
    if folder.is_here:
        return folder.root
    names = [facts.name for facts in folder.files() if not facts.name.endswith(LEASE)]
    if not names:
        raise FileNotFoundError(folder.address)
    copies = [str(path) for path in folder.locals(names)]  # whose paths change with what they are copies of
    whole = folder.scratch(f"whole/{xxhash.xxh3_64_hexdigest(repr([names, copies]).encode())}")
    for name, copy in zip(names, copies, strict=True):
        (whole / name).parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.link(copy, whole / name)
    return whole


def _upload(source: Path, folder: ObjectFolder, last: str) -> None:
    """Replace what a folder of an object store holds by the files of `source`."""
    names = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    put_text(folder, UNFINISHED, "")
    folder.remove(last)
    for facts in folder.files():
        if facts.name not in names | {UNFINISHED} and not facts.name.endswith(LEASE):
            folder.remove(facts.name)
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        list(threads.map(lambda name: folder.upload(name, source / name), sorted(names - {last})))
    folder.upload(last, source / last)
    folder.remove(UNFINISHED)
