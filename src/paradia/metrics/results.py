"""What the maps tell of the run that made them: harmonic rests, consistency, streaks, rims, sign."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from paradia.fft import bounding_box, fast_shape, pad, rfftn
from paradia.grid import Grid
from paradia.metrics._masks import erode
from paradia.operators.dipole import Dipole, dipole_kernel
from paradia.operators.weighting import known_noise
from paradia.sources.inside import within
from paradia.types import Mask, Volume

DEGREE = 8
"""Highest degree of the solid harmonics that stand for a rest of background."""

SAMPLES = 30_000
"""Voxels of the mask that the harmonics are fitted to."""

CONE, AROUND = 0.05, (0.10, 0.25)
"""|D| on the magic-angle cone, and around it."""

SHELLS = 8
"""Shells of equal width in |k| over which cone and surrounding are compared."""


class Consistency(NamedTuple):
    """How well susceptibility explains the local field."""

    relative: float
    """Root mean square of what is left over that of the field: 0 explains all, 1 nothing."""
    rms: float
    """Root mean square of what is left, ppm."""
    noises: float
    """Root mean square of what is left in standard deviations of the field; NaN without them. 1 is down to the noise."""


def harmonic_residue(local_field: Volume, mask: Mask, grid: Grid) -> float:
    """Return how much of the local field is still background.

    The share of its energy in the mask that solid harmonics up to degree eight explain by least squares. A local field has
    sources everywhere and little of that (a true one in a simulated head 0.13, its background 0.63); a background field has
    nothing else. Rests that vary within a few voxels of the edge need higher degrees and stay unseen: look at the picture
    as well.

    Returns
    -------
    float
        Between 0 and 1.
    """
    points = mask.nonzero()
    if len(points) == 0:
        return math.nan
    points = points[:: max(1, len(points) // SAMPLES)]
    values = local_field[tuple(points.T)].double()
    if float(values.square().sum()) == 0:
        return 0.0
    place = points.double() * torch.tensor(grid.voxel_size, dtype=torch.float64, device=points.device)
    place = place - place.mean(0)
    basis = _solid_harmonics(place / place.norm(dim=1).max())
    q, r = torch.linalg.qr(basis)
    strong = r.diagonal().abs() > 1e-9 * r.diagonal().abs().max()  # a thin slab cannot tell all harmonics apart
    return min(1.0, float((q[:, strong].T @ values).square().sum() / values.square().sum()))


def consistency(local_field: Volume, chi: Volume, mask: Mask, grid: Grid, noise: Volume | None = None) -> Consistency:
    """Return what susceptibility leaves unexplained of the local field in the mask.

    Both numbers are blind to the reference of χ: the constant that fits best is added first.

    Parameters
    ----------
    local_field
        Field, ppm.
    chi
        Susceptibility, ppm; what is outside the mask does not count.
    mask
        Voxels where both hold.
    grid
        Where they live.
    noise
        Standard deviation of the field, ppm.
    """
    box = bounding_box(mask)
    inside = mask[box]
    dipole = Dipole(grid.with_shape(inside.shape), padding=1.5).to(chi)
    fields = dipole(torch.stack([within(chi[box], inside), inside.to(chi.dtype)]))
    measured, body = local_field[box][inside].double(), fields[1][inside].double()
    rest = measured - fields[0][inside].double()
    rest = rest - body * (rest.dot(body) / body.dot(body).clamp_min(torch.finfo(torch.float64).tiny))
    rms, field_rms = float(rest.square().mean().sqrt()), float(measured.square().mean().sqrt())
    noises = math.nan
    if noise is not None:
        known = known_noise(noise, mask)[box][inside]
        if known.any():
            noises = float((rest[known] / noise[box][inside][known].double()).square().mean().sqrt())
    return Consistency(rms / field_rms if field_rms else math.nan, rms, noises)


def streaks(chi: Volume, mask: Mask, grid: Grid) -> float:
    """Return how much more energy χ has on the magic-angle cone than around it.

    Ratio of the mean spectral power where |D| < 0.05 to that where 0.1 < |D| < 0.25, compared within shells of |k| between a
    fifth of the highest frequency and all of it, and averaged as a geometric mean.

    Returns
    -------
    float
        Tissue alone gives about 1. Above: noise was blown up into streaks. Well below: the cone was left empty. NaN of too few voxels.
    """
    box = bounding_box(mask)
    image = within(chi[box], mask[box])
    framed = grid.with_shape(fast_shape(image.shape))
    power = rfftn(pad(image, framed.shape)).abs().square().double()
    kernel = dipole_kernel(framed).abs().to(power.device)
    highest = min((0.5 / d for d, n in zip(framed.voxel_size, framed.shape, strict=True) if n > 1), default=math.inf)
    shell = (_wave_numbers(framed).to(power.device) / highest * 1.25 - 0.25) * SHELLS  # shell 0 begins at a fifth of the highest
    logs = []
    on_cone, around = kernel < CONE, (kernel > AROUND[0]) & (kernel < AROUND[1])
    for index in range(SHELLS):
        here = (shell >= index) & (shell < index + 1)
        cone, near = power[here & on_cone], power[here & around]
        if len(cone) > 20 and len(near) > 20 and float(cone.sum()) > 0 and float(near.sum()) > 0:
            logs.append(math.log(float(cone.mean()) / float(near.mean())))
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def rim(chi: Volume, mask: Mask) -> float:
    """Return the mean |χ| within two voxels of the edge of the mask over that inside.

    Returns
    -------
    float
        About 1 without a rim; above 2 the background was not removed at the edge, or the mask holds air or bone.
    """
    inside = erode(mask, 2)
    edge = mask & ~inside
    if not inside.any() or not edge.any():
        return math.nan
    return float(chi[edge].abs().mean()) / max(float(chi[inside].abs().mean()), 1e-30)


def skewness(chi: Volume, mask: Mask) -> float:
    """Return to which side the extremes of χ lie, away from the edge of the mask.

    Distance of the 99.8th percentile above the median minus that of the 0.2nd below it, over their sum. Veins and iron are
    rare and strong, myelin is common and weak, so the right sign gives a positive number.

    Returns
    -------
    float
        Between −1 and 1; clearly below 0 the sign of the phase may be wrong.
    """
    values = chi[_deep(mask)]
    if values.numel() == 0:
        return math.nan
    low, middle, high = _quantile(values, 0.002), _quantile(values, 0.5), _quantile(values, 0.998)
    return (high + low - 2 * middle) / (high - low) if high > low else 0.0


def iron_follows_decay(chi: Volume, r2star: Volume, mask: Mask) -> float:
    """Return whether the most paramagnetic voxels decay faster than the most diamagnetic ones.

    Difference of the median R2* of the highest and the lowest hundredth of χ over their sum, away from the edge of the mask.
    Iron and venous blood decay fast, so the right sign gives a positive number.

    Returns
    -------
    float
        Between −1 and 1; below 0 the sign of the phase may be wrong.
    """
    deep = _deep(mask) & (r2star > 0)
    values, rates = chi[deep], r2star[deep]
    if values.numel() < 1000:
        return math.nan
    above = float(rates[values >= _quantile(values, 0.99)].median())
    below = float(rates[values <= _quantile(values, 0.01)].median())
    return (above - below) / (above + below)


def _deep(mask: Tensor) -> Tensor:
    """Leave off three voxels of edge, where something remains."""
    deep = erode(mask, 3)
    return deep if int(deep.sum()) > 0.1 * int(mask.sum()) else mask


def _quantile(values: Tensor, share: float) -> float:
    """Return an order statistic; unlike torch.quantile it has no limit of size."""
    values = values[:: max(1, values.numel() // 500_000)]
    return float(values.kthvalue(min(max(round(share * values.numel()), 1), values.numel())).values)


def _wave_numbers(grid: Grid) -> Tensor:
    kx, ky, kz = (
        (torch.fft.rfftfreq if axis == 2 else torch.fft.fftfreq)(n, d, dtype=torch.float64)
        for axis, (n, d) in enumerate(zip(grid.shape, grid.voxel_size, strict=True))
    )
    return (kx[:, None, None] ** 2 + ky[None, :, None] ** 2 + kz[None, None, :] ** 2).sqrt()


def _solid_harmonics(place: Tensor) -> Tensor:
    """Evaluate all regular solid harmonics up to the degree at points (n, 3): real and imaginary parts, one a column."""
    x, y, z = place.T
    squared = place.square().sum(1)
    across = torch.complex(x, y)
    columns = []
    sectoral = torch.ones_like(across)
    for order in range(DEGREE + 1):
        before, now = torch.zeros_like(sectoral), sectoral
        for degree in range(order, DEGREE + 1):
            columns += [now.real, now.imag] if order else [now.real]
            step = ((2 * degree + 1) * z * now - (degree + order) * squared * before) / (degree - order + 1)
            before, now = now, step
        sectoral = sectoral * across * (2 * order + 1)
    return torch.stack([c / c.norm().clamp_min(1e-300) for c in columns], dim=1)
