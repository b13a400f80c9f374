"""The check of a run's arithmetic: did the compute type keep the ranking that float32 gives?"""

from curate.folders.record import Details

LEAST = 0.95
"""Spearman correlation with float32's scores under which a ranking is not to be trusted."""


def arithmetic_note(details: Details) -> str | None:
    """Return the result of the check in words; None where there was no check, as in float32."""
    check = details.arithmetic
    if check is None or check.failed is not None:
        return None
    listed = ", ".join(f"{column} {_shown(value)}" for column, value in check.spearman.items())
    lost = f"; {check.lost} more had finite scores in {check.reference} alone" if check.lost else ""
    return (
        f"{check.dtype} against {check.reference} on {check.documents} documents of the pool, Spearman"
        f" correlation: {listed}{lost}"
    )


def arithmetic_warning(details: Details) -> str | None:
    """Return a warning that no one can miss where a run's scores are not to be trusted; None where they are."""
    check = details.arithmetic
    if check is None:
        return None
    dtype, reference = check.dtype, check.reference
    if check.failed is not None:
        return (
            f"THE ARITHMETIC COULD NOT BE CHECKED: {check.failed} Whether {dtype} keeps the ranking that {reference}"
            f" gives is not known; --dtype {reference} needs no check."
        )
    is_kept = all(v is not None and v >= check.least for v in check.spearman.values())
    is_tiny = check.documents < 3  # two documents have no ranking to speak of
    if not check.lost if is_tiny else is_kept:
        return None
    return (
        f"THESE SCORES ARE LARGELY ROUNDING ERROR. {arithmetic_note(details)}; expected at least {check.least}."
        f" SCORE AGAIN WITH --dtype {reference} (into another folder, --out)."
    )


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
