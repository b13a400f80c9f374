"""One student per file; the folder and the entry points of the group `curate.students` are the registry.

A student reads documents so cheaply that it can predict the scores of a pool from those of a sample. `contract` says
what one is. Adding one touches one file and its test.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from curate.registry import Registry

if TYPE_CHECKING:
    from curate.students.contract import Student

AUTO = "auto"
DEFAULT = "words"

_REGISTRY = Registry(
    kind="student",
    group="curate.students",
    folder=Path(__file__).parent,
    package=__name__,
    leave_out=frozenset({"contract", "fitting", "judging", "lengths", "ridge", "settings"}),
    needs=("read",),
    otherwise=f"{AUTO} takes the best of all.",
)


def names() -> tuple[str, ...]:
    """Return the names of all students, without importing them."""
    return _REGISTRY.names()


def get(name: str) -> "Student":
    """Return a student by name. Raises SettingsError for an unknown one."""
    from curate.students.contract import checked  # imported here: describing the settings needs no arrays

    return checked(name, _REGISTRY.get(name))


def chosen(name: str) -> tuple[str, ...]:
    """Return the names that one, or `auto`, stands for. Raises SettingsError for an unknown one."""
    if name == AUTO:
        return names()
    _REGISTRY.source(name)
    return (name,)
