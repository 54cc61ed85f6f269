"""R2′ without spin echoes: R2* less an R2 that is taken for granted."""

from __future__ import annotations

import math

import torch

from paradia.errors import InputError
from paradia.nets.separated import R2_SPREAD, TYPICAL_R2
from paradia.relaxometry._checks import check_rate
from paradia.scan import Scan
from paradia.sources.doubt import believed_rate
from paradia.types import Mask, R2Prime, Volume

CITE = ""


def r2prime_constant(
    r2star: Volume,
    mask: Mask,
    scan: Scan,
    r2star_noise: Volume | None = None,
    *,
    r2: float | None = None,
    spread: float = R2_SPREAD,
) -> R2Prime:
    r"""Subtract one R2 for all tissue from R2*: what gradient echoes alone allow.

    It is no measurement of R2′: wherever R2 departs from the usual, in iron-rich nuclei, fluid, oedema and lesions, the difference
    is taken for R2′. The standard deviation says so.

    Parameters
    ----------
    r2star
        R2* from gradient echoes, 1/s.
    mask
        Voxels that count.
    scan
        Tells the field strength.
    r2star_noise
        Standard deviation of R2*, 1/s, zero where unknown; where it is not given, one level for all is estimated from neighbouring voxels.
    r2
        The R2 to subtract, 1/s. Without it the usual of brain tissue, 13 1/s at 3 T times the square root of B0/3 T.
    spread
        Share of that R2 by which the R2 of a voxel differs, one standard deviation; at least 0.

    Returns
    -------
    R2Prime
        R2′ and its standard deviation, the spread of R2 included, 1/s, zero outside the mask; the latter is zero as well where that of R2*
        is unknown.

    Raises
    ------
    GeometryError, MaskError, NonFiniteError
        Map and mask on different grids, an empty mask, or a map that is not finite inside it.
    InputError
        A map that can only be in 1/ms or a time in s, or a knob that is no rate or no share.

    Notes
    -----
    Take `r2prime` where there are spin echoes.
    """
    if not ((r2 is None or 0 <= r2 < math.inf) and 0 <= spread < math.inf):
        raise InputError(f"r2 must be a rate in 1/s and spread a share, neither negative, got {r2} and {spread}.")
    check_rate("r2star", r2star, mask)
    if r2star_noise is not None:
        check_rate("r2star_noise", r2star_noise, mask)
    rate = torch.where(mask, r2star, 0.0)
    usual = TYPICAL_R2 * math.sqrt(scan.b0 / 3) if r2 is None else r2
    noise = torch.hypot(believed_rate(rate, mask, r2star_noise), rate.new_tensor(spread * usual))
    return R2Prime((rate - usual).clamp_min(0), torch.where(mask & noise.isfinite(), noise, 0.0))
