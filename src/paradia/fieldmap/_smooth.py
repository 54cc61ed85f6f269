"""A phase that is smooth in space, drawn from noisy values modulo 2π."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, conv3d, interpolate, pad

from paradia.grid import Grid

SAMPLES = 30_000
"""Voxels that the polynomial is fitted to."""

ROUNDS = 6
"""Rounds of reweighting of the polynomial."""


def wrap(phase: Tensor) -> Tensor:
    """Return the phase in [−π, π]."""
    return phase - (2 * math.pi) * (phase / (2 * math.pi)).round()


def smooth_phase(value: Tensor, weight: Tensor, mask: Tensor, grid: Grid, scale: float, degree: int) -> Tensor:
    """Return a polynomial plus a locally smoothed remainder, at the voxels of the mask.

    The remainder is smoothed by a Gaussian twice, the second time what the first left (twicing), so that its curvature is kept.

    Parameters
    ----------
    value
        Phase of the voxels, rad; the polynomial is fitted to it as it is, the remainder is taken modulo 2π.
    weight
        Inverse variance, any unit.
    mask
        The voxels.
    grid
        Voxel sizes.
    scale
        Standard deviation of the Gaussian, mm.
    degree
        Degree of the polynomial.
    """
    smooth = polynomial(value, weight, mask, degree)
    for trust in (2.0, 1.0):  # rad; what is farther off is a failed voxel, not offset
        rest = wrap(value - smooth)
        robust = weight * (1 - (rest / trust).square()).clamp_min(0).square()
        smooth = smooth + _blur(rest, robust, mask, grid, scale)
    return smooth


def polynomial(value: Tensor, weight: Tensor, mask: Tensor, degree: int) -> Tensor:
    """Return a robust weighted polynomial fit at the voxels of the mask."""
    place = mask.nonzero()
    half = torch.tensor([max(n - 1, 1) / 2 for n in mask.shape], device=value.device)
    powers = _powers(tuple(mask.shape), degree)
    some = slice(None, None, max(1, value.numel() // SAMPLES))
    where = (place[some].double() / half - 1).double()
    basis = torch.stack([(where[:, 0] ** a) * (where[:, 1] ** b) * (where[:, 2] ** c) for a, b, c in powers], 1)
    y, w = value[some].double(), weight[some].double()
    w = w / w.mean().clamp_min(torch.finfo(w.dtype).tiny)
    robust = torch.ones_like(w)
    ridge = 1e-9 * torch.eye(len(powers), dtype=torch.float64, device=value.device)
    solution = torch.zeros(len(powers), dtype=torch.float64, device=value.device)
    for _ in range(ROUNDS):
        normal = basis.T @ (basis * (w * robust)[:, None]) / max(1, y.numel())
        solution = torch.linalg.solve(normal + ridge, basis.T @ (w * robust * y) / max(1, y.numel()))
        rest = y - basis @ solution
        spread = (1.4826 * rest.abs().median()).clamp_min(0.02)
        robust = 1 / (1 + (rest / (2 * spread)).square()).square()
    return _evaluate(solution, powers, mask)


def _powers(shape: tuple[int, ...], degree: int) -> list[tuple[int, int, int]]:
    """List the powers that the mask's extent can tell apart."""
    top = [min(degree, n - 1) for n in shape]
    every = ((a, b, c) for a in range(top[0] + 1) for b in range(top[1] + 1) for c in range(top[2] + 1))
    return [p for p in every if sum(p) <= degree]


def _evaluate(solution: Tensor, powers: list[tuple[int, int, int]], mask: Tensor) -> Tensor:
    axes = [
        torch.linspace(-1, 1, n, dtype=torch.float64, device=mask.device) if n > 1 else -torch.ones(1).double().to(mask.device)
        for n in mask.shape
    ]
    top = max(max(p) for p in powers) + 1
    table = torch.zeros(top, top, top, dtype=torch.float64, device=mask.device)
    for p, coefficient in zip(powers, solution, strict=True):
        table[p] = coefficient
    x, y, z = ((axis[:, None] ** torch.arange(top, device=mask.device)).float() for axis in axes)
    volume = torch.einsum("abc,xa,yb->xyc", table.float(), x, y) @ z.T
    return volume[mask]


def _blur(value: Tensor, weight: Tensor, mask: Tensor, grid: Grid, scale: float) -> Tensor:
    """Smooth a phase between −π and π by its phasor, on a coarser grid."""
    shape = tuple(mask.shape)
    step = [max(1, min(n, int(scale / (2 * v)))) for n, v in zip(shape, grid.voxel_size, strict=True)]
    volume = torch.zeros(2, *shape, dtype=value.dtype, device=value.device)
    volume[0][mask] = weight * torch.cos(value)
    volume[1][mask] = weight * torch.sin(value)
    margin = [m for n, s in zip(reversed(shape), reversed(step), strict=True) for m in (0, -n % s)]
    coarse = avg_pool3d(pad(volume, margin)[:, None], step)
    full = [n * s for n, s in zip(coarse.shape[2:], step, strict=True)]
    for axis in range(3):
        coarse = _gauss(coarse, axis, scale / (grid.voxel_size[axis] * step[axis]))
    coarse = coarse / coarse.square().sum(0, keepdim=True).sqrt().clamp_min(torch.finfo(coarse.dtype).tiny)
    if max(step) > 1:
        coarse = interpolate(coarse, size=full, mode="trilinear", align_corners=False)
    fine = coarse[:, 0, : shape[0], : shape[1], : shape[2]][:, mask]
    return torch.atan2(fine[1], fine[0])


def _gauss(volume: Tensor, axis: int, sigma: float) -> Tensor:
    radius = max(1, math.ceil(3.5 * sigma))
    tap = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma).square())
    tap = (tap / tap.sum()).to(volume)
    shape, margin = [1, 1, 1, 1, 1], [0, 0, 0]
    shape[axis + 2], margin[axis] = tap.numel(), radius
    return conv3d(volume, tap.view(shape), padding=margin)
