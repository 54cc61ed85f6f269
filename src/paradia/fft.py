"""Real Fourier transforms of volumes, sizes that transform fast, and the boxes that keep them small.

Everything acts on the last three axes; batch axes come first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from paradia.errors import GeometryError, MaskError
from paradia.grid import Grid

AXES = (-3, -2, -1)

BY_PLANES = ("cpu",)
"""Kinds of devices on which inverse transforms go by transposed planes."""

Box = tuple[slice, slice, slice]


def rfftn(image: Tensor) -> Tensor:
    """Transform real volumes; the last axis keeps its non-negative frequencies."""
    return torch.fft.rfftn(image, dim=AXES)


def irfftn(spectrum: Tensor, shape: Sequence[int]) -> Tensor:
    """Invert `rfftn` for volumes of the given shape."""
    x, y, z = tuple(shape)[-3:]
    if spectrum.device.type not in BY_PLANES:
        return torch.fft.irfftn(spectrum, s=(x, y, z), dim=AXES)
    if spectrum.ndim > 3:
        volumes = [irfftn(one, shape) for one in spectrum.reshape(-1, *spectrum.shape[-3:])]
        return torch.stack(volumes).view(*spectrum.shape[:-3], x, y, z)
    planes = torch.fft.ifftn(_transposed(spectrum, x * y).view(-1, x, y), dim=(1, 2))
    return torch.fft.irfft(_transposed(planes, z // 2 + 1).view(x, y, -1), n=z)


def _transposed(spectrum: Tensor, rows: int) -> Tensor:
    """Copy a spectrum, taken for a matrix of so many rows, so that its columns come first.

    `torch.fft.irfftn` transposes too, along three axes, and takes a third longer in all: torch goes through a matrix block by block, and
    through anything else line by line, most of which the cache has lost by the time they are read again.
    """
    return spectrum.reshape(rows, -1).t().contiguous()


def times(spectrum: Tensor, kernel: Tensor) -> Tensor:
    """Return the product of a spectrum and a real kernel of its shape.

    In place on a copy, which takes less time than ``spectrum * kernel``.
    """
    return spectrum.clone().mul_(kernel)


def length(x: Tensor) -> float:
    """Return the Euclidean length of a real or complex tensor.

    That of complex numbers is reckoned from their parts: `torch.linalg.vector_norm` takes fifty times as long over the numbers themselves.
    """
    x = x.detach()
    return float(torch.linalg.vector_norm(torch.view_as_real(x) if x.is_complex() else x))


def to_kspace(images: Tensor) -> Tensor:
    r"""Transform complex images into samples of k-space.

    The convention of all raw data here: :math:`s(k) = N^{-1/2}\sum_r m(r)\,e^{-2\pi i k\cdot r}`, unitary, so that noise has
    the same variance in both spaces, with r and k counted from index n // 2 of each axis.
    """
    return torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(images, AXES), dim=AXES, norm="ortho"), AXES)


def from_kspace(samples: Tensor) -> Tensor:
    """Transform samples of k-space into complex images: the inverse and the adjoint of `to_kspace`."""
    return torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(samples, AXES), dim=AXES, norm="ortho"), AXES)


def half_counts(last: int) -> Tensor:
    """Return how many frequencies each plane of a half spectrum stands for, the last axis being ``last`` long."""
    counts = torch.full((last // 2 + 1,), 2.0, dtype=torch.float64)
    counts[0] = 1.0
    if last % 2 == 0:
        counts[-1] = 1.0
    return counts


def half_mean(spectrum: Tensor, last: int) -> Tensor:
    """Return the mean over all frequencies of a symmetric spectrum that is given as its half."""
    return spectrum.mean(dim=(-3, -2)) @ half_counts(last).to(spectrum) / last


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


def check_boolean(**masks: Tensor) -> None:
    """Refuse masks of numbers: torch takes whole ones for indices, turns them about bit by bit, and then gives a map that looks like one.

    Raises
    ------
    MaskError
        A mask is not boolean.
    """
    for name, mask in masks.items():
        if mask.dtype != torch.bool:
            raise MaskError(f"{name} must be boolean, got {mask.dtype}. Give {name} > 0.")


def check_mask(mask: Tensor) -> None:
    """Refuse a mask that holds nothing or is of numbers.

    Raises
    ------
    MaskError
        The mask is empty or not boolean.
    """
    check_boolean(mask=mask)
    if not bool(mask.any()):
        raise MaskError("the mask is empty: no voxel is inside. Give another mask or loosen the mask step's threshold.")


def bounding_box(mask: Tensor, margin: int = 0) -> Box:
    """Return the smallest box that holds the mask, with a margin in voxels that stays inside the volume.

    Raises
    ------
    MaskError
        The mask is empty or not boolean.
    """
    check_mask(mask)
    box = []
    for axis in range(3):
        others = [a for a in range(3) if a != axis]
        inside = mask.amax(dim=others).nonzero()
        first, last = int(inside[0]), int(inside[-1])
        box.append(slice(max(first - margin, 0), min(last + 1 + margin, mask.shape[axis])))
    x, y, z = box
    return x, y, z


@dataclass(frozen=True)
class Window:
    """The part of a volume around its mask, with a margin of zeros, at a size that transforms fast.

    A transform is periodic, so a margin at the far end of an axis keeps both ends apart.
    """

    box: Box
    """Bounding box of the mask in the volume."""
    volume: tuple[int, int, int]
    """Shape of the volume."""
    grid: Grid
    """Grid of the window."""
    mask: Tensor
    """Mask in the window."""

    @classmethod
    def around(cls, mask: Tensor, grid: Grid, margin: float = 0.0, **images: Tensor | None) -> Window:
        """Frame a mask.

        Parameters
        ----------
        mask
            Voxels that count.
        grid
            Where the mask lives.
        margin
            Least distance between the mask and its periodic copies, mm.
        images
            What else must fit the grid, under the names to use in a message.

        Raises
        ------
        GeometryError
            The mask or an image does not have the shape of the grid.
        MaskError
            The mask is empty or not boolean.
        """
        for name, image in {"mask": mask, **images}.items():
            if image is not None and tuple(image.shape[-3:]) != grid.shape:
                raise GeometryError(f"{name} has shape {tuple(image.shape)}, but the grid {grid.shape}. Bring both to one space.")
        box = bounding_box(mask)
        inside = mask[box]
        framed = grid.with_shape(fast_shape(inside.shape, [math.ceil(margin / d) for d in grid.voxel_size]))
        return cls(box, grid.shape, framed, pad(inside, framed.shape))

    def take(self, image: Tensor) -> Tensor:
        """Cut the window out of a volume, zero where the mask's box ends."""
        return pad(image[(..., *self.box)], self.grid.shape)

    def put(self, image: Tensor) -> Tensor:
        """Lay the window back into a volume of zeros."""
        volume = image.new_zeros((*image.shape[:-3], *self.volume))
        volume[(..., *self.box)] = crop(image, [side.stop - side.start for side in self.box])
        return volume


def each(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Apply a function of one volume to every volume of a batch, so that none depends on its neighbours."""
    if images.ndim == 3:
        return function(images)
    return torch.stack([function(image) for image in images.flatten(0, -4)]).unflatten(0, images.shape[:-3])


def each_of(function: Callable[[Tensor], tuple[Tensor, ...]], images: Tensor) -> tuple[Tensor, ...]:
    """Do as `each` for a function that gives several tensors, volumes or numbers."""
    if images.ndim == 3:
        return function(images)
    rows = [function(image) for image in images.flatten(0, -4)]
    return tuple(torch.stack(column).unflatten(0, images.shape[:-3]) for column in zip(*rows, strict=True))
