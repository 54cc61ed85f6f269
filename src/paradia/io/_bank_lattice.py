"""Lattices of the right half of the head, and distances on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


class Lattice(NamedTuple):
    """Voxel centres from the midplane to the right: origin, voxel and shape, mm."""

    origin: tuple[float, float, float]
    spacing: float
    shape: tuple[int, int, int]

    def points(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return coordinates ready to broadcast."""
        x, y, z = (o + self.spacing * torch.arange(n, dtype=torch.float32) for o, n in zip(self.origin, self.shape, strict=True))
        return x[:, None, None], y[None, :, None], z[None, None, :]

    def sample(self, image: NDArray[Any], affine: NDArray[Any], mode: str = "constant") -> Floats:
        """Interpolate an image whose affine maps voxels to this frame."""
        here = np.diag([self.spacing] * 3 + [1.0])
        here[:3, 3] = self.origin
        m = np.linalg.inv(affine) @ here
        return ndimage.affine_transform(image.astype(np.float32), m[:3, :3], m[:3, 3], output_shape=self.shape, order=1, mode=mode)


def lattice(low: Sequence[float], high: Sequence[float], spacing: float) -> Lattice:
    """Return the lattice from one corner to another."""
    shape = [round((b - a) / spacing) + 1 for a, b in zip(low, high, strict=True)]
    return Lattice((low[0], low[1], low[2]), spacing, (shape[0], shape[1], shape[2]))


def distance(inside: Bools, spacing: float) -> Floats:
    """Return the signed distance to the boundary of a region in mm, positive inside; the midplane is no boundary."""
    within = ndimage.distance_transform_edt(inside) if not inside.all() else np.full(inside.shape, 99.0)
    outside = ndimage.distance_transform_edt(~inside) if inside.any() else np.full(inside.shape, 99.0)
    return ((np.where(inside, within - 0.5, 0.5 - outside)) * spacing).astype(np.float32)


def smooth(values: Floats, sigma: float) -> Floats:
    """Blur by a Gaussian of `sigma` voxels, mirrored at the midplane."""
    return ndimage.gaussian_filter(values, sigma, mode=["mirror", "nearest", "nearest"], truncate=3.0)


def largest(region: Bools) -> Bools:
    """Keep the largest connected piece."""
    pieces, count = ndimage.label(region)
    if count < 2:
        return region
    return pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))


def code(values: Floats, scale: float) -> NDArray[np.uint8]:
    """Turn values into bytes about 128."""
    return np.clip(np.rint(values * scale) + 128, 0, 255).astype(np.uint8)
