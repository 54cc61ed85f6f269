"""What all fits of a decay share: what they are given, and how sure they are."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.errors import GeometryError, InputError, MaskError, MetadataError
from paradia.scan import Scan
from paradia.types import Decay

LARGEST = 1000.0
"""No tissue decays faster, 1/s."""


def signals(magnitude: Tensor, mask: Tensor, scan: Scan, *, least: int, method: str) -> Tensor:
    """Return the decays inside the mask, one a column (echo, voxel).

    Raises
    ------
    MetadataError, GeometryError, MaskError, InputError
        Echoes, shapes or mask that do not fit, or too few echoes.
    """
    echoes = len(scan.echo_times)
    if magnitude.shape[0] != echoes:
        raise MetadataError(
            f"there are {magnitude.shape[0]} echoes and {echoes} echo times {scan.echo_times}. Give one time for each echo."
        )
    if magnitude.shape[-3:] != mask.shape:
        raise GeometryError(f"the mask has shape {tuple(mask.shape)}, the magnitude {tuple(magnitude.shape[-3:])}. Resample the mask.")
    if echoes < least:
        raise InputError(f"{method} needs at least {least} echoes, got {echoes}. R2* cannot be told from fewer.")
    if not mask.any():
        raise MaskError("the mask is empty: no voxel is inside. Give another mask.")
    return magnitude[:, mask]


def noise_level(signal: Tensor, model: Tensor) -> Tensor:
    """Estimate the standard deviation of the magnitude from what a two-parameter fit leaves over.

    The median over voxels, so that a few that do not decay exponentially do not count. A fit to two echoes leaves nothing, and
    the level is zero.
    """
    free = signal.shape[0] - 2
    if free == 0:
        return signal.new_zeros(())
    left = (signal - model).square().sum(0)
    return (left.median() / _chi_squared_median(free)).sqrt()


def _chi_squared_median(free: int) -> float:
    """Return the median of χ² (Wilson and Hilferty, within 0.5 % from two degrees on; exact for one)."""
    return 0.45494 if free == 1 else free * (1 - 2 / (9 * free)) ** 3


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """Put values of the voxels inside the mask back on the volume."""
    volume = values.new_zeros(mask.shape)
    volume[mask] = values
    return volume


def decay(rate: Tensor, noise: Tensor, mask: Tensor) -> Decay:
    """Make the result of a fit: rates between zero and `LARGEST`, finite everywhere."""
    rate = torch.nan_to_num(rate).clamp(0, LARGEST)
    noise = torch.nan_to_num(noise, nan=LARGEST, posinf=LARGEST).clamp(0, LARGEST)
    return Decay(spread(rate, mask), spread(noise, mask))
