"""Trainings that several verifications share: a file each, whose name holds a hash of all that decides it."""

from collections.abc import Iterable

from curate.errors import CurateError
from curate.folders.folder import Folder, put_text
from curate.progress import Reporter


def share(names: Iterable[str], source: Folder, target: Folder, reporter: Reporter) -> int:
    """Copy the files of these names that only `source` has, and return how many; say so where `target` refuses them."""
    missing = [name for name in names if source.exists(name) and not target.exists(name)]
    for name in missing:
        try:
            put_text(target, name, source.read(name).decode())
        except (OSError, CurateError) as error:
            reason = error.message if isinstance(error, CurateError) else error.strerror
            reporter.warn(f"{target.address}/{name} cannot be written ({reason}): others cannot use this training.")
            return 0
    return len(missing)
