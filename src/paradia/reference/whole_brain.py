"""The mean over the brain as zero."""

from __future__ import annotations

from paradia.reference._shift import shift
from paradia.types import Image, Mask

CITE = "10.1002/mrm.30006"


def whole_brain(chi: Image, mask: Mask) -> Image:
    """Set the mean of χ over the whole mask to zero, as the 2024 consensus recommends.

    Parameters
    ----------
    chi
        χ, ppm, shape (..., x, y, z).
    mask
        Where it holds.

    Returns
    -------
    Image
        χ, ppm, zero outside the mask.

    Raises
    ------
    MaskError
        The mask is empty.
    GeometryError, NonFiniteError
        Images on different grids, or χ that is NaN or Inf inside the mask.
    """
    return shift(chi, mask, mask, "mask")
