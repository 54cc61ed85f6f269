"""The Laplacian of the field, from wrapped phases."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paradia.fft import Window, irfftn, rfftn
from paradia.grid import Grid
from paradia.operators.laplacian import laplacian_kernel
from paradia.operators.smv import even_spectrum, sphere

BELIEVABLE = 1.0
"""Step of the offset from voxel to voxel, rad, above which it was a wrong turn of the phase."""


def field_laplacian(phase: Tensor, power: Tensor, times: tuple[float, ...], grid: Grid, smoothing: float) -> Tensor:
    r"""Return the Laplacian (7 points) of the phase's rate of change, rad/s/mm², from wrapped phases of all echoes.

    From a voxel to the next the phase of an echo changes by a step that is known but for whole turns. The first echo's is
    less than half a turn; each later one is turned to where the echoes before it point. A line through the steps against
    echo time, weighted by their variance and less an offset that is smooth in space, gives the step of the rate, and the
    sum of the six steps around a voxel is the Laplacian. So echoes add up as in a fit of the unwrapped phases, while no
    error travels further than to the neighbours.

    Parameters
    ----------
    phase
        Wrapped phases (echo, x, y, z) in a periodic window with a margin.
    power
        Squared magnitudes, zero outside the mask.
    times
        Echo times, s.
    grid
        Voxel size.
    smoothing
        Radius of the mean that the offset's steps are made of, mm.
    """
    ball = even_spectrum(sphere(grid.voxel_size, smoothing), grid).to(power) if len(times) > 1 else None
    total = torch.zeros_like(phase[0])
    for axis, size in enumerate(grid.voxel_size):
        step = _rate_step(phase, power, [t / times[-1] for t in times], axis, ball)
        total += (step - step.roll(1, axis)).div_(size**2 * times[-1])
    return total


def _rate_step(phase: Tensor, power: Tensor, times: list[float], axis: int, ball: Tensor | None) -> Tensor:
    """Fit the steps along an axis against time; the sums of the fit are all that is kept of the echoes."""
    s0, s1, s2, p0, p1 = (torch.zeros_like(phase[0]) for _ in range(5))
    for echo, time in enumerate(times):
        step = phase[echo].roll(-1, axis).sub_(phase[echo])
        expected = p1 / s2.clamp_min(1e-30) * time
        step -= ((step - expected) / (2 * math.pi)).round_().mul_(2 * math.pi)
        ahead = power[echo].roll(-1, axis)
        weight = power[echo] * ahead / (power[echo] + ahead).clamp_min(1e-30)
        s0 += weight
        s1.add_(weight, alpha=time)
        s2.add_(weight, alpha=time**2)
        weight *= step
        p0 += weight
        p1.add_(weight, alpha=time)
    if ball is not None:
        determinant = (s0 * s2 - s1.square()).clamp_min(0.0)
        intercept = (s2 * p0 - s1 * p1) / determinant.clamp_min(1e-30)
        certainty = torch.where(intercept.abs() < BELIEVABLE, determinant / s2.clamp_min(1e-30), 0.0)
        p1 -= s1 * _mean(intercept, certainty, ball)
    return p1 / s2.clamp_min(1e-30)


def _mean(image: Tensor, weight: Tensor, ball: Tensor) -> Tensor:
    """Return the weighted mean over the ball around each voxel."""
    above, below = (irfftn(rfftn(part).mul_(ball), image.shape) for part in (image * weight, weight))
    return above / below.clamp_min(1e-6 * float(weight.max()) + 1e-30)


def potential(laplacian: Tensor, known: Tensor, window: Window) -> Tensor:
    """Return a field with a given Laplacian at the known voxels; what would make it differ from another is harmonic there.

    In a periodic window the Laplacian adds up to zero: what is missing is spread over all other voxels.
    """
    source = laplacian * known
    source = torch.where(known, source, -source.sum() / (~known).sum())
    kernel = laplacian_kernel(window.grid).to(laplacian)
    return irfftn(rfftn(source).mul_(torch.where(kernel < 0, 1 / kernel, 0.0)), window.grid.shape)
