"""What a run's record says of its arithmetic: did the compute type keep the ranking that float32 gives?"""

from curate.folders.record import Details

LEAST = 0.95
"""Spearman correlation with float32's scores under which a ranking is not to be trusted."""


def arithmetic_note(details: Details) -> str | None:
    """Say what the check found; None where there was none, as in float32."""
    found = details.arithmetic
    if found is None or found.failed is not None:
        return None
    listed = ", ".join(f"{column} {_shown(value)}" for column, value in found.spearman.items())
    lost = f"; {found.lost} more had finite scores in {found.reference} alone" if found.lost else ""
    return (
        f"{found.dtype} against {found.reference} on {found.documents} documents of the pool, Spearman"
        f" correlation: {listed}{lost}"
    )


def arithmetic_warning(details: Details) -> str | None:
    """Say why a run's scores are not to be trusted, in words that no one can miss; None where they are."""
    found = details.arithmetic
    if found is None:
        return None
    dtype, reference = found.dtype, found.reference
    if found.failed is not None:
        return (
            f"THE ARITHMETIC COULD NOT BE CHECKED: {found.failed} Whether {dtype} keeps the ranking that {reference}"
            f" gives is not known; --dtype {reference} needs no check."
        )
    kept = all(v is not None and v >= found.least for v in found.spearman.values())
    few = found.documents < 3  # two documents have no ranking to speak of
    if not found.lost if few else kept:
        return None
    return (
        f"THESE SCORES ARE LARGELY ROUNDING ERROR. {arithmetic_note(details)}; expected at least {found.least}."
        f" SCORE AGAIN WITH --dtype {reference} (into another folder, --out)."
    )


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
