"""Judge the content of a run: its documents, those left out, and the covered part of the proxy."""

from collections.abc import Iterator

from curate.reports.figures import OVERLAP, Figures
from curate.reports.finding import FINE, NOTE, WARNING, Finding
from curate.reports.writing import percent

MANY_COPIES = 0.05
"""Share of documents, or of the best 5 %, that are copies of another."""
MANY_SKIPPED, MANY_CUT = 0.05, 0.25
LITTLE_COVERED = 0.3
HARDLY_LEARNED = 0.9
"""Share of the loss of token frequencies alone from which on a proxy has learned little more than those."""

_WHICH = '`curate sql "SELECT * FROM skipped"` says which and why.'
_TEMPLATE = " Conversations that the model's chat template refuses: `--chat-template shipped` (ChatML) writes most."


def unfinished(f: Figures) -> Iterator[Finding]:
    """Note that a run is not finished."""
    if not f.finished:
        yield Finding(
            about="progress",
            level=WARNING,
            figure=f"{f.documents:,} documents so far",
            says="The run is not finished: every figure here is of the parts that there are, in the pool's order.",
            do="Give the same `curate score` command again; it goes on where it stopped.",
            threshold="a finished run",
        )


def training(f: Figures) -> Iterator[Finding]:
    """Judge whether the proxy has learned more of the pool's text than how often each token comes."""
    if f.loss is None or not f.frequency_loss:
        return
    losses = f"its loss is {f.loss:.2f} per token, and token frequencies alone give {f.frequency_loss:.2f}"
    little = f.loss >= HARDLY_LEARNED * f.frequency_loss
    verb = "has hardly learned" if little else "knows"
    yield Finding(
        about="training of the proxy",
        level=WARNING if little else FINE,
        figure=f"loss {f.loss:.2f}; frequencies alone {f.frequency_loss:.2f}",
        says=f"The proxy {verb} this text: {losses}.",
        do="Warm it up longer (`curate warmup --pool POOL --minutes 30`), or take a proxy trained on such text."
        if little
        else None,
        threshold=f"a warning from {percent(HARDLY_LEARNED)} of the loss of frequencies alone on",
    )


def duplicates(f: Figures) -> Iterator[Finding]:
    """Judge how many documents are copies of another."""
    d = f.duplicates
    top = max(1, round(0.05 * (f.sampled or f.documents)))
    share, in_best = d.copies / f.documents, d.copies_in_best / top
    many = share >= MANY_COPIES or in_best >= MANY_COPIES
    if not d.copies:
        says = "No two documents have the same content."
    else:
        says = (
            f"Documents that repeat another's content: {d.copies:,} (the commonest is there {d.largest:,} times);"
            f" among the best {top:,}: {d.copies_in_best:,}."
        )
    yield Finding(
        about="duplicates",
        level=WARNING if many else FINE,
        figure=f"{d.copies:,} ({percent(share)})",
        says=says,
        do="`--filter dedup` keeps one of each." if d.copies else None,
        threshold=f"a warning from {percent(MANY_COPIES)} of all documents, or of the best 5 %, on",
    )


def contamination(f: Figures) -> Iterator[Finding]:
    """Judge whether the pool holds the target."""
    c = f.contamination
    if not c.overlapping:
        says = "No document holds a target row or half of one."
    else:
        says = (
            f"Documents that hold a whole target row: {c.exact:,}; at least {percent(OVERLAP)} of one's 13-grams:"
            f" {c.overlapping - c.exact:,} more; of all these among the best 1 %: {c.in_best:,}."
        )
    yield Finding(
        about="contamination",
        level=WARNING if c.overlapping else FINE,
        figure=f"{c.overlapping:,}",
        says=says,
        do="`curate select` drops them unless told not to; ask where they come from before you trust the target."
        if c.overlapping
        else None,
        threshold=f"any document that holds a target row, or {percent(OVERLAP)} of one's 13-grams",
    )


def coverage(f: Figures) -> Iterator[Finding]:
    """Judge which part of the proxy the gradients cover."""
    if not f.coverage:
        return
    share, uncovered = f.coverage["tracked"] / f.coverage["total"], f.coverage.get("uncovered") or {}
    level = WARNING if uncovered else NOTE if share < LITTLE_COVERED else FINE
    says = f"Gradients are of {f.coverage['tracked']:,} of {f.coverage['total']:,} parameters ({percent(share)});"
    do = None
    if uncovered:
        names = ", ".join(f"{n} ({c:,})" for n, c in uncovered.items())
        says += f" weight matrices of the decoder that take no part: {names}."
        do = "If those layers matter for the target, take a proxy whose layers are linear modules."
    else:
        says += (
            " the rest (embeddings, norms, head, weights under adapters, what `--modules` leaves out) takes no part."
        )
        if share < LITTLE_COVERED:
            do = "Where it is embeddings, a proxy of a smaller vocabulary has less in them (`curate warmup`)."
    yield Finding(
        about="coverage",
        level=level,
        figure=percent(share),
        says=says,
        do=do,
        threshold=f"a note below {percent(LITTLE_COVERED)}; a warning where weight matrices of the decoder are missed",
    )


def left_out(f: Figures) -> Iterator[Finding]:
    """Judge which rows have no score, and which documents were cut."""
    skipped, cut = sum(f.skipped.values()), f.truncated / f.documents
    rows = f.documents + skipped
    if skipped:
        listed = ", ".join(f"{n:,} {reason}" for reason, n in list(f.skipped.items())[:5])
        if rest := sum(list(f.skipped.values())[5:]):
            listed += f", {rest:,} for other reasons"
        many = skipped / rows >= MANY_SKIPPED
        yield Finding(
            about="rows set aside",
            level=WARNING if many else FINE,
            figure=f"{skipped:,} ({percent(skipped / rows)})",
            says=f"{skipped:,} of {rows:,} rows have no score: {listed}.",
            do=_WHICH + _TEMPLATE * ("chat template" in f.skipped) if many else None,
            threshold=f"a warning from {percent(MANY_SKIPPED)} on",
        )
    if f.truncated:
        yield Finding(
            about="cut documents",
            level=NOTE if cut >= MANY_CUT else FINE,
            figure=percent(cut),
            says=f"{f.truncated:,} documents are longer than the context: their scores are of their beginning.",
            do="`--long windows` reads all of them." if cut >= MANY_CUT else None,
            threshold=f"a note from {percent(MANY_CUT)} on",
        )
