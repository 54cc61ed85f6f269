"""What the fits are given, brought to one footing: checked, cropped, and free of whole turns between echoes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from paradia.errors import GeometryError, InputError, MetadataError
from paradia.fft import bounding_box, check_mask
from paradia.grid import Grid
from paradia.scan import Scan
from paradia.sources.inside import check_numbers, within


class Prepared(NamedTuple):
    """Echoes cropped to the mask, ready for a fit."""

    phase: Tensor
    """Unwrapped phase (echo, x, y, z), rad, without whole turns between echoes."""
    weight: Tensor
    """Squared magnitude (echo, x, y, z), zero outside the mask: the inverse variance of the phase for noise of one."""
    mask: Tensor
    """Mask (x, y, z)."""
    times: Tensor
    """Echo times (echo, 1, 1, 1), s."""


def prepare(unwrapped: Tensor, magnitude: Tensor, mask: Tensor, grid: Grid, scan: Scan) -> tuple[Prepared, tuple[slice, slice, slice]]:
    """Check the data, crop them to the mask and align the echoes.

    Raises
    ------
    MetadataError, GeometryError, MaskError
        Echoes, shapes or mask that do not fit.
    NonFiniteError, InputError
        NaN or Inf inside the mask, or no signal there.
    """
    echoes = len(scan.echo_times)
    if unwrapped.shape != magnitude.shape:
        raise GeometryError(
            f"phase {tuple(unwrapped.shape)} and magnitude {tuple(magnitude.shape)} differ in shape. Give images of one scan."
        )
    if unwrapped.shape[0] != echoes:
        raise MetadataError(
            f"there are {unwrapped.shape[0]} echoes and {echoes} echo times {scan.echo_times}. Give one time for each echo."
        )
    if tuple(unwrapped.shape[-3:]) != grid.shape or tuple(mask.shape) != grid.shape:
        raise GeometryError(f"phase {tuple(unwrapped.shape[-3:])}, mask {tuple(mask.shape)} and grid {grid.shape} differ in shape.")
    check_mask(mask)
    check_numbers(mask, phase=unwrapped.sum(0), magnitude=magnitude.sum(0))
    box = bounding_box(mask)
    inside = mask[box]
    times = unwrapped.new_tensor(scan.echo_times)[:, None, None, None]
    magnitude = within(magnitude[(slice(None), *box)], inside).to(unwrapped)
    if not magnitude.any():
        raise InputError("the magnitude is zero in all of the mask. Check that mask and magnitude are of one scan.")
    weight = (magnitude / magnitude.amax().clamp_min(1e-30)).square()
    phase = within(unwrapped[(slice(None), *box)], inside)
    seen = [echo for echo in range(echoes) if bool(weight[echo].any())]
    return Prepared(_aligned(phase, inside, scan.echo_times, seen), weight, inside, times), box


def _aligned(phase: Tensor, mask: Tensor, times: tuple[float, ...], seen: list[int]) -> Tensor:
    """Take whole turns of a whole echo out, so that phase grows evenly with echo time in the middle of the voxels.

    The first two echoes with a signal fix the trend (a shimmed field turns the median voxel by less than half a turn between them),
    which each later one is held against.
    """
    aligned = phase.clone()
    middle = {echo: aligned[echo][mask].median().item() for echo in seen}
    first, before = seen[0], seen[0]
    for echo in seen[1:]:
        if before == first:
            expected = middle[first]
        else:
            pace = (middle[before] - middle[first]) / (times[before] - times[first])
            expected = middle[first] + pace * (times[echo] - times[first])
        turns = round((middle[echo] - expected) / (2 * math.pi))
        aligned[echo] -= 2 * math.pi * turns * mask
        middle[echo] -= 2 * math.pi * turns
        before = echo
    return aligned


def line(prepared: Prepared) -> tuple[Tensor, Tensor, Tensor]:
    """Fit phase against echo time in each voxel.

    Returns
    -------
    Tensor
        Slope, rad/s.
    Tensor
        Intercept, rad.
    Tensor
        Inverse variance of the intercept for noise of one.
    """
    phase, weight, _, times = prepared
    total = weight.sum(0).clamp_min(1e-20)
    mean_time, mean_phase = (weight * times).sum(0) / total, (weight * phase).sum(0) / total
    centred = times - mean_time
    spread = (weight * centred.square()).sum(0).clamp_min(1e-30)
    slope = (weight * centred * phase).sum(0) / spread
    return slope, mean_phase - slope * mean_time, 1 / (1 / total + mean_time.square() / spread)


def wrap(phase: Tensor) -> Tensor:
    """Bring a phase to (−π, π]."""
    return phase - 2 * math.pi * torch.round(phase / (2 * math.pi))
