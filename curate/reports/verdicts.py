"""Judge the figures in plain words: a finding per question, with its threshold and what to do.

The thresholds are conventions, given with every verdict: they mark what is worth a look, and prove nothing.
"""

from curate.reports import pool_verdicts as pool
from curate.reports import ranking_verdicts as ranking
from curate.reports.figures import Figures, Pair
from curate.reports.finding import FINE, NOTE, WARNING, Finding
from curate.reports.writing import percent, rho

SAME_CHOICE, OTHER_CHOICE = 0.7, 0.2
"""Share of the best 5 % that two runs have in common."""
_JUDGES = (
    pool.unfinished,
    pool.training,
    ranking.arithmetic,
    ranking.smoothness,
    ranking.retrainings,
    ranking.ranks_nothing,
    ranking.variables,
    ranking.mass,
    ranking.sources,
    ranking.groups,
    pool.duplicates,
    pool.contamination,
    pool.coverage,
    pool.left_out,
)


def findings(figures: Figures) -> tuple[Finding, ...]:
    """Judge a run; findings come in the order of a report, whatever their level."""
    return tuple(f for judge in _JUDGES for f in judge(figures))


def judge_pair(pair: Pair) -> Finding:
    """Judge how far two runs choose the same documents."""
    shared = pair.overlap.get("5 %")
    threshold = f"alike from {percent(SAME_CHOICE)} of the best 5 % in common, apart below {percent(OTHER_CHOICE)}"
    if shared is None:
        return Finding(
            about=f"{pair.left} · {pair.right}",
            level=NOTE,
            figure="no document in common",
            says="The runs scored different documents and cannot be compared.",
            do=None,
            threshold=threshold,
        )
    if shared >= SAME_CHOICE:
        level, says, do = FINE, "The two choose largely the same documents.", "Take the cheaper of the two."
    elif shared >= OTHER_CHOICE:
        level, says = NOTE, "The two agree in part on what is best."
        do = "A document that both rank high is the safer choice: `curate sql` joins runs by shard and row."
    else:
        level = WARNING
        says = "The two choose largely different documents, so at least one of them does not find what you look for."
        do = "Read their best documents side by side, and let a short training decide before you rely on either."
    figure = f"{percent(shared)} of the best 5 % (chance: 5 %), ρ = {rho(pair.spearman)}"
    return Finding(
        about=f"{pair.left} · {pair.right}", level=level, figure=figure, says=says, do=do, threshold=threshold
    )
