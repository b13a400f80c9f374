"""Relative influence: EK-FAC's directions, with target rows and documents by norm 1, so that neither outweighs others.

After RelatIF (Barshan et al. 2020, arXiv 2003.11630) and TrackStar (Chang et al. 2024, arXiv 2410.17413), whose scores
these are without a projection: the mean over target rows of ⟨H⁻¹g_row, g_z⟩ / (√⟨g_row, H⁻¹g_row⟩ ‖g_z‖). A plain mean
of rows follows those of steep gradients, and plain scores long documents: the best of them match the target's mixture
less, and a proxy that was trained on them did worse (examples/measured/quality.md). It fits what `ekfac` fits.
"""

from typing import Literal

from curate.methods import ekfac
from curate.methods.ekfac import BACKGROUND, NEEDS, OFFERS, prepare, units
from curate.methods.shared.directional import normalize_option, normalize_rows_option
from curate.settings import settings

__all__ = ["BACKGROUND", "NEEDS", "OFFERS", "Settings", "prepare", "units"]


@settings
class Settings(ekfac.Settings):
    """As for `ekfac`, with norms of 1 unless told otherwise."""

    normalize: Literal["none", "length", "unit"] = normalize_option("unit")
    normalize_rows: Literal["none", "unit"] = normalize_rows_option("unit")
