"""Weighted straight lines through the unwrapped phases."""

from __future__ import annotations

from paradia.fieldmap._echoes import prepare, wrap
from paradia.fieldmap._finish import finish
from paradia.fieldmap._offset import Offset, remove_offset
from paradia.fieldmap._reliable import check_limit
from paradia.fieldmap._repair import repair
from paradia.grid import Grid
from paradia.scan import Scan
from paradia.types import Echoes, FieldFit, Mask

CITE = "10.1002/mrm.26963"


def linear(
    unwrapped: Echoes,
    magnitude: Echoes,
    mask: Mask,
    grid: Grid,
    scan: Scan,
    *,
    offset: Offset = "smooth",
    smoothing: float = 6.0,
    bipolar: bool | None = None,
    noise_limit: float = 4.0,
) -> FieldFit:
    r"""Fit a straight line through the unwrapped phases, weighted by the squared magnitudes, after removal of a smooth offset.

    The line is :math:`\varphi_n = \varphi_0 + 2\pi\bar\gamma B_0 f\, t_n`.

    Parameters
    ----------
    unwrapped
        Unwrapped phase, rad, shape (echo, x, y, z), congruent to the measured one.
    magnitude
        Magnitude, same shape.
    mask
        Voxels to fit.
    grid
        Its geometry.
    scan
        Echo times and field strength.
    offset
        The phase at echo time zero: ``smooth`` over the head, free in each ``voxel``, or ``none``.
    smoothing
        Width of the local mean that the smooth offset is made of, mm; 3 to 15.
    bipolar
        Whether every other echo was read backwards; told from the data when not given.
    noise_limit
        Multiple of the median noise above which voxels at the edge are left out of the mask; 3 to 10, infinite for none.

    Returns
    -------
    FieldFit
        Total field and its standard deviation, ppm, the offset, rad, and the mask less what the echoes do not tell.

    Raises
    ------
    MetadataError, GeometryError, MaskError
        Echoes, shapes or mask that do not fit.
    NonFiniteError
        NaN or Inf inside the mask.
    InputError
        A knob out of range, no such offset, or no signal in the mask.

    Notes
    -----
    With a smooth offset the fit reaches the Cramér–Rao bound of a known offset, half the deviation of a free one. A single
    echo cannot tell an offset, which then stays in the field.

    References
    ----------
    Eckstein K, Dymerska B, Bachrata B, et al. Magn Reson Med 2018;79:2996, for the smooth offset. DOI 10.1002/mrm.26963.
    """
    check_limit(noise_limit)
    prepared, box = prepare(unwrapped, magnitude, mask, grid, scan)
    prepared, start = remove_offset(prepared, grid, offset, smoothing, bipolar)
    weight, times = prepared.weight, prepared.times
    pace = (weight * times * prepared.phase).sum(0) / (weight * times.square()).sum(0).clamp_min(1e-30)
    pace = repair(prepared, pace)
    left = wrap(prepared.phase - pace * times)
    return finish(prepared, pace, left, wrap(start), mask, box, scan, free_offset=offset == "voxel", noise_limit=noise_limit)
