"""What ranks documents: a column of scores, as it is or per token. In `candidates` it is called `score`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curate.errors import SettingsError, nearest
from curate.schema import group_column
from curate.scores.run import Run
from curate.scores.views import quoted

SCORE, DENSITY = "score", "density"
RANK_BY = (SCORE, DENSITY)
OF_A_BUDGET = SCORE
"""What a budget of tokens ranks by where nothing is given and the run's scores allow it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """What the filters of a selection see as scores."""

    by: str = SCORE
    """'score', or 'density': every score column divided by the document's tokens."""
    group: str | None = None
    """The target group whose column stands as `score`."""

    @property
    def column(self) -> str:
        """The run's column that stands as `score`."""
        return "score" if self.group is None else group_column(self.group)

    @property
    def is_plain(self) -> bool:
        """Whether filters see the run's columns as they are."""
        return self == Ranking()

    def label(self, column: str) -> str:
        """Say what ranks where filters name a column."""
        name = self._source(column)
        return f"{name} per token" if self.by == DENSITY else name

    def of_document(self, column: str) -> str:
        """Return the SQL of a document's value of a score column."""
        name = quoted(self._source(column))
        return name if self.by == SCORE else f"({name}::DOUBLE / nullif(n_tokens, 0))"

    def of_shard(self, column: str, statistic: str) -> str:
        """Return the SQL of the same for a shard: a statistic of its documents; mean and sum by all of its tokens."""
        if self.by == DENSITY and statistic in ("mean", "sum"):
            return f"(sum({quoted(self._source(column))}::DOUBLE) / nullif(sum(n_tokens), 0))"
        value = self.of_document(column)
        if statistic in ("mean", "sum"):
            return f"{statistic}({value}::DOUBLE)"
        return f"max({value})" if statistic == "max" else f"quantile_cont({value}, {int(statistic[1:]) / 100})"

    def _source(self, column: str) -> str:
        return self.column if column == "score" else column


def ranking_of(run: Run, *, by: str | None, group: str | None, is_budget: bool) -> Ranking:
    """Return what ranks a run's documents. Raises SettingsError for a group it lacks, or scores without a density."""
    if by not in (None, *RANK_BY):
        raise SettingsError(f"rank_by is {by!r}; expected score or density.", hint=nearest(str(by), list(RANK_BY)))
    if group is not None:
        _refuse_unknown_group(run, group)
    if by is None:
        by = OF_A_BUDGET if is_budget and is_summed(run) else SCORE
    elif by == DENSITY and not is_summed(run):
        _refuse_density(run)
    return Ranking(by=by, group=group)


def is_summed(run: Run) -> bool:
    """Return whether a run's scores are sums over tokens: its method can divide them, and did not."""
    return run.record.is_rescoring or run.record.method_settings.get("normalize") == "none"


def _refuse_density(run: Run) -> None:
    normalize = run.record.method_settings.get("normalize")
    how = "are no sums over tokens" if normalize is None else f"are divided already (normalize={normalize})"
    hint = "Leave --rank-by out, or score by a method whose scores add up over tokens: ekfac, magic, dot."
    if normalize == "length":
        hint = "Leave --rank-by out: these are scores per token."
    elif normalize is not None:
        hint = "Leave --rank-by out, or score with --normalize none."
    raise SettingsError(f"{run.address}: scores of {run.record.method!r} {how}, so they have no density.", hint=hint)


def _refuse_unknown_group(run: Run, group: str) -> None:
    groups = [c.removeprefix("score_") for c in run.record.details.columns if c != "score"]
    if not groups:
        raise SettingsError(
            f"{run.address} has one score column; --group needs one per group.",
            hint="Leave --group out, or score with --group-by COLUMN.",
        )
    if group_column(group).removeprefix("score_") not in groups:
        raise SettingsError(
            f"{run.address} has no group {group!r}; expected one of {', '.join(groups)}.", hint=nearest(group, groups)
        )


def ranking_column(filters: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return the score column that filters, as a manifest holds them, ranked by.

    That is the column of the last filter with a size (`dedup` has a column, too, but only decides between copies);
    else the only group's column in the SQL of a user's filter; else the column of the last filter that has one.
    """
    ranked = [s for s in filters if s["values"].get("score") in columns]
    sized = [s for s in ranked if any(s["values"].get(size) is not None for size in ("share", "count", "tokens"))]
    if not sized:
        named = {c for s in filters for c in _columns_in(s.get("sql", ""), columns)}
        if len(named) == 1:
            return named.pop()
    candidates = sized or ranked
    return candidates[-1]["values"]["score"] if candidates else "score"


def _columns_in(sql: str, columns: Sequence[str]) -> set[str]:
    """Return the groups' score columns in a query, outside its comments."""
    words = set(re.findall(r"\w+", re.sub(r"--.*", "", sql)))
    return words & {c for c in columns if c != "score"}
