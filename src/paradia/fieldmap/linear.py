"""Field by a weighted line through the phase of the echoes."""

from __future__ import annotations

from paradia.fieldmap._echoes import Offset, finish, line, prepare, through_origin
from paradia.fieldmap._smooth import wrap
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
    smoothing: float = 5.0,
    bipolar: bool | None = None,
) -> FieldFit:
    r"""Fit the field to the phase of all echoes by weighted least squares.

    Minimises :math:`\sum_n m_n^2 (\varphi_n - \varphi_0 - 2\pi\bar\gamma B_0 f\,TE_n)^2`, where the offset :math:`\varphi_0` is found
    first: the intercept of every voxel's echoes, smoothed in space. With the offset known, all echoes together tell where the spatial
    unwrapping went wrong, and those voxels are chosen anew.

    Parameters
    ----------
    unwrapped
        Unwrapped phase of every echo, rad, congruent to the wrapped one.
    magnitude
        Magnitude of every echo, any unit.
    mask
        Voxels to fit.
    grid
        Voxel sizes.
    scan
        Echo times and field strength.
    offset
        ``smooth`` fits one that is smooth in space, ``voxel`` a free one in every voxel (noisier, and nothing is chosen anew), ``none``
        takes it to be zero. With a single echo it cannot be told from the field and is zero.
    smoothing
        Standard deviation of the Gaussian that smooths the offset, mm.
    bipolar
        Whether readouts alternate in direction, which adds a phase of alternating sign; unset, it is told from the data.

    Returns
    -------
    FieldFit
        Field and its standard deviation, ppm, and the offset, rad; zero outside the mask.

    Raises
    ------
    GeometryError, MetadataError, MaskError, NonFiniteError
        Shapes or the number of echo times do not fit, the mask is empty, or what is inside it is not finite.
    InputError
        A knob that has no such value.

    Notes
    -----
    With equally spaced echoes a field shifted everywhere by a whole turn between echoes fits as well; the one of smallest median is
    taken. The noise is estimated from what the fit leaves, or with too few echoes from differences between neighbours.

    References
    ----------
    Eckstein K, et al. Computationally efficient combination of multi-channel phase data from multi-echo acquisitions (ASPIRE). Magn
    Reson Med 2018;79:2996. https://doi.org/10.1002/mrm.26963
    """
    data = prepare(unwrapped, magnitude, mask, grid, scan, offset, smoothing, bipolar)
    if len(scan.echo_times) == 1:
        return finish(data, data.field, data.phase * 0, mask.shape)
    residual = wrap(data.phase - data.slope[:, None] * data.field)
    if data.free:
        step, shift, _ = line(residual, data.power, data.slope)
        data = data._replace(offset=data.offset + shift, phase=data.phase - shift)
    else:
        step = through_origin(residual, data.power, data.slope)
    field = data.field + step
    return finish(data, field, wrap(data.phase - data.slope[:, None] * field), mask.shape)
