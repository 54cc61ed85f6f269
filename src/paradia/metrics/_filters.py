"""Separable filters that see the volume mirrored at its edges."""

from __future__ import annotations

import torch
from torch import Tensor


def along(image: Tensor, taps: Tensor, axis: int) -> Tensor:
    """Correlate (x, y, z) with an odd number of taps along one axis; the edge voxel itself is mirrored too."""
    reach = len(taps) // 2
    n = image.shape[axis]
    places = torch.arange(-reach, n + reach, device=image.device) % (2 * n)
    wide = image.index_select(axis, torch.minimum(places, 2 * n - 1 - places))
    result = torch.zeros_like(image)
    for shift, tap in enumerate(taps.tolist()):
        result.add_(wide.narrow(axis, shift, n), alpha=tap)
    return result


def mirrored_mean(image: Tensor, width: int) -> Tensor:
    """Return the mean over the cube of an odd width around every voxel."""
    taps = torch.full((width,), 1 / width, dtype=torch.float64)
    for axis in range(3):
        image = along(image, taps, axis)
    return image


def laplacian_of_gaussian(image: Tensor, sigma: float, reach: int) -> Tensor:
    """Return the Laplacian of the image smoothed by a sampled Gaussian, both in voxels."""
    place = torch.arange(-reach, reach + 1, dtype=torch.float64)
    smooth = torch.exp(-0.5 * (place / sigma).square())
    smooth /= smooth.sum()
    bend = smooth * ((place / sigma).square() - 1) / sigma**2
    one = along(image, smooth, 0)
    bent = along(along(image, bend, 0), smooth, 1).add_(along(one, bend, 1))
    return along(bent, smooth, 2).add_(along(along(one, smooth, 1), bend, 2))


def numbers(image: Tensor, mask: Tensor) -> Tensor:
    """Return an image that is zero where it has no number outside a mask; inside, a NaN is to be seen."""
    return torch.where(mask | image.isfinite(), image, 0.0)


def around(mask: Tensor, reach: int) -> tuple[slice, slice, slice]:
    """Return the box that holds a mask and so many voxels around it, cut off at the edge of the volume."""
    sides = []
    for axis, n in enumerate(mask.shape):
        inside = mask.movedim(axis, 0).flatten(1).any(1).nonzero()
        low, high = int(inside.min()), int(inside.max())
        sides.append(slice(max(low - reach, 0), min(high + 1 + reach, n)))
    x, y, z = sides
    return x, y, z
