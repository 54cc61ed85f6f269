"""Smooth maps from noisy ones: a robust polynomial, and what it leaves over averaged locally."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, conv3d, interpolate, pad

from paradia.grid import Grid

SAMPLES = 30_000
"""Voxels that a polynomial is fitted to; its few coefficients need no more."""


def polynomial(values: Tensor, weight: Tensor, degree: int) -> Tensor:
    """Fit a polynomial of three variables, whatever a minority of voxels says.

    Iteratively re-weighted least squares with Tukey's weights on a regular subset of the voxels.

    Parameters
    ----------
    values
        Map (x, y, z).
    weight
        Inverse variances, zero where there is nothing.
    degree
        Highest total degree.

    Returns
    -------
    Tensor
        The polynomial on every voxel.
    """
    axes = [torch.linspace(-1, 1, n, dtype=torch.float64, device=values.device) for n in values.shape]
    powers = [p for p in itertools.product(range(degree + 1), repeat=3) if sum(p) <= degree]
    chebyshev = [_chebyshev(axis, degree) for axis in axes]
    places = weight.flatten().nonzero()[:, 0]
    places = places[:: max(1, places.numel() // SAMPLES)]
    x, y, z = torch.unravel_index(places, values.shape)
    design = torch.stack([chebyshev[0][i, x] * chebyshev[1][j, y] * chebyshev[2][k, z] for i, j, k in powers], 1)
    target, trust = values.flatten()[places].double(), weight.flatten()[places].double()
    robust = torch.ones_like(target)
    for _ in range(8):
        root = (trust * robust).sqrt()[:, None]
        normal = (root * design).T @ (root * design)
        normal += 1e-9 * normal.diagonal().max() * torch.eye(len(powers), dtype=normal.dtype, device=normal.device)
        coefficients = torch.linalg.solve(normal, (root * design).T @ (root[:, 0] * target))
        left = (target - design @ coefficients).abs()
        scale = 1.4826 * left.median().clamp_min(1e-4)
        robust = (1 - (left / (4 * scale)).square()).clamp_min(0).square()
    cube = values.new_zeros((degree + 1,) * 3, dtype=torch.float64)
    for power, coefficient in zip(powers, coefficients, strict=True):
        cube[power] = coefficient
    return torch.einsum("ijk,ix,jy,kz->xyz", cube.to(values.dtype), *(c.to(values.dtype) for c in chebyshev))


def _chebyshev(axis: Tensor, degree: int) -> Tensor:
    """Chebyshev polynomials, one a row: powers of the same degree would be nearly parallel."""
    rows = [torch.ones_like(axis), axis]
    while len(rows) <= degree:
        rows.append(2 * axis * rows[-1] - rows[-2])
    return torch.stack(rows[: degree + 1])


def local_mean(phasor: Tensor, weight: Tensor, grid: Grid, width: float) -> Tensor:
    r"""Average unit phasors over their neighbourhood.

    A normalised Gaussian :math:`G`, applied twice as :math:`G + G(1 - G)`, which follows slopes and curvature where one
    Gaussian would flatten them.  Done on blocks of voxels, then interpolated: the result is smooth.

    Parameters
    ----------
    phasor
        Complex map (x, y, z).
    weight
        Inverse variances, zero where there is nothing.
    grid
        Geometry of the map.
    width
        Standard deviation of the Gaussian, mm.

    Returns
    -------
    Tensor
        Complex map (x, y, z).
    """
    block = [max(1, min(n, int(width / (2.5 * v)))) for n, v in zip(grid.shape, grid.voxel_size, strict=True)]
    planes = torch.stack([phasor.real, phasor.imag, torch.ones_like(weight)]) * weight
    extra = [(-n) % b for n, b in zip(grid.shape, block, strict=True)]
    planes = pad(planes, (0, extra[2], 0, extra[1], 0, extra[0]))
    coarse = avg_pool3d(planes[:, None], block)[:, 0]
    sums, total = coarse[:2], coarse[2]
    sigma = [width / (v * b) for v, b in zip(grid.voxel_size, block, strict=True)]
    spread = _gauss(total[None], sigma).clamp_min(1e-12)
    mean = _gauss(sums, sigma) / spread
    mean = mean + _gauss(sums - total * mean, sigma) / spread
    size = [n + e for n, e in zip(grid.shape, extra, strict=True)]
    fine = interpolate(mean[None], size=size, mode="trilinear", align_corners=False)[0]
    fine = fine[:, : grid.shape[0], : grid.shape[1], : grid.shape[2]]
    return torch.complex(fine[0], fine[1])


def _gauss(planes: Tensor, sigma: list[float]) -> Tensor:
    """Convolve with a Gaussian, axis by axis."""
    result = planes[:, None]
    for axis, width in enumerate(sigma):
        reach = max(1, round(3 * width))
        taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=planes.device, dtype=planes.dtype) / width).square())
        shape, padding = [1, 1, 1, 1, 1], [0, 0, 0]
        shape[2 + axis], padding[axis] = taps.numel(), reach
        result = conv3d(result, (taps / taps.sum()).reshape(shape), padding=padding)
    return result[:, 0]
