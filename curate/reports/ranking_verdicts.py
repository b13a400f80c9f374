"""Judge a ranking: is it rounding, chaos, length, a few documents, one source?"""

from collections.abc import Iterator, Mapping

from curate.fidelity import LEAST_CORRELATION, MOST_OFF
from curate.reports.figures import VARIABLES, Figures, Scores
from curate.reports.finding import ALARM, FINE, NOTE, WARNING, Finding
from curate.reports.writing import number, percent, rho
from curate.scores.arithmetic import LEAST
from curate.visible import visible

FOLLOWS, IS_NEARLY = 0.5, 0.8
"""|Spearman| from which a ranking follows a variable, and from which it is nearly that variable's ranking."""
TIMES = 2.0
"""Ratio between the medians of the best 5 % and of the run from which it is worth a note."""
HEAVY, OVERWHELMING = 0.2, 0.5
"""Share of Σ|score| in the top 1 % (a normal distribution: 3.6 %)."""
NAMED = 3  # groups in a sentence
ONE_SIDED = 0.8
"""Share of the best 5 % with one value of the column."""
APART = 0.3
"""Spearman of the total with a group's scores below which it has little of that group."""
LEAST_SMOOTHNESS = 0.5
"""As in `curate.training.smoothness`, which needs torch."""


def arithmetic(f: Figures) -> Iterator[Finding]:
    """Report the check of a narrow compute type against float32."""
    threshold = f"Spearman with float32 of at least {LEAST}"
    if f.arithmetic_warning:
        yield Finding(
            about="arithmetic",
            level=ALARM,
            figure="not to be trusted",
            says=f.arithmetic_warning,
            do=None,
            threshold=threshold,
        )
    elif f.arithmetic:
        yield Finding(
            about="arithmetic", level=FINE, figure="checked", says=f"{f.arithmetic}.", do=None, threshold=threshold
        )


def smoothness(f: Figures) -> Iterator[Finding]:
    """Judge whether derivatives through training mean anything (Engstrom et al. 2025, arXiv 2503.13751)."""
    if not f.smoothness:
        return
    rough = min(f.smoothness) < LEAST_SMOOTHNESS
    yield Finding(
        about="smoothness of training",
        level=ALARM if rough else FINE,
        figure=", ".join(f"{s:.2f}" for s in f.smoothness),
        says="The training answers weights erratically: its derivatives mean little."
        if rough
        else "The training answers a little weight steadily, so its derivatives mean something.",
        do="Lower the learning rate, take larger batches, a larger epsilon, or a longer warm-up." if rough else None,
        threshold=f"1 is smooth, below {LEAST_SMOOTHNESS} is not to be trusted",
    )


def retrainings(f: Figures) -> Iterator[Finding]:
    """Judge whether the target's loss changes as in-run scores predict when documents are left out."""
    if f.check is None:
        return
    yield Finding(
        about="check by retraining",
        level={True: FINE, False: WARNING, None: NOTE}[f.check.holds],
        figure=f.check.figure,
        says=visible(" ".join(filter(None, (f.check.sentence, f.check.listing)))),
        do=f.check.advice,
        threshold=f"slope from {1 / MOST_OFF} to {MOST_OFF}, correlation of at least {LEAST_CORRELATION}"
        if f.check.in_nats
        else f"correlation of at least {LEAST_CORRELATION}, and more than 0 by its 95 % interval",
    )


def ranks_nothing(f: Figures) -> Iterator[Finding]:
    """Name score columns in which all documents are equal."""
    for s in f.scores:
        if s.quantiles["q00"] == s.quantiles["q100"]:
            yield Finding(
                about=_of("distribution", s),
                level=ALARM,
                figure="all scores are equal",
                says="This column ranks nothing; choosing by it is choosing by the order of documents.",
                do="Look at the target: is it in a language and form that the proxy reads?",
                threshold="at least two different scores",
            )


def variables(f: Figures) -> Iterator[Finding]:
    """Judge whether the ranking, or its ends, follow length, loss or gradient norm."""
    for variable, name in VARIABLES.items():
        if variable not in f.bands or f.method == name:  # the baselines `length` and `loss` rank by nothing else
            continue
        score, size = f.scores[0].spearman.get(variable), f.scores[0].spearman_of_size.get(variable)
        level, says = _follows(f, variable, score, size)
        yield Finding(
            about=name,
            level=level,
            figure=f"ρ = {rho(score)} with the score, {rho(size)} with |score|",
            says=says,
            do=None if level == FINE else _advice(f, variable),
            threshold=f"|ρ| from {FOLLOWS} on is a warning, from {IS_NEARLY} on the ranking is nearly that of {name};"
            f" a note where the medians of the best 5 % and of the run differ by {TIMES:.0f} times",
        )


def _follows(f: Figures, variable: str, score: float | None, size: float | None) -> tuple[str, str]:
    """Return the level and the sentence."""
    name = VARIABLES[variable]
    words = {"n_tokens": ("long", "short"), "loss": ("badly predicted", "well predicted")}
    high, low = words.get(variable, ("steep", "flat"))
    if score is None and size is None:
        return FINE, f"Scores or {name} do not vary."
    if score is not None and abs(score) >= FOLLOWS:
        nearly = " nearly" if abs(score) >= IS_NEARLY else ""
        leading = high if score > 0 else low
        return WARNING, f"Scores{nearly} follow {name} (ρ = {rho(score)}): {leading} documents come first."
    if size is not None and abs(size) >= FOLLOWS:
        verb, ends = ("follows", high) if size > 0 else ("falls with", low)
        return WARNING, f"|score| {verb} {name} (ρ = {rho(size)}): both ends of the ranking are {ends} documents."
    of_all, of_best = f.typical[variable].median, f.typical[variable].median_of_best
    if of_all and of_best and not 1 / TIMES < of_best / of_all < TIMES:
        seen = f"median {name} {number(of_best)} against {number(of_all)} of the run"
        return NOTE, f"The best 5 % are {high if of_best > of_all else low} documents: {seen}."
    return FINE, f"The ranking is not one of {name}."


def _advice(f: Figures, variable: str) -> str:
    if variable == "loss":
        return "Compare with `--method loss`, which costs a forward pass: is anything gained over it?"
    normalize = f.method_settings.get("normalize")
    if normalize is not None and variable == "n_tokens" and normalize == "none":
        return "Consider `--normalize length` (per token) or `unit` (per gradient norm)."
    if normalize is not None and variable == "grad_norm" and normalize != "unit":
        return "Consider `--normalize unit`, which divides by the gradient's norm."
    if variable == "n_tokens":
        return (
            "Bound the lengths when you select (`--filter min_tokens -p tokens=…`, `max_tokens`), choose by"
            " `--budget` of tokens instead of documents, and compare with `--method length`."
        )
    if f.method in ("cosine", "trackstar") or normalize == "unit":
        return "Gradients are normalised already: read the best documents, and compare with `--method loss`."
    return "Compare with a method that normalises: `cosine`, `trackstar`, or `--normalize unit`."


def mass(f: Figures) -> Iterator[Finding]:
    """Judge whether a few outliers dominate every sum of scores."""
    held = {s.label: s.mass or 0.0 for s in f.scores}
    total, most = f.scores[0].mass or 0.0, max(held.values())
    level = ALARM if most >= OVERWHELMING else WARNING if most >= HEAVY else FINE
    heavy = _heaviest({label: m for label, m in list(held.items())[1:] if m >= HEAVY})
    if level == FINE:
        says, do = "No handful of documents outweighs the rest.", None
    else:
        whose = f" of a group ({heavy})" if total < HEAVY else ""
        says = f"A few documents outweigh the rest: means and sums{whose} by source or shard are theirs."
        do = "Read them below; compare sources by medians, and choose by rank."
        says += f" Groups: {heavy}." if heavy and not whose else ""
    yield Finding(
        about="mass of the top 1 %",
        level=level,
        figure=percent(total),
        says=says,
        do=do,
        threshold=f"share of Σ|score|: a warning from {percent(HEAVY)}, alarming from {percent(OVERWHELMING)};"
        " a normal distribution has 3.6 %",
    )


def _heaviest(held: Mapping[str, float]) -> str:
    """Name the groups that hold most, and count the others: a target may have hundreds."""
    named = sorted(held.items(), key=lambda g: -g[1])
    shown = [f"{label} {percent(m)}" for label, m in named[:NAMED]]
    return ", ".join(shown) + (f" and {len(named) - NAMED:,} more" if len(named) > NAMED else "")


def sources(f: Figures) -> Iterator[Finding]:
    """Judge whether one source has nearly all of the best 5 %."""
    if not f.sources or (len(f.sources) == 1 and not f.other_sources):
        return
    s = max(f.sources, key=lambda s: s.share_of_best["score"])
    best = s.share_of_best["score"]
    one_sided = best >= ONE_SIDED and s.share < ONE_SIDED
    value = "(none)" if s.value is None else visible(s.value[:60])
    times = f", {s.enrichment:.1f} × its share of the run" if s.enrichment is not None else ""
    yield Finding(
        about=f.by,
        level=NOTE if one_sided else FINE,
        figure=f"{percent(best)} {value}",
        says=f"{percent(best)} of the best 5 % have {f.by} {value}{times}."
        + (" A selection would be little else." if one_sided else ""),
        do=f"If the target is not that alone: `--filter quota -p by={f.by}` keeps a share of the others."
        if one_sided
        else None,
        threshold=f"a note where one value has {percent(ONE_SIDED)} of the best 5 % or more",
    )


def groups(f: Figures) -> Iterator[Finding]:
    """Judge whether one target group owns the total."""
    groups = [(s, f.between_groups[0][i]) for i, s in enumerate(f.scores) if i and s.column != "score_adjoint"]
    correlations = [(visible(s.label), r) for s, r in groups if r is not None]
    if len(correlations) < 2:
        return
    nearest, last = max(correlations, key=lambda g: g[1]), min(correlations, key=lambda g: g[1])
    owned = last[1] < APART
    yield Finding(
        about="groups",
        level=NOTE if owned else FINE,
        figure=f"ρ of the total: {nearest[0]} {rho(nearest[1])} … {last[0]} {rho(last[1])}",
        says=f"The total's ranking has little of {last[0]}'s (ρ = {rho(last[1])}); {nearest[0]}'s is nearest to it"
        f" (ρ = {rho(nearest[1])})."
        if owned
        else "The total says something of every group.",
        do="`--filter round_robin` lets every group choose in turn." if owned else None,
        threshold=f"a note where the total's ρ with a group is below {APART}",
    )


def _of(what: str, scores: Scores) -> str:
    return what if scores.column == "score" else f"{what}: {scores.label}"
