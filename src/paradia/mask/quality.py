"""Voxels whose phase can be trusted."""

from __future__ import annotations

from paradia.grid import Grid
from paradia.mask import _morphology as morphology
from paradia.mask._reliability import bridged, check_knobs, checked, nonempty, otsu, reliability
from paradia.scan import Scan
from paradia.types import Echoes, Mask

CITE = "10.1002/mrm.28563"


def quality(
    phase: Echoes, magnitude: Echoes, grid: Grid, scan: Scan, *, threshold: float = 0.0, opening: float = 2.0, closing: float = 2.0
) -> Mask:
    r"""Keep the largest region in which the phase is coherent.

    The reliability of a voxel is the mean weight of the edges to its six neighbours,
    :math:`w = \prod_j (0.1 + 0.9\, q_j)`, where :math:`q_j` are the coherence of the phase, the coherence of its gradient
    over the first two echoes, and the likeness of the magnitudes.

    Parameters
    ----------
    phase
        Wrapped phase, rad; what is not finite counts as outside.
    magnitude
        Magnitude, any unit. Planes without any signal between others, slices that were lost, are bridged.
    grid
        Geometry.
    scan
        Echo times.
    threshold
        Least reliability of a voxel, 0 to 1; 0 finds the value that best parts tissue from noise.
    opening
        Radius below which bridges and specks are taken away, mm.
    closing
        Radius below which gaps are filled, mm.

    Returns
    -------
    Mask
        Voxels to keep; scalp and muscle are among them.

    Raises
    ------
    MaskError
        Nothing is left, or there is no signal.
    GeometryError
        The data do not belong together.
    InputError
        A knob out of its range.

    References
    ----------
    Dymerska B, et al. Magn Reson Med 2021;85:2294-2308. doi:10.1002/mrm.28563.
    """
    check_knobs(threshold, opening=opening, closing=closing)
    magnitude, phase = bridged(*reversed(checked(phase, magnitude, grid, scan)))
    visible = magnitude[0] > 0
    weight = reliability(phase, magnitude, scan)
    limit = threshold or otsu(weight[visible])
    mask = morphology.largest(morphology.opened((weight > limit) & visible, grid, opening))
    mask = morphology.filled(morphology.closed(mask, grid, closing))
    return nonempty(mask, f"the phase quality mask with threshold {limit:.2f}", "Lower its threshold or opening, or give a mask.")
