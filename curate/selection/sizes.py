"""What is said of the size of a selection: of shares, of sizes that are no limit, of budgets that are not reached."""

from collections.abc import Mapping
from typing import Any

from curate.amounts import portion_of, portion_text
from curate.progress import Reporter
from curate.selection.funnel import NEARLY_ALL, Funnel


def warn_of_size(size: Mapping[str, Any], funnel: Funnel, top: str, reporter: Reporter) -> None:
    """Say before the work that a size is no limit."""
    for name, option, whole in (("tokens", "--budget", funnel.tokens), ("count", top, funnel.documents)):
        if (wanted := size.get(name)) is not None and wanted > whole:
            what = "tokens" if name == "tokens" else "documents"
            reporter.warn(f"{option} is {wanted:,} {what}; the run has {whole:,}, so that it keeps all that is left.")


def tell_share(size: Mapping[str, Any], funnel: Funnel, option: str, reporter: Reporter) -> None:
    """Say how many documents a share means where it is not of those that the run scored."""
    if (share := size.get("share")) is None or funnel.total == funnel.documents:
        return
    wanted, scored = portion_of(share, funnel.total), f"the {funnel.documents:,} that were scored"
    text = f"{option} {portion_text(share)} is {wanted:,} of the pool's {funnel.total:,} documents"
    if wanted > funnel.documents:
        reporter.warn(f"{text}, more than {scored}: it keeps all that is left.")
    else:
        reporter.note(f"{text}: {wanted / funnel.documents:.1%} of {scored}.")


def shortfall(wanted: int, funnel: Funnel) -> str | None:
    """Say by how much a selection falls short of its budget, and which filter is why; None where the pool is."""
    final, unit = funnel.stages[-1].tokens, f"{funnel.unit}s"
    stage = next((s for s in funnel.stages if s.tokens < wanted), None)
    if stage is None or funnel.tokens < wanted or final >= NEARLY_ALL * wanted:
        return None
    reason = f"after {stage.name!r} no more than {stage.tokens:,} are left"
    if stage.name == "token_budget":
        reason = f"whole {unit} are kept, and the next best one does not fit"
    elif stage.values.get("tokens") is not None and "by" in stage.values:
        reason = (
            f"{stage.name!r} keeps whole {unit} of each {stage.values['by']} up to its share, and the next best one of "
            "each does not fit, or it has no more"
        )
    return f"--budget is {wanted:,} tokens; {final:,} are kept, {1 - final / wanted:.0%} less: {reason}."
