"""Truncated k-space division."""

from __future__ import annotations

from paradia.fft import half_mean, irfftn, rfftn
from paradia.grid import Grid
from paradia.inversion._inputs import check_threshold, framed
from paradia.operators.dipole import Dipole
from paradia.sources.inside import within
from paradia.types import Image, Mask

CITE = "10.1002/mrm.22334"

MARGIN = 20.0
"""Distance between the mask and its periodic copies, mm; the field is small that far from its source."""


def tsvd(local_field: Image, mask: Mask, grid: Grid, *, threshold: float = 0.1) -> Image:
    r"""Divide by the dipole where it is strong and leave out what it hardly shows.

    :math:`\hat\chi = \hat f / D` where :math:`|D| > t`, zero elsewhere: the singular values of the dipole are the
    absolute values of its spectrum, and those up to :math:`t` are truncated.

    Parameters
    ----------
    local_field
        Field of the sources inside the mask, ppm.
    mask
        Voxels where it holds.
    grid
        Voxel size and direction of B0.
    threshold
        :math:`t`, between 0 and 2/3. Lower leaves more streaks and noise, higher leaves out more of χ.

    Returns
    -------
    Image
        χ, ppm, zero outside the mask, not referenced.

    Raises
    ------
    InputError
        A knob out of range.
    GeometryError
        Shapes that do not fit the grid.
    MaskError
        The mask is empty.
    NonFiniteError
        The field is NaN or Inf in the mask.

    Notes
    -----
    What is left out is made up for on average: the result is divided by the share of frequencies that are kept.

    References
    ----------
    Wharton S, Schäfer A, Bowtell R. Magn Reson Med 2010;63:1292-1304. doi:10.1002/mrm.22334.
    """
    check_threshold(threshold)
    window = framed(local_field, mask, grid, MARGIN)
    dipole = Dipole(window.grid).to(local_field).kernel
    kept = dipole.abs() > threshold
    inverse = dipole.reciprocal().masked_fill_(~kept, 0.0)
    inverse /= half_mean(kept.to(dipole), window.grid.shape[-1])
    chi = irfftn(rfftn(window.take(within(local_field, mask))).mul_(inverse), window.grid.shape)
    return window.put(chi.mul_(window.mask))
