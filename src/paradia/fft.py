"""Real Fourier transforms of volumes, sizes that transform fast, and the boxes that keep them small.

Everything acts on the last three axes; batch axes come first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from paradia.errors import MaskError

AXES = (-3, -2, -1)
Box = tuple[slice, slice, slice]


def rfftn(image: Tensor) -> Tensor:
    """Transform real volumes; the last axis keeps its non-negative frequencies."""
    return torch.fft.rfftn(image, dim=AXES)


def irfftn(spectrum: Tensor, shape: Sequence[int]) -> Tensor:
    """Invert `rfftn` for volumes of the given shape."""
    return torch.fft.irfftn(spectrum, s=tuple(shape)[-3:], dim=AXES)


@lru_cache
def fast_size(minimum: int) -> int:
    """Return the smallest size, not below the minimum, whose only prime factors are 2, 3 and 5 and which is even.

    Even, because the half spectrum of a real transform is then packed without a remainder.
    """
    if minimum <= 1:
        return 1
    size = minimum + minimum % 2
    while _rest(size) > 1:
        size += 2
    return size


def _rest(size: int) -> int:
    for prime in (2, 3, 5):
        while size % prime == 0:
            size //= prime
    return size


def fast_shape(shape: Sequence[int], margin: Sequence[int] = (0, 0, 0)) -> tuple[int, int, int]:
    """Return a shape at least ``margin`` larger along each axis that transforms fast."""
    x, y, z = (fast_size(n + m) for n, m in zip(shape, margin, strict=True))
    return x, y, z


def pad(image: Tensor, shape: Sequence[int]) -> Tensor:
    """Extend with zeros at the far end of each axis; `crop` takes it back and is its adjoint."""
    if tuple(image.shape[-3:]) == tuple(shape):
        return image
    padded = image.new_zeros((*image.shape[:-3], *shape))
    crop(padded, image.shape[-3:]).copy_(image)
    return padded


def crop(image: Tensor, shape: Sequence[int]) -> Tensor:
    """Keep the first voxels of each axis (a view)."""
    x, y, z = shape
    return image[..., :x, :y, :z]


def bounding_box(mask: Tensor, margin: int = 0) -> Box:
    """Return the smallest box that holds the mask, with a margin in voxels that stays inside the volume.

    Raises
    ------
    MaskError
        The mask is empty.
    """
    box = []
    for axis in range(3):
        others = [a for a in range(3) if a != axis]
        inside = mask.amax(dim=others).nonzero()
        if inside.numel() == 0:
            raise MaskError("the mask is empty: no voxel is inside. Give another mask or loosen the mask step's threshold.")
        first, last = int(inside[0]), int(inside[-1])
        box.append(slice(max(first - margin, 0), min(last + 1 + margin, mask.shape[axis])))
    x, y, z = box
    return x, y, z
