"""Convolution with a real, even kernel that is known in the frequency domain."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from paradia.errors import GeometryError
from paradia.fft import crop, fast_shape, irfftn, pad, rfftn
from paradia.grid import Grid
from paradia.operators._base import SymmetricOperator
from paradia.types import Image

Sampler = Callable[[Grid], Tensor]


class Convolution(SymmetricOperator):
    """Pad, transform, multiply by the kernel, transform back, crop.

    The kernel is real and even, so the operator is real and symmetric. It is sampled in double precision and kept in
    single precision until `to` asks for more.

    Parameters
    ----------
    grid
        Where the images live.
    sampler
        From a grid to the half spectrum of the kernel on it, in double precision.
    padding
        Factor, at least 1, by which each axis is extended with zeros; sizes above 1 are rounded up to ones that
        transform fast. 1 makes the convolution periodic.

    Raises
    ------
    GeometryError
        The padding is below 1.
    """

    kernel: Tensor

    def __init__(self, grid: Grid, sampler: Sampler, padding: float | int) -> None:
        super().__init__()
        if not (math.isfinite(padding) and padding >= 1):
            raise GeometryError(f"padding is a factor of at least 1, got {padding}. Give 2 to double the field of view.")
        self.grid = grid
        self.sampler = sampler
        shape = grid.shape if padding == 1 else fast_shape([math.ceil(n * padding) for n in grid.shape])
        self.padded = grid.with_shape(shape)
        self.register_buffer("kernel", sampler(self.padded).to(torch.float32), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        before = self.kernel.dtype
        super()._apply(fn, recurse)
        if self.kernel.dtype.itemsize > before.itemsize:  # casting up would keep the rounding
            self.kernel = self.sampler(self.padded).to(self.kernel, copy=True)  # samplers keep theirs for the next operator
        return self

    def forward(self, x: Image) -> Image:
        """Convolve."""
        if tuple(x.shape[-3:]) != self.grid.shape:
            raise GeometryError(f"the operator is for images of shape {self.grid.shape}, got {tuple(x.shape)}. Give one grid to both.")
        return crop(irfftn(rfftn(pad(x, self.padded.shape)).mul_(self.kernel), self.padded.shape), self.grid.shape)

    def extra_repr(self) -> str:
        return f"{self.grid}, transformed at {self.padded.shape}"


@lru_cache(maxsize=16)
def frequencies(grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Return the frequencies of the half spectrum in cycles/mm, double precision, one broadcastable tensor an axis."""
    x, y, z = grid.shape
    dx, dy, dz = grid.voxel_size
    kx = torch.fft.fftfreq(x, dx, dtype=torch.float64)[:, None, None]
    ky = torch.fft.fftfreq(y, dy, dtype=torch.float64)[None, :, None]
    kz = torch.fft.rfftfreq(z, dz, dtype=torch.float64)[None, None, :]
    return kx, ky, kz
