"""What the images themselves tell: coverage, signal, saturation, filtering."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d

from paradia.fft import bounding_box
from paradia.grid import Grid
from paradia.metrics._masks import erode, jumps
from paradia.scan import Scan
from paradia.sources.around import mean_around
from paradia.types import Echoes, Mask

CELL = 12.0
"""Edge of the cells over which phase is averaged, mm: wider than veins and gyri, far below a background field."""

QUIET, FEWEST = 0.1, 300
"""Share of the blocks of a mask from which noise is told, and how many they are at least."""

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
        0: the mask lies inside the volume. Towards 1: a slab, or a single slice, beyond which there are sources that were not measured.
    """
    worst = 0.0
    for axis in range(3):
        areas = mask.sum(dim=[a for a in range(3) if a != axis])
        worst = max(worst, float(max(areas[:2].max(), areas[-2:].max()) / areas.max().clamp_min(1)))
    return worst


def saturation(magnitude: Echoes) -> float:
    """Return the share of voxels that have exactly the largest magnitude; one voxel in an image is natural, many are clipped."""
    largest = magnitude.nan_to_num(posinf=0.0).amax()
    if largest <= 0:
        return 0.0
    return int((magnitude == largest).sum()) / magnitude.numel()


def snr(magnitude: Echoes, mask: Mask, scan: Scan | None = None) -> float:
    r"""Return the signal-to-noise ratio of the first echo: median magnitude in the mask over the noise.

    The noise is what an exponential decay leaves of the second echo, :math:`S_2 - S_1^a S_3^{1-a}` with
    :math:`a = (t_3 - t_2) / (t_3 - t_1)`, over the standard deviation that noise of one unit has in it; of two echoes what a locally
    constant ratio leaves, of one the image itself. Of that the finest detail along all axes at once is taken in blocks of two voxels a
    side, in the tenth of them where the other detail, which shares no noise with it, is least: there anatomy has next to nothing.

    Parameters
    ----------
    magnitude
        Magnitude of the echoes, any unit, shape (echo, x, y, z).
    mask
        Where the signal is.
    scan
        Echo times, s; without them the third echo is not used.

    Returns
    -------
    float
        Above 30 is good, below 10 little is left for χ. Infinite without any noise, NaN where the mask has no block of two voxels a side.

    Notes
    -----
    Ringing at sharp edges counts for noise, that of scalp fat all over the head, so that coarse voxels have a lower bound. Interpolated
    (zero-filled) images look less noisy than they are.
    """
    echoes = magnitude[:3].nan_to_num(posinf=0.0)
    inside = mask & (echoes > 0).all(0)
    rest = _left_by_decay(echoes, None if scan is None else scan.echo_times[:3], inside)
    finest, other, whole = _detail(rest, inside)
    if not whole.any():
        return math.nan
    around = mean_around(other * whole, 3) / mean_around(whole.to(other.dtype), 3).clamp_min(1e-6)
    among = around[whole]
    limit = among.kthvalue(max(min(len(among), FEWEST), math.ceil(QUIET * len(among)))).values
    noise = float(finest[whole & (around <= limit)].abs().median()) / 0.6745
    return float(magnitude[0][mask].median()) / noise if noise else math.inf


def _left_by_decay(echoes: Tensor, times: Sequence[float] | None, inside: Mask) -> Tensor:
    """Return what a decay leaves of the second echo, in units in which its noise is that of an echo; a single echo as it is."""
    if len(echoes) == 1:
        return echoes[0]
    first, second = echoes[0].clamp_min(1e-30), echoes[1]
    if len(echoes) == 3 and times is not None:
        share = (times[2] - times[1]) / (times[2] - times[0])
        third = echoes[2].clamp_min(1e-30)
        expected = first**share * third ** (1 - share)
        return torch.where(inside, (second - expected) / _length(share * expected / first, (1 - share) * expected / third), 0.0)
    ratio = mean_around(second * inside, 3) / mean_around(first * inside, 3).clamp_min(1e-30)
    return torch.where(inside, (second - ratio * first) / _length(ratio), 0.0)


def _length(*slopes: Tensor) -> Tensor:
    """Return the standard deviation of an echo less others times their slopes, for noise of one unit in each."""
    return torch.stack([torch.ones_like(slopes[0]), *slopes]).norm(dim=0)


def _detail(image: Tensor, mask: Mask) -> tuple[Tensor, Tensor, Tensor]:
    """Return, in blocks of two voxels a side, the finest detail, the energy along two axes at once, and which blocks are whole."""
    parts, whole = {0: image}, mask
    for axis in range(3):
        if image.shape[axis] < 2:
            continue
        even, odd = slice(0, image.shape[axis] // 2 * 2, 2), slice(1, None, 2)
        at = [(slice(None),) * axis + (part,) for part in (even, odd)]
        whole = whole[at[0]] & whole[at[1]]
        parts = {
            number + step * 2**axis: (part[at[0]] + (1 - 2 * step) * part[at[1]]) / math.sqrt(2)
            for number, part in parts.items()
            for step in (0, 1)
        }
    finest = max(parts)
    fewer = [part.square() for number, part in parts.items() if number.bit_count() == finest.bit_count() - 1]
    return parts[finest], torch.stack(fewer).sum(0), whole


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
