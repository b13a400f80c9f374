"""The filters of a selection in their order, from what was given: filters by name, then a size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.errors import SettingsError
from curate.scores.run import Run
from curate.selection.filters import Filter, find_filter
from curate.selection.values import parse_budget, parse_top

FilterChoice = str | Path | tuple[str | Path, Mapping[str, Any]]
"""A filter by name or by the path of its .sql file, alone or with its parameters."""


@dataclass(frozen=True, slots=True)
class Step:
    """A filter, and the parameters that were given."""

    filter: Filter
    parameters: Mapping[str, Any]
    on_documents: bool = False
    """Also where whole shards are the candidates."""


def chooses_by_turns(run: Run, aggregate: str | None, unit: str, group: str | None) -> bool:
    """Whether the groups choose in turn. Raises SettingsError where there are none."""
    if aggregate not in (None, "score", "round-robin"):
        raise SettingsError(f"aggregate is {aggregate!r}; expected score or round-robin.")
    groups = len(run.record.details.columns) > 1
    if aggregate == "round-robin" and group is not None:
        raise SettingsError(
            f"group is {group!r}, and with aggregate 'round-robin' every group chooses; expected one of the two.",
            hint="Leave --group or --aggregate out.",
        )
    if aggregate == "round-robin" and not groups:
        raise SettingsError(
            f"{run.address} has one score column; groups that choose in turn need one each.",
            hint="Score with --group-by COLUMN, or leave --aggregate out.",
        )
    is_usual = aggregate is None and group is None and run.record.by_turns and groups and unit != "shard"
    return aggregate == "round-robin" or is_usual


def steps_of(
    filters: Sequence[FilterChoice], top: Any, budget: Any, decontaminate: bool, *, by_turns: bool, may_be_none: bool
) -> list[Step]:
    """Return the filters given, then those of a size; first that which drops documents that hold the target.

    Raises SettingsError where there is none, unless there `may_be_none`.
    """
    steps = [_step(choice) for choice in filters]
    if top is not None:
        steps.append(Step(find_filter("round_robin" if by_turns else "top"), parse_top(top)))
    if budget is not None:
        steps.append(Step(find_filter("round_robin" if by_turns else "token_budget"), {"tokens": parse_budget(budget)}))
    if not steps and not may_be_none:
        raise SettingsError(
            "No filter was given; expected --top, --budget or --filter.",
            hint="Give --top 5%, --budget 20M or --filter NAME; `curate select --list-filters` shows the filters.",
        )
    if decontaminate and not any(s.filter.name == "decontaminate" for s in steps):
        steps.insert(0, Step(find_filter("decontaminate"), {}, on_documents=True))
    return steps


def _step(choice: Any) -> Step:
    match choice:
        case str() | Path():
            return Step(find_filter(choice), {})
        case [str() | Path() as name, Mapping() as parameters]:
            return Step(find_filter(name), dict(parameters))
    raise SettingsError(
        f"filters holds {choice!r}; expected a name, or a name with its parameters.",
        hint='Give filters=["dedup", ("quota", {"by": "source"})].',
    )
