"""What the images themselves tell: coverage, signal, saturation, filtering."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d

from paradia.fft import bounding_box
from paradia.grid import Grid
from paradia.metrics._masks import erode, jumps
from paradia.scan import Scan
from paradia.types import Echoes, Mask

CELL = 12.0
"""Edge of the cells over which phase is averaged, mm: wider than veins and gyri, far below a background field."""

NO_WRAPS = 1e-3
"""Share of neighbours more than π apart up to which wrapped phase counts as free of wraps; what is left is noise."""


def mask_volume(mask: Mask, grid: Grid) -> float:
    """Return the volume of the mask, ml; an adult brain has 1000 to 1700 ml."""
    return int(mask.sum()) * grid.voxel_volume / 1000


def cut(mask: Mask) -> float:
    """Return how much of the mask the edge of the volume cuts off.

    The largest share, over the six faces of the volume, of the mask's widest cross-section that it still has in the
    two outermost slices, one of which interpolation or distortion correction may have emptied.

    Returns
    -------
    float
        0: the mask lies inside the volume. Towards 1: a slab, beyond which there are sources that were not measured.
    """
    worst = 0.0
    for axis in range(3):
        areas = mask.sum(dim=[a for a in range(3) if a != axis])
        if len(areas) > 1:
            worst = max(worst, float(max(areas[:2].max(), areas[-2:].max()) / areas.max().clamp_min(1)))
    return worst


def saturation(magnitude: Echoes) -> float:
    """Return the share of voxels that have exactly the largest magnitude; one voxel in an image is natural, many are clipped."""
    largest = magnitude.nan_to_num(posinf=0.0).amax()
    if largest <= 0:
        return 0.0
    return int((magnitude == largest).sum()) / magnitude.numel()


def snr(magnitude: Echoes, mask: Mask) -> float:
    """Return the signal-to-noise ratio of the first echo: median magnitude in the mask over the noise.

    The noise is told from the finest detail along all axes at once, where anatomy has next to nothing, by its median
    absolute value. Interpolated (zero-filled) images look less noisy than they are.

    Returns
    -------
    float
        Above 30 is good, below 10 little is left for χ.
    """
    axes = [a for a in range(3) if magnitude.shape[a + 1] > 1]
    detail, inside = magnitude[0].nan_to_num(), mask
    for axis in axes:
        detail = detail.diff(dim=axis) / math.sqrt(2)
        n = inside.shape[axis]
        inside = inside.narrow(axis, 0, n - 1) & inside.narrow(axis, 1, n - 1)
    if not inside.any():
        return math.nan
    noise = float(detail[inside].abs().median()) / 0.6745
    return float(magnitude[0][mask].median()) / noise if noise else math.inf


def low_frequencies(phase: Echoes, mask: Mask, grid: Grid) -> float:
    """Return how much of the last echo's phase is smooth: 1 for untouched phase, next to 0 when it was high-pass filtered.

    The share of the phase's variance that lies between cells of 12 mm rather than inside them. Phase with wraps was not
    filtered and counts as 1; so does phase too even to tell.

    Returns
    -------
    float
        Below 0.3 the phase was filtered: the field that χ is made from has been taken away.
    """
    last = phase[-1]
    if float(jumps(last, mask)) > NO_WRAPS:
        return 1.0
    inside = erode(mask, 1)
    inside = inside if inside.any() else mask
    box = bounding_box(inside)
    weight = inside[box].to(last.dtype)
    values = (last[box].nan_to_num() - last[inside].mean()) * weight
    total = float(values.square().sum())
    if total == 0:
        return 1.0
    size = [min(max(round(CELL / d), 1), n) for d, n in zip(grid.voxel_size, weight.shape, strict=True)]
    counts = avg_pool3d(weight[None], size, ceil_mode=True, divisor_override=1)[0]
    sums = avg_pool3d(values[None], size, ceil_mode=True, divisor_override=1)[0]
    return float((sums.square() / counts.clamp_min(1)).sum()) / total


def missing_echoes(scan: Scan) -> int:
    """Return how many echoes seem to be missing: gaps in the echo times that are whole multiples of the usual spacing.

    Sequences with unequal spacing by design have other ratios and count as 0.
    """
    gaps = [b - a for a, b in pairwise(scan.echo_times)]
    if len(gaps) < 2:
        return 0
    usual = sorted(gaps)[(len(gaps) - 1) // 2]
    ratios = [gap / usual for gap in gaps]
    if any(abs(ratio - round(ratio)) > 0.1 or ratio < 0.5 for ratio in ratios):
        return 0
    return sum(round(ratio) - 1 for ratio in ratios)


def residual_wraps(unwrapped: Echoes, mask: Mask) -> Tensor:
    """Return, for each echo, the share of neighbouring voxels in the mask whose unwrapped phase differs by more than π.

    Returns
    -------
    Tensor
        0 is ideal. Up to 0.005 sits in veins and beside sinuses; more means that regions lie 2π apart.
    """
    return torch.stack([jumps(echo, mask) for echo in unwrapped])
