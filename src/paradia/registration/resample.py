"""Images on another grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import affine_transform, distance_transform_edt

from paradia.errors import GeometryError, InputError
from paradia.fft import check_mask
from paradia.registration._matrix import checked
from paradia.sources.inside import check_numbers
from paradia.types import Mask, Volume

ROUNDING = 1e-3
"""Voxels by which a place may be off: matrices in files are single precision."""


def resample(
    image: Volume,
    affine: ArrayLike,
    shape: Sequence[int],
    onto: ArrayLike,
    motion: ArrayLike | None = None,
    *,
    mask: Mask | None = None,
    order: int = 3,
) -> Volume:
    """Sample an image on another grid, after a rigid motion.

    Parameters
    ----------
    image
        What to sample.
    affine
        Its 4×4 matrix from voxel indices to the world, mm.
    shape
        Voxels of the other grid.
    onto
        Its matrix.
    motion
        4×4 matrix from the world of the other grid to that of the image: `Rigid.matrix`. Without it both are one.
    mask
        Voxels of the image that hold; the rest is filled with the nearest of them first, so that the border of the mask
        does not ring.
    order
        Of the spline: 0 nearest, 1 linear, 3 cubic.

    Returns
    -------
    Volume
        On the other grid, zero where the image does not reach: more than half a voxel beyond the middle of its last one.

    Raises
    ------
    GeometryError
        The mask is on another grid than the image, or a matrix is no affine.
    MaskError
        The mask is empty or not boolean.
    NonFiniteError
        The image is NaN or Inf where it is to hold: a spline would carry that everywhere.
    InputError
        No such order.
    """
    if not 0 <= order <= 5:
        raise InputError(f"order must be that of a spline, 0 to 5, got {order}. 1 is linear, 3 cubic.")
    if mask is not None and mask.shape != image.shape:
        raise GeometryError(f"the mask has shape {tuple(mask.shape)}, the image {tuple(image.shape)}. Give the mask of this image.")
    if mask is not None:
        check_mask(mask)
    check_numbers(torch.ones_like(image, dtype=torch.bool) if mask is None else mask, image=image)
    world = np.eye(4) if motion is None else checked("motion", motion)
    index = np.linalg.inv(checked("affine", affine)) @ world @ checked("onto", onto)
    data = image.detach().cpu().numpy()
    if mask is not None:
        nearest = distance_transform_edt(~mask.cpu().numpy(), return_distances=False, return_indices=True)
        data = data[tuple(nearest)]
    found = affine_transform(data, index[:3, :3], index[:3, 3], output_shape=tuple(shape), order=order, mode="nearest")
    return torch.from_numpy(np.where(_reached(index, shape, data.shape), found, 0)).to(image)


def _reached(index: NDArray[np.float64], shape: Sequence[int], source: Sequence[int]) -> NDArray[np.bool_]:
    """Mark the voxels of a grid that lie in a voxel of the source, borders included, whatever rounding made of their place."""
    places = np.ogrid[tuple(slice(n) for n in shape)]
    reached = np.ones(tuple(shape), dtype=bool)
    for row, n in zip(index[:3], source, strict=True):
        place = sum((step * along for step, along in zip(row[:3], places, strict=True)), start=row[3])
        reached &= (place > -0.5 - ROUNDING) & (place < n - 0.5 + ROUNDING)
    return reached
