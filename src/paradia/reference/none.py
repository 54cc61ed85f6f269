"""No reference."""

from __future__ import annotations

from paradia.reference._shift import check_shapes
from paradia.sources.inside import within
from paradia.types import Image, Mask

CITE = ""


def none(chi: Image, mask: Mask) -> Image:
    """Leave χ as the inversion gave it.

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
    GeometryError
        The mask is on another grid than χ.
    """
    check_shapes(chi, mask=mask)
    return within(chi, mask)
