"""What is found by its name: the files of one folder, and what installed packages offer as entry points of one group.

Nothing is imported before it is asked for. A name that two sources offer is refused, never decided.
"""

import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from curate.errors import CurateError, SettingsError, nearest


@dataclass(frozen=True, kw_only=True)
class Registry:
    """Methods, filters or formats by name."""

    kind: str
    """What one of them is called, in messages."""
    group: str
    """The entry-point group of other packages' ones."""
    folder: Path
    """Holds one file per name; a file whose name begins with an underscore is none of them."""
    package: str | None = None
    """What the folder's files are imported from; None where they are no modules."""
    ending: str = ".py"
    leave_out: frozenset[str] = frozenset()
    """Files of the folder that are none of them either."""
    needs: tuple[str, ...] = ()
    """Attributes that an entry point's module must have."""
    otherwise: str = ""
    """What else may be given where a name is expected: a sentence for the hint."""

    def names(self) -> tuple[str, ...]:
        """Return all names, sorted. Imports none of them."""
        return tuple(sorted({*self._files(), *(e.name for e in self._installed())}))

    def source(self, name: str) -> Path | EntryPoint:
        """Return the file or entry point of a name. Imports nothing.

        Raises SettingsError for an unknown name and CurateError for one that two sources offer.
        """
        file = self._files().get(name)
        sources = [*([file] if file else []), *(e for e in self._installed() if e.name == name)]
        if not sources:
            hint = f"{nearest(name, self.names())} {self.otherwise}".strip()
            raise SettingsError(f"There is no {self.kind} {name!r}.", hint=hint)
        if len(sources) > 1:
            claims = sorted("curate itself" if isinstance(s, Path) else _distribution(s) for s in sources)
            raise CurateError(
                f"The {self.kind} {name!r} is offered by {' and by '.join(claims)}; expected one source.",
                hint="Uninstall the others.",
            )
        return sources[0]

    def get(self, name: str) -> Any:
        """Import the module of a name; raises what `source` and `load` raise."""
        source = self.source(name)
        return self.load(source) if isinstance(source, EntryPoint) else import_module(f"{self.package}.{name}")

    def load(self, entry: EntryPoint) -> Any:
        """Import what an entry point names. Raises CurateError that names its distribution where that fails."""
        where = f"The {self.kind} {entry.name!r} of {_distribution(entry)} ({entry.value})"
        try:
            module = entry.load()
        except Exception as error:  # a package's import may raise anything
            raise CurateError(
                f"{where} cannot be imported: {type(error).__name__}: {error}",
                hint="Install what it lacks or another version of it, or uninstall it.",
            ) from error
        if lacking := [n for n in self.needs if not hasattr(module, n)]:
            raise CurateError(
                f"{where} has no {' and no '.join(lacking)}.",
                hint=f"Its entry point must name a module with {', '.join(self.needs)}.",
            )
        return module

    def _files(self) -> dict[str, Path]:
        files = {p.stem: p for p in self.folder.glob(f"*{self.ending}") if not p.stem.startswith("_")}
        return {name: path for name, path in files.items() if name not in self.leave_out}

    def _installed(self) -> tuple[EntryPoint, ...]:
        return _entry_points(self.group, tuple(sys.path))


@lru_cache  # reading the metadata of every installed package takes a while
def _entry_points(group: str, _path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))


def _distribution(entry: EntryPoint) -> str:
    return f"the package {entry.dist.name} {entry.dist.version}" if entry.dist else f"the package of {entry.value}"
