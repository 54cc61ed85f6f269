"""Nonlinear fit to the complex echoes."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.fieldmap._echoes import Prepared, prepare, wrap
from paradia.fieldmap._finish import finish
from paradia.fieldmap._offset import Offset, remove_offset
from paradia.fieldmap._reliable import check_limit
from paradia.fieldmap._repair import repair
from paradia.grid import Grid
from paradia.scan import Scan
from paradia.sources.knobs import check_count
from paradia.types import Echoes, FieldFit, Mask

CITE = "10.1002/mrm.24272"


def nonlinear(
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
    max_iter: int = 6,
) -> FieldFit:
    r"""Fit the complex echoes, each weighted by its squared magnitude, after removal of a smooth phase offset.

    Minimises :math:`\sum_n |S_n|^2\,|e^{i\varphi_n} - e^{i(\varphi_0 + 2\pi\bar\gamma B_0 f t_n)}|^2` by Gauss–Newton steps.
    On complex numbers whole turns do not exist: an echo that noise has thrown around the circle pulls the line no further
    than one that points away, and what the unwrapping got wrong between echoes is mended.

    Parameters
    ----------
    unwrapped
        Unwrapped phase, rad, shape (echo, x, y, z), congruent to the measured one; the start of the fit.
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
    max_iter
        Gauss–Newton steps.

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
    A single echo cannot tell an offset, which then stays in the field.

    References
    ----------
    Liu T, Wisnieff C, Lou M, et al. Magn Reson Med 2013;69:467. DOI 10.1002/mrm.24272.
    """
    check_limit(noise_limit)
    check_count(max_iter=max_iter)
    prepared, box = prepare(unwrapped, magnitude, mask, grid, scan)
    prepared, start = remove_offset(prepared, grid, offset, smoothing, bipolar)
    weight, times = prepared.weight, prepared.times
    information = (weight * times.square()).sum(0).clamp_min(1e-30)
    pace = repair(prepared, (weight * times * prepared.phase).sum(0) / information)
    pace = _descend(prepared, pace, information, max_iter)
    left = wrap(prepared.phase - pace * times)
    return finish(prepared, pace, left, wrap(start), mask, box, scan, free_offset=offset == "voxel", noise_limit=noise_limit)


def _descend(prepared: Prepared, pace: Tensor, information: Tensor, max_iter: int) -> Tensor:
    """Gauss–Newton on the circle; the linear fit's curvature bounds the true one, so no step overshoots."""
    phase, weight, mask, times = prepared
    if phase.shape[0] < 2:
        return pace
    for _ in range(max_iter):
        step = (weight * times * torch.sin(phase - pace * times)).sum(0) / information
        pace = pace + step
        if (step[mask].abs() * times.amax()).amax() < 1e-4:
            break
    return pace
