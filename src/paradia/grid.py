"""The geometry of an image: how many voxels, how large, and where B0 points."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from paradia.errors import GeometryError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

MAX_SHEAR = 1e-3
"""Largest cosine between two voxel axes that still counts as a right angle."""

SMALLEST, LARGEST = 0.005, 100.0
"""Edges of voxels that can be meant, mm: what lies beyond is metres or micrometres taken for millimetres, or a broken header, and radii in
mm would be millions of voxels."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Shape, voxel size and direction of B0; hashable, so that kernels are cached on it.

    Parameters
    ----------
    shape
        Voxels along x, y, z in NIfTI index order.
    voxel_size
        Edge lengths, mm, from 0.005 to 100.
    b0_dir
        Direction of B0 in array axes; scaled to unit length.

    Raises
    ------
    GeometryError
        A size is not positive or finite or no voxel's, or the direction has no length.
    """

    shape: tuple[int, int, int]
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0)
    b0_dir: tuple[float, float, float] = (0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        voxel_size = tuple(float(v) for v in self.voxel_size)
        b0_dir = tuple(float(b) for b in self.b0_dir)
        if len(shape) != 3 or min(shape) < 1 or shape != tuple(self.shape):
            raise GeometryError(f"a grid has three positive sizes, whole numbers, got shape {self.shape}. Give one volume's x, y, z.")
        if len(voxel_size) != 3 or not all(math.isfinite(v) and v > 0 for v in voxel_size):
            raise GeometryError(f"voxel sizes must be three positive numbers in mm, got {self.voxel_size}. Check the header.")
        if not all(SMALLEST <= v <= LARGEST for v in voxel_size):
            raise GeometryError(
                f"voxels of {' × '.join(f'{v:g}' for v in voxel_size)} mm cannot be meant: edges are from {SMALLEST:g} to {LARGEST:g} mm. "
                "Metres or micrometres may have been written for millimetres (in a NIfTI header, xyzt_units says which), or the header is "
                "broken. Write millimetres into it."
            )
        length = math.hypot(*b0_dir)
        if len(b0_dir) != 3 or not math.isfinite(length) or length == 0:
            raise GeometryError(f"b0_dir must be a direction in array axes, got {self.b0_dir}. For an axial scan give (0, 0, 1).")
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "voxel_size", voxel_size)
        object.__setattr__(self, "b0_dir", tuple(b / length for b in b0_dir))

    @classmethod
    def from_affine(cls, shape: Sequence[int], affine: ArrayLike, b0_dir: Sequence[float] | None = None) -> Grid:
        """Read the geometry from a NIfTI affine; the scanner's z axis is B0.

        Parameters
        ----------
        shape
            Voxels along x, y, z.
        affine
            4×4 matrix from voxel indices to scanner coordinates in mm.
        b0_dir
            Direction of B0 in array axes when the affine does not tell (a resampled or re-headed image).

        Raises
        ------
        GeometryError
            The affine is singular, not finite, or sheared.
        """
        matrix = np.asarray(affine, dtype=float)[:3, :3]
        sizes = np.linalg.norm(matrix, axis=0)
        if not np.isfinite(matrix).all() or (sizes == 0).any():
            raise GeometryError(f"the affine has no valid voxel axes: {matrix.tolist()}. Repair the header.")
        axes = matrix / sizes
        shear = np.abs(axes.T @ axes - np.eye(3)).max()
        if shear > MAX_SHEAR:
            raise GeometryError(
                f"the affine is sheared: two voxel axes meet at {np.degrees(np.arccos(min(shear, 1.0))):.2f}° instead of 90°. "
                "Resample the image to a rectangular grid."
            )
        direction = axes[2] if b0_dir is None else b0_dir  # row of R: the scanner's z seen along each array axis
        return cls(_three(shape), _three(sizes.tolist()), _three([float(b) for b in direction]))

    @property
    def extent(self) -> tuple[float, float, float]:
        """Field of view along x, y, z in mm."""
        x, y, z = (n * v for n, v in zip(self.shape, self.voxel_size, strict=True))
        return x, y, z

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel in mm³."""
        return math.prod(self.voxel_size)

    def with_shape(self, shape: Sequence[int]) -> Grid:
        """Return the same voxels and B0 over another shape, for padding and cropping."""
        return Grid(_three(shape), self.voxel_size, self.b0_dir)

    def permute(self, axes: Sequence[int]) -> Grid:
        """Return the grid of ``image.permute(axes)``."""
        return Grid(
            _three([self.shape[a] for a in axes]),
            _three([self.voxel_size[a] for a in axes]),
            _three([self.b0_dir[a] for a in axes]),
        )


def _three(values):
    """Fix the length in the type as well as in fact."""
    x, y, z = values
    return x, y, z
