"""Field by a fit to the complex signal of the echoes."""

from __future__ import annotations

import warnings

import torch

from paradia.errors import ConvergenceWarning
from paradia.fieldmap._echoes import Offset, Prepared, finish, prepare
from paradia.grid import Grid
from paradia.scan import Scan
from paradia.types import Callback, Echoes, FieldFit, Mask

CITE = "10.1002/mrm.24272"

ACTIVE = 1e-6
"""Step, rad at the last echo, below which a voxel is done."""

FEW = 1e-3
"""Share of the voxels that may still move at the end."""


def nonlinear(
    unwrapped: Echoes,
    magnitude: Echoes,
    mask: Mask,
    grid: Grid,
    scan: Scan,
    *,
    offset: Offset = "smooth",
    smoothing: float = 5.0,
    bipolar: bool | None = None,
    max_iter: int = 20,
    tol: float = 1e-4,
    callback: Callback | None = None,
) -> FieldFit:
    r"""Fit the field to the complex signal of all echoes by damped Gauss-Newton steps.

    Minimises :math:`\sum_n |m_n e^{i\varphi_n} - m_n e^{i(\varphi_0 + 2\pi\bar\gamma B_0 f\,TE_n)}|^2` in every voxel. Whole turns drop
    out of it, and noise that turns the phase of a weak echo by more than a right angle no longer pulls. The offset is found first, as in
    the linear fit, and voxels where the spatial unwrapping went wrong are chosen anew.

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
    max_iter
        Most steps, at least 1.
    tol
        Largest step, rad at the last echo, at which nearly all voxels count as done.
    callback
        Called after every step.

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
    The published method fits a free offset in every voxel, which costs noise; ``offset="voxel"`` does that.

    References
    ----------
    Liu T, et al. Nonlinear formulation of the magnetic field to source relationship for robust quantitative susceptibility mapping. Magn
    Reson Med 2013;69:467. https://doi.org/10.1002/mrm.24272
    """
    data = prepare(unwrapped, magnitude, mask, grid, scan, offset, smoothing, bipolar)
    if len(scan.echo_times) > 1:
        data = _iterate(data, max_iter, tol, callback)
    residual = data.phase - data.slope[:, None] * data.field
    return finish(data, data.field, torch.sin(residual) * (len(scan.echo_times) > 1), mask.shape)


def _iterate(data: Prepared, max_iter: int, tol: float, callback: Callback | None) -> Prepared:
    field, offset, phase = data.field.clone(), data.offset.clone(), data.phase.clone()
    slope = data.slope[:, None]
    active = slice(None)
    change = torch.inf
    for iteration in range(1, max_iter + 1):
        step, shift = _step(phase[:, active], data.power[:, active], slope, field[active], data.free)
        field[active] += step
        if data.free:
            offset[active] += shift
            phase[:, active] -= shift
        turned = (step * slope[-1]).abs() + shift.abs()
        moving = turned > ACTIVE
        change = float((turned > tol).sum()) / field.numel()
        if callback is not None:
            callback(iteration, change)
        active = moving.nonzero().squeeze(1) if isinstance(active, slice) else active[moving]
        if change <= FEW or active.numel() == 0:
            break
    else:
        warnings.warn(
            f"nonlinear stopped after {max_iter} steps with {change:.2%} of the voxels still moving. Raise max_iter.",
            ConvergenceWarning,
            stacklevel=3,
        )
    return data._replace(field=field, offset=offset, phase=phase)


def _step(
    phase: torch.Tensor, power: torch.Tensor, slope: torch.Tensor, field: torch.Tensor, free: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the Gauss-Newton step of the field and of the offset."""
    tiny = torch.finfo(field.dtype).tiny
    pull = power * torch.sin(phase - slope * field)
    information = (power * slope.square()).sum(0).clamp_min(tiny)
    gradient = (pull * slope).sum(0)
    if not free:
        return gradient / information, torch.zeros_like(field)
    total = power.sum(0).clamp_min(tiny)
    centre = (power * slope).sum(0) / total
    spread = (power * (slope - centre).square()).sum(0).clamp_min(tiny)
    mean = pull.sum(0) / total
    step = (pull * (slope - centre)).sum(0) / spread
    return step, mean - step * centre
