"""TrackStar: projected gradients, whitened by their second moment, brought to norm 1.

Projection → R^(-1/2) on both sides → concatenation of layers → unit norm → dot product; queries are averaged after each
was normalised (Chang et al. 2024, arXiv 2410.17413). R comes from a background sample of the pool; the paper also mixes
in the target's own second moment (`target_share`), which removes what all its rows share: for selection that is often
the signal, so the default is none.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from curate.curvature.second_moment import (
    Moments,
    SecondMoment,
    Spectra,
    decompose,
    decompose_sample,
    inverse_roots,
    mix,
    mixing_share,
    roots_of,
    spectrum,
)
from curate.errors import CurateError, SettingsError
from curate.gradients.documents import Batching
from curate.gradients.low_rank import Packing
from curate.gradients.roots import Whitening, moved
from curate.gradients.scoring import SketchScorer, SketchTerm, prepare_sketches
from curate.gradients.sketches import Block, SketchEngine
from curate.gradients.slices import OpenSlices, Tensors, Totals
from curate.jobs import Advance
from curate.methods.contract import Inputs, Scorer, Sizes, StoreKind
from curate.methods.shared.sketched import OFFERS as OFFERS
from curate.methods.shared.sketched import (
    BackgroundSketches,
    SketchSettings,
    StoreSketcher,
    TargetSketches,
    bytes_of,
    depends_on,
    kept_background,
    pays,
    queries,
    reduced_background,
    target_sketches,
)
from curate.proxies.proxy import Proxy
from curate.settings import Number, option, settings

NEEDS = frozenset({"model", "background"})
# The paper takes the 1000th of 65 536 eigenvalues; smaller sketches take the same fraction.
PAPER_FRACTION = 1000 / 65536


@settings
class Settings(SketchSettings):
    """TrackStar's settings beside the projection."""

    damping: Annotated[Number, Field(ge=0, allow_inf_nan=False)] = option(
        default=0.1, help="Share of the mean eigenvalue of a layer's R that is added to each of its eigenvalues."
    )
    target_share: Annotated[Number, Field(ge=0, le=1)] | Literal["paper"] = option(
        default=0.0, help="λ in R = λ R_target + (1 - λ) R_pool; 'paper' takes it from the two spectra."
    )

    def __post_init__(self) -> None:
        if self.rank and self.target_share != 0:
            raise SettingsError(
                f"target_share is {self.target_share!r} with rank {self.rank}; expected 0, since R of low-rank"
                " sketches is never formed.",
                hint="Leave target_share out, or use rank 0 and a small dim.",
            )


def prepare(inputs: Inputs, settings: Settings) -> Scorer:
    """Fit R on the background, whiten the target's sketches, and return the scorer."""
    engine = _engine(inputs.proxy, settings)
    target = target_sketches(engine, inputs, settings)
    kept = kept_background(engine, inputs, settings)
    if settings.target_share == 0:
        whitening = whitening_of(engine, inputs, settings, kept)
    else:
        mixed = _mixed(_moments(engine, inputs, settings, kept), engine, target, settings)
        whitening = inverse_roots(mixed, damping=settings.damping)
    prepared = partial(prepare_sketches, blocks=engine.blocks, whitening=whitening, unit=True)
    of_target = queries(engine, inputs, settings, target, prepared)
    term = SketchTerm(engine=engine, queries=of_target, whitening=whitening)
    scorer = SketchScorer(terms=[term], unit=True, rank=settings.rank)
    return scorer if kept is None else kept.scorer(scorer)


def units(inputs: Inputs, settings: Settings, whole: Sizes) -> dict[str, int | float]:
    """Return how many documents of the pool are still to be sketched, and the bytes of the background's sketches."""
    if not pays(whole, inputs, settings):
        return {}
    return {"pool": whole.pool - whole.background, "kept": bytes_of(whole, inputs, settings)}


def whitening_of(
    engine: SketchEngine, inputs: Inputs, settings: Settings, kept: BackgroundSketches | None = None
) -> Whitening:
    """Return R^(-1/2) of the background alone. A store keeps R's eigendecomposition, too: no solve per target."""
    if inputs.stored is None and not settings.rank:
        return inverse_roots(_moments(engine, inputs, settings, kept), damping=settings.damping)
    keys = _depends_on(inputs, settings)
    eigen = inputs.kept.get("curvature/eigen", keys, lambda: _flat(_spectra(engine, inputs, settings, kept)))
    whitening = roots_of(
        {b.name: (eigen[f"{b.name} values"], eigen[f"{b.name} vectors"]) for b in engine.blocks},
        damping=settings.damping,
    )
    return moved(whitening, inputs.proxy.device, engine.dtype)


STORE = StoreKind(
    method="trackstar",
    Settings=SketchSettings,
    sketcher=lambda proxy, _, settings: StoreSketcher(engine=_engine(proxy, settings)),
    whitening=lambda inputs, settings: whitening_of(
        _engine(inputs.proxy, settings), inputs, Settings(**asdict(settings))
    ),
    plain_norms=True,
)


def _engine(proxy: Proxy, settings: SketchSettings) -> SketchEngine:
    return SketchEngine(proxy, dim=settings.dim, seed=settings.seed)


def _depends_on(inputs: Inputs, settings: Settings) -> dict[str, object]:
    rank = {"rank": settings.rank} if settings.rank else {}  # absent at rank 0, as in older runs
    return depends_on(inputs, settings) | {"background": inputs.background_fingerprint} | rank


def _spectra(engine: SketchEngine, inputs: Inputs, settings: Settings, kept: BackgroundSketches | None) -> Spectra:
    """Decompose R: at rank 0 from R itself, else layer by layer from the background's sketches, held packed.

    The result takes documents × entries numbers per layer where documents are fewer (N = 2 048 at dim 64: 33 MB).
    """
    if not settings.rank:
        return decompose(_moments(engine, inputs, settings, kept))
    packing = Packing(engine.blocks, settings.rank)
    packed: list[Tensor] = []
    reduce = partial(_packed, settings.rank)
    reduced_background(engine, inputs, settings, reduce, lambda part: packed.append(part["packed"]), kept)
    sample = torch.cat(packed) if packed else torch.zeros(0, packing.width)
    _refuse_none(len(sample))
    spectra: Spectra = {}
    work = DecompositionWork(blocks=tuple(engine.blocks), rank=settings.rank, dtype=engine.dtype)

    def take(layer: Tensors) -> None:
        spectra[engine.blocks[len(spectra)].name] = (layer["values"], layer["vectors"])

    layers = range(len(engine.blocks))
    with inputs.reporter.stage("second moment", total=len(layers), unit="layers", grows="background") as stage:
        inputs.slice_runner(work, layers, take, stage, {"sample": sample})
    return spectra


@dataclass(frozen=True, kw_only=True)
class DecompositionWork:
    """Decompose R layer by layer: a slice is the number of a layer's block."""

    blocks: tuple[Block, ...]
    rank: int
    dtype: torch.dtype

    def open(self, proxy: Proxy, batching: Batching, state: Tensors) -> OpenSlices:
        """Return what decomposes R of one layer, from a sample of packed sketches."""
        packing = Packing(self.blocks, self.rank)

        def do(layer: int, advance: Advance) -> Tensors:
            values, vectors = decompose_sample(packing.layer(state["sample"], packing.places[layer]), self.dtype)
            advance(1)
            return {"values": values, "vectors": vectors}

        return do


def _packed(rank: int, engine: SketchEngine, parts: Iterator[Tensor]) -> Tensors:
    """Return the packed sketches that are finite."""
    packing = Packing(engine.blocks, rank)
    packed = [packing.pack(values[values.isfinite().all(1)]).cpu() for values in parts]
    return {"packed": torch.cat(packed) if packed else torch.zeros(0, packing.width, dtype=engine.dtype)}


def _refuse_none(documents: int) -> None:
    if not documents:
        raise CurateError("No document of the background sample has a finite gradient.", hint="Use --dtype float32.")


def _moments(engine: SketchEngine, inputs: Inputs, settings: Settings, kept: BackgroundSketches | None) -> Moments:
    keys = _depends_on(inputs, settings)
    moments = inputs.kept.get("curvature/second-moment", keys, lambda: _fit(engine, inputs, settings, kept))
    return {name: moment.to(inputs.proxy.device) for name, moment in moments.items()}


def _fit(engine: SketchEngine, inputs: Inputs, settings: Settings, kept: BackgroundSketches | None) -> Moments:
    totals = Totals()
    reduced_background(engine, inputs, settings, _sums, totals.add, kept)
    documents = int(totals.tensors.pop("documents", 0))
    _refuse_none(documents)
    return {name: (total / documents).to(engine.dtype) for name, total in totals.tensors.items()}


def _sums(engine: SketchEngine, parts: Iterator[Tensor]) -> Tensors:
    """Return Σ s sᵀ per layer, and of how many documents it is."""
    moment = SecondMoment(engine.blocks)
    for values in parts:
        moment.update(values)
    return {"documents": torch.tensor(moment.count), **moment.sums}


def _flat(spectra: Spectra) -> dict[str, Tensor]:
    return {
        f"{n} {part}": t for n, pair in spectra.items() for part, t in zip(("values", "vectors"), pair, strict=True)
    }


def _mixed(pool: Moments, engine: SketchEngine, target: TargetSketches, settings: Settings) -> Moments:
    if settings.target_share == 0:
        return pool
    moment = SecondMoment(engine.blocks)
    moment.update(target.values * target.num_scored[:, None])  # summed losses, as the pool's
    target_moments = moment.mean()
    share = settings.target_share
    if isinstance(share, str):
        share = mixing_share(spectrum(pool), spectrum(target_moments), round(PAPER_FRACTION * engine.width))
    return mix(pool, target_moments, float(share))
