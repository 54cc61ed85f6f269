"""How noisy the phases are, told from the data themselves."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paradia.fieldmap._echoes import Prepared

MEDIAN = {1: 0.45494, 2: 1.38629, 3: 2.36597, 4: 3.35669, 5: 4.35146}
"""Median of χ² by degrees of freedom."""

MISFIT = 8.0
"""Reduced χ² beyond which a voxel does not follow the model and its noise is raised: noise alone goes there once in 50,000."""

ROUNDING = 4.0
"""Relative errors of a number of its precision that a phase gathers before and in a fit."""


def spare(weight: Tensor, parameters: int) -> Tensor:
    """Return how many echoes with a signal each voxel has beyond the numbers that are fitted in it, none if fewer."""
    return ((weight > 0).sum(0) - parameters).clamp_min(0)


def from_residuals(left: Tensor, weight: Tensor, parameters: int, phase: Tensor) -> tuple[Tensor, Tensor]:
    """Estimate the noise of the echoes from what the fit leaves over.

    Parameters
    ----------
    left
        Phase left over (echo, x, y, z), rad.
    weight
        Squared magnitudes, zero in voxels that do not count.
    parameters
        Numbers fitted in each voxel.
    phase
        What was fitted, rad; less than it was rounded by is no noise.

    Returns
    -------
    Tensor
        Standard deviation of the real and imaginary parts, in units of the magnitude; the median over voxels that tell, so that
        flow and vessels do not count.
    Tensor
        Reduced χ² (x, y, z), zero in voxels that tell none.
    """
    free = spare(weight, parameters)
    squares = (weight * left.square()).sum(0)
    medians = weight.new_tensor([math.inf] + [MEDIAN.get(n, n * (1 - 2 / (9 * n)) ** 3) for n in range(1, len(weight) + 1)])
    told = free > 0
    variance = (squares / medians[free])[told].median() if told.any() else weight.new_zeros(())
    rounded = ROUNDING * torch.finfo(weight.dtype).eps * (weight.sqrt() * (phase.abs() + math.pi)).amax()
    variance = variance.clamp_min(rounded.square())
    return variance.sqrt(), torch.where(told, squares / (free * variance).clamp_min(1e-30), 0.0)


def from_differences(phase: Tensor, weight: Tensor) -> Tensor:
    """Estimate the noise of an echo from its finest detail: the mixed difference along all axes, of which anatomy has little.

    Parameters
    ----------
    phase
        As measured (x, y, z), rad: without what a fit took off.
    weight
        Squared magnitude (x, y, z), zero in voxels that do not count.
    """
    signal = torch.polar(weight.sqrt(), phase)
    inside = weight > 0
    for axis in range(3):
        if signal.shape[axis] < 2:
            continue
        signal = signal.diff(dim=axis) / 2**0.5
        n = inside.shape[axis] - 1
        inside = inside.narrow(axis, 0, n) & inside.narrow(axis, 1, n)
    if not inside.any():
        return weight.new_zeros(())
    parts = torch.view_as_real(signal[inside])
    return parts.abs().median() / 0.67449


def field_noise(prepared: Prepared, left: Tensor, offset: Tensor, *, free_offset: bool, per_ppm: float) -> Tensor:
    """Return the standard deviation of the field, ppm, from the Fisher information and the noise of the echoes.

    Parameters
    ----------
    prepared
        What was fitted.
    left
        Phase left over (echo, x, y, z), rad.
    offset
        What was taken off the phases of all echoes before (x, y, z), rad.
    free_offset
        Whether each voxel had an offset of its own.
    per_ppm
        Phase per ppm and second, rad.
    """
    phase, weight, mask, times = prepared
    parameters = 1 + free_offset
    if spare(weight, parameters).any():
        sigma, misfit = from_residuals(left, weight, parameters, phase)
        sigma = sigma * torch.where(misfit > MISFIT, misfit.sqrt(), 1.0)
    else:  # an echo as measured: less the offset of its own voxel it would hold the noise of the field, not that of an echo
        first = int(weight.sum((1, 2, 3)).argmax())
        sigma = from_differences(phase[first] + offset, weight[first])
    information = (weight * times.square()).sum(0)
    if free_offset and left.shape[0] > 1:
        information = information - (weight * times).sum(0).square() / weight.sum(0).clamp_min(1e-20)
    # A voxel without signal knows nothing: its field is anything within a turn.
    unknown = torch.pi / 3**0.5 / times.amin()
    return torch.minimum(sigma / information.clamp_min(1e-30).sqrt(), unknown) / per_ppm * mask
