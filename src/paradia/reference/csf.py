"""Ventricular cerebrospinal fluid as zero."""

from __future__ import annotations

from paradia.grid import Grid
from paradia.reference._shift import check_shapes, shift
from paradia.sources.fluid import PIECES, R2STAR, RADIUS, ventricles
from paradia.sources.knobs import check_count, check_positive
from paradia.types import Image, Mask, Volume

CITE = "10.1002/mrm.26946"


def csf(
    chi: Image, mask: Mask, grid: Grid, r2star: Volume, *, threshold: float = R2STAR, radius: float = RADIUS, pieces: int = PIECES
) -> Image:
    """Set the mean of χ over the ventricles to zero.

    The ventricles are the largest pieces, near the centre of the brain, in which the signal hardly decays.

    Parameters
    ----------
    chi
        χ, ppm, shape (..., x, y, z).
    mask
        Where it holds.
    grid
        Its geometry.
    r2star
        R2*, 1/s.
    threshold
        R2* below which a voxel is fluid, 1/s; 3 to 8.
    radius
        Distance from the centre of the brain within which to look, mm.
    pieces
        How many connected pieces to keep.

    Returns
    -------
    Image
        χ, ppm, zero outside the mask.

    Raises
    ------
    MaskError
        No fluid was found.
    GeometryError, NonFiniteError
        Images on different grids, or χ that is NaN or Inf inside the mask.
    InputError
        A knob out of range.

    References
    ----------
    Liu Z, Spincemaille P, Yao Y, Zhang Y, Wang Y. Magn Reson Med 2018;79:2795. DOI 10.1002/mrm.26946.
    """
    check_positive(threshold=threshold, radius=radius)
    check_count(pieces=pieces)
    check_shapes(chi, mask=mask, r2star=r2star)
    fluid = ventricles(r2star, mask, grid, threshold=threshold, radius=radius, pieces=pieces)
    return shift(chi, mask, fluid, f"cerebrospinal fluid (R2* below {threshold} 1/s near the centre)")
