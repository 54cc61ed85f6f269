"""What relaxation fits share: refusals, what was measured, noise, and how a map is given back."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paradia.errors import GeometryError, InputError, MetadataError, NonFiniteError
from paradia.fft import check_mask
from paradia.scan import Scan
from paradia.sources.around import mean_around
from paradia.sources.doubt import grain, roughness
from paradia.sources.inside import single

CHUNK = 1 << 16
"""Voxels fitted at a time, few enough to stay in the cache."""

SLOWEST = 0.5
"""Median rate over a brain, 1/s, below which no tissue decays at any field strength."""


def check_rate(name: str, image: Tensor, mask: Tensor) -> None:
    """Refuse a map that does not fit, and rates that are none."""
    if image.shape != mask.shape:
        raise GeometryError(
            f"{name} and mask differ in shape: {tuple(image.shape)} and {tuple(mask.shape)}. Bring spin and gradient echoes to one space."
        )
    check_mask(mask)
    inside = image[mask]
    broken = int((~torch.isfinite(inside)).sum())
    if broken:
        raise NonFiniteError(f"{name} is NaN or Inf in {broken} voxels of the mask. Take those voxels out of the mask.")
    if name.endswith("noise"):
        return
    middle = float(inside.median())
    if middle < SLOWEST:
        raise InputError(
            f"{name} has a median of {middle:.3g} over the mask, which is no rate of tissue in 1/s. "
            "Rates in 1/ms are multiplied by 1000; of times in s give the reciprocal."
        )


def check(name: str, magnitude: Tensor, mask: Tensor, scan: Scan, least: int, maximum: float) -> None:
    """Refuse what cannot be fitted."""
    echoes = magnitude.shape[0]
    if magnitude.shape[1:] != mask.shape:
        raise GeometryError(
            f"magnitude and mask differ in shape: {tuple(magnitude.shape[1:])} and {tuple(mask.shape)}. "
            "Give a mask on the grid of the echoes."
        )
    if len(scan.echo_times) != echoes:
        raise MetadataError(f"the scan has {len(scan.echo_times)} echo times and the magnitude {echoes} echoes. Give one time per echo.")
    if echoes < least:
        raise MetadataError(f"{name} needs at least {least} echoes, got {echoes}. Leave relaxometry out, or give more echoes.")
    check_mask(mask)
    broken = int((~torch.isfinite(magnitude) & mask).sum())
    if broken:
        raise NonFiniteError(f"the magnitude is NaN or Inf at {broken} places inside the mask. Take those voxels out of the mask.")
    if not 0 < maximum < math.inf:  # it stands for rates that noise leaves open
        raise InputError(f"maximum must be a positive rate in 1/s, got {maximum}. 200 is usual of R2, 500 of R2*.")


def signals(magnitude: Tensor, mask: Tensor) -> Tensor:
    """Return the echoes of the voxels in the mask (echo, voxel), zero where an echo was not measured.

    They come in a unit, a power of two of the one given, in which the largest is about one, so that squares neither vanish nor overflow,
    and in single precision at least.
    """
    inside = magnitude[:, mask]
    inside = single(inside).clamp_min(0)
    return torch.ldexp(inside, -torch.frexp(inside.max()).exponent)


def ends(signal: Tensor) -> Tensor:
    """Return which echoes of a voxel are the first and the last measured, (2, voxel); one twice where there is no other."""
    there = (signal > 0).int()
    return torch.stack([there.argmax(0), len(there) - 1 - there.flip(0).argmax(0)])


def measured(signal: Tensor, unknowns: int) -> tuple[int, Tensor]:
    """Return what noise is told from: how many echoes more than unknowns the most voxels have, and those voxels' first and last signal.

    Parameters
    ----------
    signal
        Magnitude of the voxels, 0 where an echo was not measured, shape (echo, voxel).
    unknowns
        How many a voxel has.

    Returns
    -------
    int
        Echoes less the unknowns.
    Tensor
        The first and the last magnitude of these voxels, zero in others, shape (2, voxel).
    """
    count = (signal > 0).sum(0)
    most = int(count[count > 0].mode().values) if bool(count.any()) else len(signal)
    return most - unknowns, torch.where(count == most, signal.gather(0, ends(signal)), 0.0)


def noise_level(squares: Tensor, freedom: int, pair: Tensor, mask: Tensor) -> Tensor:
    """Estimate the noise of the magnitude by the median over voxels of what a fit left, or by two echoes where it leaves nothing.

    Voxels without a signal, beyond another scan's field of view, tell of no noise.
    """
    bright = (pair > 0).all(0)
    if not bool(bright.any()):
        return pair.new_zeros(())
    if freedom > 0:
        return (squares[bright].median() / (freedom * (1 - 2 / (9 * freedom)) ** 3)).clamp_min(0).sqrt()
    volumes = pair.new_zeros((2, *mask.shape))
    volumes[:, mask] = pair * bright
    return _apart(volumes[0], volumes[1])


def _apart(first: Tensor, last: Tensor) -> Tensor:
    """Return the noise of two echoes that are in one ratio around every voxel: what both show of anatomy is no noise."""
    there = first > 0
    ratio = mean_around(last, 3) / mean_around(first, 3).clamp_min(torch.finfo(first.dtype).tiny)
    rest = torch.where(there, (last - ratio * first) / (1 + ratio.square()).sqrt(), 0.0)
    level = roughness(rest, there)
    return level if bool(level > 0) else grain(rest, there)  # a slice has no cubes of eight voxels


def give(rate: Tensor, noise: Tensor, mask: Tensor, maximum: float) -> tuple[Tensor, Tensor]:
    """Return maps of a rate and its deviation; a rate that noise leaves open gets the deviation of a guess between zero and the maximum."""
    maps: list[Tensor] = []
    for value, top in ((rate, maximum), (noise, maximum / 12**0.5)):
        full = torch.zeros(mask.shape, dtype=rate.dtype, device=rate.device)
        full[mask] = torch.nan_to_num(value, nan=top, posinf=top).clamp(0, top)
        maps.append(full)
    return maps[0], maps[1]
