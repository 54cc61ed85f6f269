"""A head between simulated loops: what every coil sees of it, with correlated noise."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from paradia.grid import Grid
from paradia.scan import Scan

GRID = Grid((34, 39, 28), (5.2, 4.7, 6.2), (0.2, -0.3, 0.93))
SCAN = Scan((0.0047, 0.0123, 0.0204), 3.0)


@cache
def loops(grid: Grid, coils: int, delay: float = 0.0) -> torch.Tensor:
    """Sensitivities of loops around the volume by the law of Biot and Savart; `delay` turns the phase with distance, rad/m."""
    axes = [(torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * v * 1e-3 for n, v in zip(grid.shape, grid.voxel_size, strict=True)]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    maps = []
    for coil in range(coils):
        angle, height = 2.4 * coil, 0.10 * (2 * (coil + 0.5) / coils - 1)
        out = torch.tensor([math.cos(angle), math.sin(angle), 0.0], dtype=torch.float64)
        side = torch.tensor([-math.sin(angle), math.cos(angle), 0.0], dtype=torch.float64)
        centre = 0.14 * out + torch.tensor([0.0, 0.0, height], dtype=torch.float64)
        up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
        turns = torch.linspace(0, 2 * math.pi, 17, dtype=torch.float64)
        wire = centre + 0.05 * (torch.cos(turns)[:, None] * side + torch.sin(turns)[:, None] * up)
        field = torch.zeros_like(place)
        for start, stop in pairwise(wire):
            away = place - 0.5 * (start + stop)
            field += torch.linalg.cross((stop - start).expand_as(away), away) / away.square().sum(-1, keepdim=True) ** 1.5
        received = torch.complex(field[..., 0], -field[..., 1])
        distance = (place - centre).square().sum(-1).sqrt()
        maps.append(received * torch.polar(torch.ones_like(distance), delay * distance + 0.9 * coil))
    stacked = torch.stack(maps)
    return (stacked / stacked.abs().square().sum(0).sqrt().median()).to(torch.complex64)


def covariance(coils: int, generator: torch.Generator) -> torch.Tensor:
    """Noise of coils that are coupled and not alike; the mean variance of a real part is one."""
    mixing = torch.eye(coils, dtype=torch.complex64) + 0.12 * torch.randn(coils, coils, dtype=torch.complex64, generator=generator)
    gains = torch.linspace(0.6, 1.6, coils)[torch.randperm(coils, generator=generator)]
    root = gains[:, None] * mixing
    sigma = root @ root.mH
    return 2 * sigma / sigma.diagonal().real.mean()


def scanned(coils: int = 12, snr: float = 60.0, scan: Scan = SCAN, seed: int = 0, delay: float = 8.0, bipolar: float = 0.0):
    """Coil images of a head of several tissues with a strong field, and all that they were made of."""
    generator = torch.Generator().manual_seed(seed)
    x, y, z = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in GRID.shape], indexing="ij")
    mask = (x / 0.8).square() + (y / 0.85).square() + (z / 0.9).square() < 1
    spot = torch.exp(-((x - 0.1).square() + (y - 0.5).square() + (z + 0.5).square()) / 0.03)
    field = 0.35 * x * y - 0.25 * z + 0.1 * y + 0.9 * spot + 0.01 * torch.sin(17 * x) * torch.cos(15 * z + 4 * y)
    amplitude = mask * (0.75 + 0.25 * torch.sin(9 * x + 5 * y) * torch.cos(8 * z))
    times = torch.tensor(scan.echo_times)[:, None, None, None]
    ramp = torch.tensor([n % 2 for n in range(len(scan.echo_times))])[:, None, None, None] * bipolar * x
    clean = torch.polar(amplitude * torch.exp(-25 * times), scan.rad_per_ppm(1.0) * field * times + ramp)
    maps = loops(GRID, coils, delay)
    sigma = covariance(coils, generator) if coils > 1 else torch.full((1, 1), 2.0, dtype=torch.complex64)
    root = torch.linalg.cholesky(sigma) / snr
    white = torch.complex(*torch.randn(2, len(scan.echo_times), coils, *GRID.shape, generator=generator)) / math.sqrt(2)
    noise = torch.einsum("cd,edxyz->ecxyz", root, white)
    return SimpleNamespace(
        images=clean[:, None] * maps + noise,
        maps=maps,
        clean=clean,
        field=field,
        mask=mask,
        grid=GRID,
        scan=scan,
        covariance=root @ root.mH,
    )


@pytest.fixture(scope="session")
def head():
    """Twelve coils, three echoes."""
    return scanned()
