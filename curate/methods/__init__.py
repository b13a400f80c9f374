"""One method per file; the folder and the entry points of the group `curate.methods` are the registry.

`contract` says what a method is. Adding one touches one file and its test.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from curate.errors import SettingsError
from curate.registry import Registry

if TYPE_CHECKING:
    from curate.methods.contract import Method, StoreKind

DEFAULT = "relatif"
"""Of scoring; examples/measured/quality.md has the figures."""
DEFAULT_OF_STORES = "trackstar"
REFINEMENT = ("rounds", "refine_documents", "evaluation_documents", "step")
"""Settings of methods that count only where a direction is refined."""


_REGISTRY = Registry(
    kind="method",
    group="curate.methods",
    folder=Path(__file__).parent,
    package=__name__,
    leave_out=frozenset({"contract"}),
    needs=("Settings", "prepare"),
)


def names() -> tuple[str, ...]:
    """Return the names of all methods, without importing them."""
    return _REGISTRY.names()


def spelled(name: str) -> str:
    """Return a method's name for any spelling of it: EK-FAC, Ek_Fac and `ek fac` are ekfac; others stay as they are."""
    letters = re.sub(r"[\s_.-]", "", str(name)).casefold()
    return next((n for n in names() if n != name and re.sub(r"[_-]", "", n).casefold() == letters), name)


def get(name: str) -> "Method":
    """Return a method by name."""
    from curate.methods.contract import checked  # imported here: the names alone need no torch

    return checked(name, _REGISTRY.get(name))


def background_of(name: str) -> int:
    """Return the default size of a method's background."""
    return get(name).BACKGROUND


def store_of(name: str) -> "StoreKind":
    """Return what the stores keep that are indexed for a method. Raises SettingsError where there are none."""
    kind = get(name).STORE
    if kind is None or kind.method != name:
        stored = sorted({other.method for n in names() if (other := get(n).STORE)})
        raise SettingsError(
            f"No store is indexed for method {name!r}.",
            hint=f"Choose one of {', '.join(stored)}."
            if kind is None
            else f"It scores from stores of {kind.method!r}: --method {kind.method}.",
        )
    return kind


def refuse_store(name: str, indexed_for: str) -> None:
    """Raise SettingsError unless a method scores from the stores that are indexed for a method."""
    kind = store_of(indexed_for)
    if get(name).STORE is not kind:
        scoring = ", ".join(n for n in names() if get(n).STORE is kind)
        raise SettingsError(
            f"Method {name!r} does not score by the sketches that a store holds for {indexed_for!r}.",
            hint=f"Leave out --store, or choose one of {scoring}.",
        )


def refuse_unoffered(name: str, *, against: bool, per_token: bool, aggregate: bool = False) -> None:
    """Raise SettingsError where a method does not offer what is requested of it.

    Ignoring it would give a run whose record says that a control set was subtracted.
    """
    offers = get(name).OFFERS
    for requested, offer, flag, reason in (
        (against, "against", "--against", "has no gradient or query to subtract a control set's from"),
        (per_token, "per_token", "--per-token", "scores whole documents, not their tokens"),
        (aggregate, "aggregate", "--aggregate and --aggregate-rows", "scores along means of the target's rows"),
    ):
        if requested and offer not in offers:
            offering = ", ".join(n for n in names() if offer in get(n).OFFERS)
            raise SettingsError(f"Method {name!r} {reason}.", hint=f"Leave out {flag}, or choose one of {offering}.")
