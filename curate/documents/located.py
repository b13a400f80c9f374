"""Where the addresses of a folder's record lie now: the folder may be used from elsewhere, or have moved."""

import os
from collections.abc import Mapping
from typing import Any

from curate.documents.addresses import lies_here
from curate.folders.part_folder import PartFolder

ADDRESSES = (
    "pool",
    "target",
    "against",
    "parent_run",
    "teacher",
    "model",
    "store",
    "fit_from",
    "only",
    "chat_template",
)
"""Settings that are addresses, or lists of them."""


def located(folder: PartFolder, address: str) -> str:
    """Return where an address of a folder's record lies now, as given where it lies nowhere.

    A relative address is looked for in the working folder in which it was given, moved along with the folder of
    results; then in that working folder itself; then here.
    """
    for where in folder.log.lines():
        if "working_folder" not in where:
            continue
        then = os.path.join(where["working_folder"], address)
        there = next((place for place in (*_moved(folder, then, where["folder"]), then) if lies_here(place)), None)
        if there is not None:
            return address if there == os.path.abspath(address) else there
    return address


def _moved(folder: PartFolder, then: str, place: str) -> list[str]:
    """Return where a path lies if it has moved along with the folder of results, which lay at `place`."""
    if not folder.folder.is_here or not os.path.isabs(place):
        return []
    return [os.path.normpath(os.path.join(folder.path.resolve(), os.path.relpath(then, place)))]


def located_settings(folder: PartFolder) -> dict[str, Any]:
    """Return a record's settings, with addresses as they are found from here."""
    settings = dict(folder.record.settings)
    for name in ADDRESSES:
        if value := settings.get(name):
            settings[name] = located(folder, value) if isinstance(value, str) else [located(folder, a) for a in value]
    return settings


def as_recorded(folder: PartFolder, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings in which an address that leads where a recorded one does is written as the record has it."""
    recorded, now = folder.record.settings, located_settings(folder)
    changed = dict(settings)
    for name in ADDRESSES:
        if settings.get(name) and same_places(settings[name], now.get(name)):
            changed[name] = recorded[name]
    return changed


def same_places(some: Any, others: Any) -> bool:
    """Return whether two addresses, or two lists of them, lead to the same places."""
    left, right = _places(some), _places(others)
    return left == right


def _places(value: Any) -> list[str]:
    addresses = [value] if isinstance(value, str) else list(value or ())
    return [os.path.abspath(a) if lies_here(str(a)) else str(a) for a in addresses]
