"""Smoothness on a grid: random fields of one length, and blurring."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def random(
    shape: Sequence[int],
    voxel_size: Sequence[float],
    length: float,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw a random field of mean 0 and standard deviation 1 that varies over a length in mm."""
    bases = []
    for n, size in zip(shape, voxel_size, strict=True):
        place = torch.arange(n) * (size / length)
        knots = torch.arange(-2.0, math.ceil(float(place[-1])) + 3.0) + torch.rand((), generator=generator)
        weights = torch.exp(-0.5 * ((place[:, None] - knots) / 0.6).square())
        bases.append((weights / weights.norm(dim=1, keepdim=True)).to(device))
    values = torch.randn([basis.shape[1] for basis in bases], generator=generator).to(device)
    for basis in bases:  # contracts the first axis and appends the new one: after three turns the order is x, y, z
        values = torch.tensordot(values, basis, dims=([0], [1]))
    return values


def blurred(image: Tensor, voxel_size: Sequence[float], width: float) -> Tensor:
    """Blur a volume with a Gaussian of a standard deviation in mm, its faces going on beyond them."""
    for axis, size in enumerate(voxel_size):
        n = image.shape[axis]
        place = torch.arange(n, dtype=torch.float32, device=image.device) * size
        reach = math.ceil(2.5 * width / size)
        if n == 1 or reach == 0:
            continue
        taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=image.device) * (size / width)).square())
        index = torch.arange(n, device=image.device)
        band = torch.zeros((n, n), device=image.device)  # a matrix is faster than a convolution for so few voxels along an axis
        for offset, tap in zip(range(-reach, reach + 1), (taps / taps.sum()).tolist(), strict=True):
            band.index_put_((index, (index + offset).clamp(0, n - 1)), torch.full_like(place, tap), accumulate=True)
        image = torch.tensordot(image, band, dims=([axis], [1])).movedim(-1, axis)
    return image.contiguous()


def standard(field: Tensor, mask: Tensor) -> Tensor:
    """Take off the mean over a mask and scale to a root mean square of one, where there is any spread in it."""
    inside = field[mask]
    spread = inside.std(correction=0)
    return (field - inside.mean()) / torch.where(spread > 1e-12, spread, 1.0)


def displaced(image: Tensor, millimetres: Sequence[float], voxel_size: Sequence[float]) -> Tensor:
    """Move real volumes by linear interpolation; what comes in from outside is the face's.

    Parameters
    ----------
    image
        Any leading axes, then x, y, z.
    millimetres
        How far along each axis.
    voxel_size
        Edge lengths, mm.

    Returns
    -------
    Tensor
        The volumes, moved.
    """
    for axis, (far, size) in enumerate(zip(millimetres, voxel_size, strict=True)):
        if far == 0:
            continue
        n = image.shape[axis - 3]
        place = (torch.arange(n, device=image.device) - far / size).clamp(0, n - 1)
        low = place.floor().long().clamp_max(max(n - 2, 0))
        share = (place - low).to(image)
        share = share.view([-1 if a == axis else 1 for a in range(3)])
        image = torch.lerp(image.index_select(axis - 3, low), image.index_select(axis - 3, (low + 1).clamp_max(n - 1)), share)
    return image
