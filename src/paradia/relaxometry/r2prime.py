"""R2′: what of the decay of gradient echoes a refocusing pulse would bring back."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from paradia.errors import InputError, ParadiaWarning
from paradia.relaxometry._checks import check_rate
from paradia.sources.doubt import believed_rate
from paradia.types import Mask, R2Prime, Volume

CITE = "10.1016/j.neuroimage.2021.118371"

DOUBTFUL = 0.1
"""Share of voxels that may have a negative R2′ beyond three standard deviations before it is said."""


def r2prime(
    r2star: Volume,
    r2: Volume,
    mask: Mask,
    r2star_noise: Volume | None = None,
    r2_noise: Volume | None = None,
) -> R2Prime:
    r"""Subtract R2 from R2*; what is less than nothing counts as nothing.

    .. math:: R_2' = \max(R_2^* - R_2, 0)

    Parameters
    ----------
    r2star
        R2* from gradient echoes, 1/s.
    r2
        R2 from spin echoes on the same grid, 1/s.
    mask
        Voxels that count.
    r2star_noise
        Standard deviation of R2*, 1/s, zero where unknown; where it is not given, one level for all is estimated from neighbouring voxels.
    r2_noise
        Standard deviation of R2, 1/s; likewise.

    Returns
    -------
    R2Prime
        R2′ and its standard deviation before negative values were set to zero, 1/s, zero outside the mask; the latter is zero as well
        where one of both is unknown.

    Raises
    ------
    GeometryError
        Maps or mask on different grids.
    MaskError, NonFiniteError
        The mask is empty, or a map is not finite inside it.
    InputError
        A map that can only be in 1/ms or a time in s, or R2 above R2* nearly everywhere.

    Warns
    -----
    ParadiaWarning
        R2 exceeds R2* by three standard deviations in more than a tenth of the voxels.

    References
    ----------
    Shin HG, et al. NeuroImage 2021;240:118371. doi:10.1016/j.neuroimage.2021.118371.
    """
    maps = {"r2star": r2star, "r2": r2, "r2star_noise": r2star_noise, "r2_noise": r2_noise}
    for name, image in maps.items():
        if image is not None:
            check_rate(name, image, mask)
    difference = torch.where(mask, r2star - r2, 0.0)
    noise = torch.hypot(believed_rate(r2star, mask, r2star_noise), believed_rate(r2, mask, r2_noise))
    _agree(difference[mask], noise[mask])
    return R2Prime(difference.clamp_min(0), torch.where(mask & noise.isfinite(), noise, 0.0))


def _agree(difference: Tensor, noise: Tensor) -> None:
    """Say when the two rates can hardly be of one head."""
    share = float((difference < -3 * noise).float().mean())
    if share > 0.5:
        raise InputError(
            f"R2 exceeds R2* beyond noise in {100 * share:.0f} % of the mask, which no tissue does. "
            "Check that the maps are not exchanged and that both are rates in 1/s, not times."
        )
    if share > DOUBTFUL:
        warnings.warn(
            f"R2 exceeds R2* by three standard deviations in {100 * share:.0f} % of the mask, where R2′ is set to zero. "
            "Check the alignment of spin and gradient echoes and the refocusing that R2 was fitted with.",
            ParadiaWarning,
            stacklevel=3,
        )
