"""Linear methods: average the target's gradients, solve with a curvature once, score along the result.

An inverse curvature is linear, so a group of target documents needs one direction however many they are; and the whole
target's column is a mixture of its groups' (methods of influence on a mean loss, Grosse et al. 2023, §2.2). Refinement
is not linear: there the mixture is of directions refined group by group.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from curate.curvature.contract import Preconditioner
from curate.curvature.groups import fit_in_groups
from curate.errors import CurateError
from curate.gradients.direction_scoring import DirectionScorer
from curate.gradients.directions import DirectionEngine, Directions
from curate.gradients.materialised import weighted_gradients
from curate.gradients.passes import Passes
from curate.methods.contract import EncodedTarget, Inputs
from curate.methods.shared.target import group_columns, group_shares, usable_rows
from curate.proxies.devices import all_finite
from curate.proxies.proxy import Proxy
from curate.proxies.tables import with_tables
from curate.proxies.tokens import Encoded
from curate.settings import Count, Flag, Number, option, settings

OFFERS = frozenset({"against", "per_token"})
NEEDS = frozenset({"model", "background"})
BACKGROUND = 1000
DAMPING = 0.1
_ROWS_AT_ONCE = 8  # whole gradients of target rows that are held together

Damping = Annotated[Number, Field(ge=0, allow_inf_nan=False)]


Solve = Callable[[Directions], Directions]


def normalize_option(default: str) -> Any:
    """Return the option of what scores are divided by."""
    return option(
        default=default,
        help="Divide scores by nothing (influence of the whole document), its tokens, or its gradient's norm.",
    )


def normalize_rows_option(default: str) -> Any:
    """Return the option of how target rows count."""
    return option(
        default=default,
        help="Mean of the target rows' gradients as they are (influence on the mean loss), or of each brought to norm 1"
        " first, so that no row outweighs others.",
    )


def damping_option(shown: str) -> Any:
    """Return the option of a damping whose default, shown so, other settings decide."""
    return option(
        default=None,
        help="Share of a layer's mean eigenvalue that is added to each of its eigenvalues.",
        shown=shown,
    )


@settings
class DirectionSettings:
    """The parameters whose gradients count, and the divisor of scores along a direction."""

    all_parameters: Flag = option(
        default=False, help="Count the gradients of the input embedding and the head, too, beside linear layers'."
    )
    normalize: Literal["none", "length", "unit"] = normalize_option("none")


@settings
class LinearSettings(DirectionSettings):
    """How the target's rows make a direction."""

    normalize_rows: Literal["none", "unit"] = normalize_rows_option("none")


@settings
class CurvatureSettings(LinearSettings):
    """How the curvature is fitted on the background and damped."""

    damping: Damping | None = damping_option("0.1")
    fisher: Literal["sampled", "empirical"] = option(
        default="sampled", help="Curvature of labels that are drawn from the model, or of the data's own."
    )
    seed: Count = option(default=0, help="Seed of the drawn labels.")

    def __post_init__(self) -> None:
        if self.damping is None:
            object.__setattr__(self, "damping", self._default_damping())  # decided here, so that records tell it

    @property
    def decided_damping(self) -> float:
        """The damping, given or not."""
        assert self.damping is not None
        return self.damping

    def _default_damping(self) -> float:
        return DAMPING


def counting(inputs: Inputs, settings: DirectionSettings) -> Inputs:
    """Return inputs whose proxy counts the parameters that the settings say; record the share of them all."""
    if not settings.all_parameters:
        return inputs
    proxy = with_tables(inputs.proxy)
    inputs.record({"coverage": vars(proxy.coverage)})
    return replace(inputs, proxy=proxy)


def fitted(
    inputs: Inputs, name: str, settings: CurvatureSettings, fit: Callable[[Passes], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Return a curvature's tensors, kept from the same background, model and labels or fitted now."""
    keys = inputs.proxy_keys | {"background": inputs.background_fingerprint, "fisher": settings.fisher}
    if settings.fisher == "sampled":
        keys["seed"] = settings.seed

    def make() -> dict[str, Tensor]:
        background = inputs.background()

        def passes(proxy: Proxy) -> Passes:
            return Passes(
                proxy,
                background,
                inputs.batching,
                fisher=settings.fisher,
                seed=settings.seed,
                reporter=inputs.reporter,
                runner=inputs.runner,
            )

        return fit_in_groups(inputs.proxy, passes, fit)

    return inputs.kept.get(f"curvature/{name}", keys, make)


def direction_scorer(
    inputs: Inputs,
    settings: LinearSettings,
    *,
    depends_on: Mapping[str, object],
    solve: Solve | None = None,
    open_metric: Callable[[], Solve] = lambda: _unsolved,
    symmetric: bool = True,
) -> DirectionScorer:
    """Return a scorer along the solved mean gradients of the target's groups, which are kept in the run.

    `depends_on` names all that `solve` depends on beside model, target and control set. `open_metric` loads
    what rows have their norms by, √⟨g, metric(g)⟩, as TrackStar's have (arXiv 2410.17413, §3). `symmetric`: whether
    `solve` is a product with one symmetric matrix, so that a document may stand in the target's place.
    """
    unit_rows = settings.normalize_rows == "unit"

    def make() -> dict[str, Tensor]:
        gradients, rows = _target_gradients(inputs, open_metric if unit_rows else None)
        shares = group_shares(inputs.target, rows)
        return (gradients if solve is None else solve(gradients)) | {"shares": shares}

    keys = inputs.proxy_keys | {
        "target": inputs.target.fingerprint,
        "against": None if inputs.against is None else inputs.against.fingerprint,
        **depends_on,
    }
    if unit_rows:
        keys["rows"] = "unit"
    kept = inputs.kept.get("target/directions", keys, make)
    directions = {n: kept[n] for n in (*inputs.proxy.tracked, *inputs.proxy.tables)}
    if not all_finite(directions.values()):
        raise CurateError(
            "The target's direction is not finite after solving with the curvature.",
            hint="Raise --damping, or use --dtype float32.",
        )
    wide = next(iter(directions.values())).dtype
    return DirectionScorer(
        engines=[DirectionEngine(inputs.proxy, directions)],
        columns=group_columns(kept["shares"].to(wide)),
        normalize=settings.normalize,
        per_token=inputs.per_token,
        solve=(solve or _unsolved) if symmetric else None,
        row_norms=partial(_row_norms, inputs, open_metric) if unit_rows else None,
    )


def _unsolved(gradients: Directions) -> Directions:
    return gradients


def curved(
    inputs: Inputs,
    name: str,
    settings: CurvatureSettings,
    fit: Callable[[Passes], dict[str, Tensor]],
    read: Callable[..., Preconditioner],
) -> DirectionScorer:
    """Return the scorer along a curvature's solutions, fitting the curvature only where the run keeps no directions."""
    inputs = counting(inputs, settings)

    def open_fit() -> Solve:
        return read(fitted(inputs, name, settings, fit), damping=settings.decided_damping).solve

    return direction_scorer(
        inputs,
        settings,
        depends_on=curvature_keys(inputs, name, settings),
        solve=lambda gradients: open_fit()(gradients),  # the fit is in memory no longer than it takes
        open_metric=open_fit,
    )


def curvature_keys(inputs: Inputs, name: str, settings: CurvatureSettings) -> dict[str, object]:
    """Return all that a solve with a fitted curvature depends on beside model and target."""
    return {
        "curvature": name,
        "background": inputs.background_fingerprint,
        "fisher": settings.fisher,
        "seed": settings.seed,
        "damping": settings.damping,
    }


def _target_gradients(inputs: Inputs, open_metric: Callable[[], Solve] | None) -> tuple[Directions, list[int]]:
    """Return each group's mean gradient of the mean loss per token, less the control set's, and the rows used.

    With a metric every row counts by its gradient of norm 1 there.
    """
    gradients, rows = _mean_gradients(inputs, inputs.target, open_metric)
    if inputs.against is not None:
        control, _ = _mean_gradients(inputs, inputs.against.ungrouped(), open_metric)
        gradients = {n: g - control[n] for n, g in gradients.items()}
    return gradients, rows


def _mean_gradients(
    inputs: Inputs, target: EncodedTarget, open_metric: Callable[[], Solve] | None
) -> tuple[Directions, list[int]]:
    if open_metric is not None:
        return _mean_of_unit_rows(inputs, target, open_metric())
    rows = list(range(len(target.encoded)))
    gradients = _weighted(inputs, target, rows)
    if all_finite(gradients.values()):
        return gradients, rows
    finite = [all_finite(_weighted(inputs, target, [i]).values()) for i in rows]
    rows = usable_rows(target, finite, inputs.reporter)
    return _weighted(inputs, target, rows), rows


def _weighted(inputs: Inputs, target: EncodedTarget, rows: list[int]) -> Directions:
    weights = mean_weights(target, rows)
    return weighted_gradients(inputs.proxy, target.encoded, weights, inputs.batching, reporter=inputs.reporter)


def _mean_of_unit_rows(inputs: Inputs, target: EncodedTarget, metric: Solve) -> tuple[Directions, list[int]]:
    """Return each group's mean of its rows' gradients, each divided by its norm by the metric, and the rows used."""
    members = target.by_group(list(range(len(target.encoded))))
    column = {i: q for q, rows in enumerate(members.values()) for i in rows}
    finite = torch.zeros(len(column), dtype=torch.bool)
    sums: Directions = {}
    for positions, gradients, norms in _row_gradients(inputs, metric, target.encoded):
        shares = torch.zeros(len(positions), len(members), dtype=torch.float64)
        shares[range(len(positions)), [column[i] for i in positions]] = 1 / norms
        finite[positions] = usable = norms.isfinite()
        for name, of_rows in gradients.items():
            of_usable, weights = (x[usable.to(x.device)] for x in (of_rows, shares.to(of_rows)))
            of_groups = torch.einsum("rq,roi->qoi", weights, of_usable)
            sums[name] = sums[name].add_(of_groups) if name in sums else of_groups
    rows = usable_rows(target, finite.tolist(), inputs.reporter)
    counts = torch.tensor([len(of_group) for of_group in target.by_group(rows).values()])
    return {name: total / counts.to(total)[:, None, None] for name, total in sums.items()}, rows


def _row_norms(inputs: Inputs, open_metric: Callable[[], Solve], rows: Sequence[Encoded]) -> Float[Tensor, "targets"]:
    """Return every row's norm by the metric, float64; 1 where it is not finite."""
    norms = torch.ones(len(rows), dtype=torch.float64)
    for positions, _, of_rows in _row_gradients(inputs, open_metric(), rows):
        norms[positions] = of_rows
    return norms.where(norms.isfinite(), 1.0)


def _row_gradients(
    inputs: Inputs, metric: Solve, rows: Sequence[Encoded]
) -> Iterator[tuple[list[int], Directions, Float[Tensor, "targets"]]]:
    """Yield a few rows at a time: their positions, the gradients of their mean losses, and √⟨g, metric(g)⟩, float64.

    The norm of a gradient of 0 counts as 1, so that it stays 0. Rows of like length go together: less is padded.
    """
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i].ids), i))
    with inputs.reporter.stage("target", total=len(rows), grows="target") as stage:
        for begin in range(0, len(order), _ROWS_AT_ONCE):
            positions = order[begin : begin + _ROWS_AT_ONCE]
            part = [rows[i] for i in positions]
            weights = torch.diag(torch.tensor([1 / row.num_scored for row in part], dtype=torch.float64))
            gradients = weighted_gradients(inputs.proxy, part, weights, inputs.batching)
            solved = metric(gradients)
            products = [torch.linalg.vecdot(g.flatten(1), solved[n].flatten(1)) for n, g in gradients.items()]
            norms = torch.stack(products).cpu().double().sum(0).clamp_min(0).sqrt()
            yield positions, gradients, norms.where(norms != 0, 1.0)
            stage.advance(len(part))


def mean_weights(target: EncodedTarget, rows: list[int]) -> Float[Tensor, "documents groups"]:
    """Return the weights that make sums of gradients into groups' means of mean losses per scored token."""
    weights = torch.zeros(len(target.encoded), len(target.names), dtype=torch.float64)
    for column, members in enumerate(target.by_group(rows).values()):
        for i in members:
            weights[i, column] = 1 / (len(members) * target.encoded[i].num_scored)
    return weights
