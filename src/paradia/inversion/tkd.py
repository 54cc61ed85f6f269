"""Thresholded k-space division."""

from __future__ import annotations

from paradia.fft import half_mean, irfftn, rfftn
from paradia.grid import Grid
from paradia.inversion._inputs import check_threshold, framed
from paradia.operators.dipole import Dipole
from paradia.sources.inside import within
from paradia.types import Image, Mask

CITE = "10.1002/mrm.22135"

MARGIN = 20.0
"""Distance between the mask and its periodic copies, mm; the field is small that far from its source."""


def tkd(local_field: Image, mask: Mask, grid: Grid, *, threshold: float = 0.15) -> Image:
    r"""Divide by the dipole, held away from zero by a threshold.

    :math:`\hat\chi = \hat f / \tilde D`, with :math:`\tilde D = D` where :math:`|D| > t` and :math:`t\,\mathrm{sign} D` elsewhere.

    Parameters
    ----------
    local_field
        Field of the sources inside the mask, ppm.
    mask
        Voxels where it holds.
    grid
        Voxel size and direction of B0.
    threshold
        :math:`t`, between 0 and 2/3. Lower leaves more streaks, higher damps χ.

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
    The damping is undone on average: the result is divided by the mean of :math:`D/\tilde D` over all frequencies
    (Schweser 2013).

    References
    ----------
    Shmueli K, de Zwart JA, van Gelderen P, Li TQ, Dodd SJ, Duyn JH. Magn Reson Med 2009;62:1510-1522. doi:10.1002/mrm.22135.
    Schweser F, Deistung A, Sommer K, Reichenbach JR. Magn Reson Med 2013;69:1582-1594. doi:10.1002/mrm.24405.
    """
    check_threshold(threshold)
    window = framed(local_field, mask, grid, MARGIN)
    dipole = Dipole(window.grid).to(local_field).kernel
    held = dipole.abs().clamp_min_(threshold).copysign_(dipole)
    inverse = held.reciprocal_()
    inverse[0, 0, 0] = 0.0
    inverse /= half_mean(dipole * inverse, window.grid.shape[-1])
    chi = irfftn(rfftn(window.take(within(local_field, mask))).mul_(inverse), window.grid.shape)
    return window.put(chi.mul_(window.mask))
