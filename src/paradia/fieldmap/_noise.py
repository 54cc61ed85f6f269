"""How noisy the phases are, told from the data themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.fieldmap._echoes import Prepared

MEDIAN = {1: 0.45494, 2: 1.38629, 3: 2.36597, 4: 3.35669, 5: 4.35146}
"""Median of χ² by degrees of freedom."""

MISFIT = 8.0
"""Reduced χ² beyond which a voxel does not follow the model and its noise is raised: noise alone goes there once in 50,000."""


def from_residuals(left: Tensor, weight: Tensor, mask: Tensor, parameters: int) -> tuple[Tensor, Tensor]:
    """Estimate the noise of the echoes from what the fit leaves over.

    Parameters
    ----------
    left
        Phase left over (echo, x, y, z), rad.
    weight
        Squared magnitudes.
    mask
        Voxels that were fitted.
    parameters
        Numbers fitted in each voxel.

    Returns
    -------
    Tensor
        Standard deviation of the real and imaginary parts, in units of the magnitude; the median over voxels, so that
        flow and vessels do not count.
    Tensor
        Reduced χ² (x, y, z).
    """
    free = left.shape[0] - parameters
    squares = (weight * left.square()).sum(0)
    variance = squares[mask].median() / MEDIAN.get(free, free * (1 - 2 / (9 * free)) ** 3)
    return variance.sqrt(), squares / (free * variance.clamp_min(1e-30))


def from_differences(phase: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    """Estimate the noise of a single echo from its finest detail: the mixed difference along all axes, of which anatomy has little."""
    signal = torch.polar(weight[0].sqrt(), phase[0])
    inside = mask
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


def field_noise(prepared: Prepared, left: Tensor, *, free_offset: bool, per_ppm: float) -> Tensor:
    """Return the standard deviation of the field, ppm, from the Fisher information and the noise of the echoes.

    Parameters
    ----------
    prepared
        What was fitted.
    left
        Phase left over (echo, x, y, z), rad.
    free_offset
        Whether each voxel had an offset of its own.
    per_ppm
        Phase per ppm and second, rad.
    """
    _, weight, mask, times = prepared
    parameters = 1 + free_offset
    if left.shape[0] > parameters:
        sigma, misfit = from_residuals(left, weight, mask, parameters)
        sigma = sigma * torch.where(misfit > MISFIT, misfit.sqrt(), 1.0)
    else:
        sigma = from_differences(prepared.phase, weight, mask)
    information = (weight * times.square()).sum(0)
    if free_offset and left.shape[0] > 1:
        information = information - (weight * times).sum(0).square() / weight.sum(0).clamp_min(1e-20)
    # A voxel without signal knows nothing: its field is anything within a turn.
    unknown = torch.pi / 3**0.5 / times.amin()
    return torch.minimum(sigma / information.clamp_min(1e-30).sqrt(), unknown) / per_ppm * mask
