"""The mean over a region of the user's as zero."""

from __future__ import annotations

from paradia.reference._shift import shift
from paradia.types import Image, Mask

CITE = ""


def region(chi: Image, mask: Mask, region: Mask) -> Image:
    """Set the mean of χ over a given region to zero.

    Parameters
    ----------
    chi
        χ, ppm, shape (..., x, y, z).
    mask
        Where it holds.
    region
        Voxels of the reference.

    Returns
    -------
    Image
        χ, ppm, zero outside the mask.

    Raises
    ------
    MaskError
        The region is empty inside the mask.
    GeometryError, NonFiniteError
        Images on different grids, or χ that is NaN or Inf inside the mask.
    """
    return shift(chi, mask, region, "reference region")
