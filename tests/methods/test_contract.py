"""A method from anywhere keeps the contract, or is told what it lacks."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from curate import methods
from curate.errors import CurateError
from curate.methods.contract import NEEDS, OFFERS, USUAL_BACKGROUND, Method, checked
from curate.methods.shared.target import group_columns


@dataclass(frozen=True, kw_only=True)
class Settings:
    size: int = 3


@dataclass(kw_only=True)
class Loose:
    size: int


def prepare(inputs: Any, settings: Any) -> Any:
    return group_columns


def method(**members: Any) -> SimpleNamespace:
    return SimpleNamespace(**({"Settings": Settings, "prepare": prepare} | members))


def test_what_a_method_leaves_out_has_a_default() -> None:
    made = checked("mine", method())
    assert (frozenset(), {"model"}, USUAL_BACKGROUND) == (made.OFFERS, made.NEEDS, made.BACKGROUND)
    assert made.rehearsal(Settings(size=5)) == Settings(size=5)
    assert made.prepare is prepare


def test_what_a_method_says_is_kept() -> None:
    small = Settings(size=1)
    made = checked("mine", method(NEEDS=frozenset({"background"}), BACKGROUND=7, rehearsal=lambda _: small))
    assert (made.NEEDS, made.BACKGROUND, made.rehearsal(Settings())) == ({"background"}, 7, small)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"Settings": None}, "it has no dataclass Settings"),
        ({"Settings": dict}, "it has no dataclass Settings"),
        ({"Settings": Loose}, "Settings is not frozen; Settings.size has no default"),
        ({"prepare": None}, r"it has no prepare\(inputs, settings\)"),
        ({"rehearsal": Settings()}, "rehearsal cannot be called"),
        ({"NEEDS": frozenset({"weights"})}, "NEEDS is .*'weights'.*; expected a frozenset of background, checkpoints"),
        ({"OFFERS": {"store"}}, "OFFERS is .*; expected a frozenset of against, aggregate, per_token, store"),
        ({"OFFERS": frozenset({"store"})}, 'it offers "store" and has no STORE'),
        ({"STORE": "trackstar"}, "STORE is 'trackstar'; expected a StoreKind"),
        ({"BACKGROUND": 0}, "BACKGROUND is 0; expected at least 1"),
    ],
)
def test_what_is_missing_or_odd_is_named(members: dict, message: str) -> None:
    with pytest.raises(CurateError, match=f"Method 'mine' does not keep the contract: {message}"):
        checked("mine", method(**members))


@pytest.mark.parametrize("name", methods.names())
def test_every_method_here_is_whole(name: str) -> None:
    found = methods.get(name)
    assert isinstance(found, Method)
    assert found.OFFERS <= OFFERS
    assert found.NEEDS <= NEEDS


def test_what_needs_no_weights_says_so() -> None:
    without = {n for n in methods.names() if "model" not in methods.get(n).NEEDS}
    assert without >= {"bm25", "length", "random"}
    assert without.isdisjoint({"cosine", "dot", "ekfac", "embedding", "less", "loss", "magic", "relatif", "trackstar"})
