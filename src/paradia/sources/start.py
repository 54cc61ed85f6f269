"""The first guess at the sources of a total field, under quadratic penalties.

The field of the sources outside is a thousand times that of the tissue. A grid twice as coarse tells most of them, and there an iteration
takes an eighth of the time; the fine one only has to find what is left.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from paradia.fft import bounding_box
from paradia.grid import Grid
from paradia.operators.dipole import Dipole
from paradia.solvers.lsmr import lsmr

INSIDE, OUTSIDE = 0.04, 2.0
"""Standard deviations of susceptibility on either side of the mask's edge, ppm; only their ratio matters much."""

FOLD = 2
"""Voxels along each axis that share one of the coarse grid."""

REMAINS = 0.55
"""Share of the deviation outside that remains once the coarse grid has told what it can."""

ENOUGH = 1e-4
"""Share to which the gradient has to fall for the guess to be done."""


def begin(
    field: Tensor,
    precision: Tensor,
    mask: Tensor,
    grid: Grid,
    dipole: Dipole,
    *,
    max_iter: int,
    outside: float = OUTSIDE,
    tol: float = ENOUGH,
) -> Tensor:
    """Return the most probable sources of a field, those outside about what the coarse grid tells of them.

    Parameters
    ----------
    field
        Total field, ppm, (x, y, z).
    precision
        One over its standard deviation, 1/ppm, zero outside the mask.
    mask
        Inside.
    grid
        Of all of these; sides even, as those of a window.
    dipole
        Its dipole.
    max_iter
        Most iterations, on either grid.
    outside
        Standard deviation of the sources outside, ppm.
    tol
        Share to which the gradient has to fall.

    Returns
    -------
    Tensor
        Sources on both sides, ppm.
    """
    far = around(field, precision, mask, grid, max_iter=max_iter, outside=outside, tol=tol)
    spread = torch.where(mask, INSIDE, REMAINS * outside).to(field)
    return far + probable(field - dipole(far), precision, spread, dipole, max_iter=max_iter, tol=tol)


def around(
    field: Tensor, precision: Tensor, mask: Tensor, grid: Grid, *, max_iter: int, outside: float = OUTSIDE, tol: float = ENOUGH
) -> Tensor:
    """Return the sources outside as a coarse grid sees them, ppm: zero in the mask, and nothing where no coarse voxel is in it.

    Parameters are those of `begin`.
    """
    middles = _middles(mask)
    share, weights = _folded(mask.to(field), middles), _folded(precision.square(), middles)
    inner = (share > 0.5) & (weights > 0)
    if not inner.any():
        return torch.zeros_like(field)
    nx, ny, nz = inner.shape
    x, y, z = (FOLD * size for size in grid.voxel_size)
    dipole = Dipole(Grid((nx, ny, nz), (x, y, z), grid.b0_dir)).to(field)
    seen = torch.where(inner, _folded(precision.square() * field, middles) / weights.clamp_min(torch.finfo(weights.dtype).tiny), 0.0)
    certain = torch.where(inner, _folded(precision, middles) / share.clamp_min(0.5), 0.0)
    spread = torch.where(inner, INSIDE, outside).to(field)
    found = torch.where(inner, 0.0, probable(seen, certain, spread, dipole, max_iter=max_iter, tol=tol))
    return torch.where(mask, 0.0, _unfolded(found, middles))


def probable(field: Tensor, precision: Tensor, spread: Tensor, dipole: Dipole, *, max_iter: int, tol: float = ENOUGH) -> Tensor:
    """Return the most probable sources of a field on one grid.

    Parameters
    ----------
    field, precision, dipole, max_iter, tol
        As for `begin`.
    spread
        Standard deviation of the sources, ppm.
    """
    solution = lsmr(
        lambda y: dipole(spread * y).mul_(precision),
        lambda residual: dipole(precision * residual).mul_(spread),
        precision * field,
        damp=1.0,
        max_iter=max_iter,
        tol=tol,
    )
    return spread * solution.x


def _middles(mask: Tensor) -> list[bool]:
    """Tell for each axis whether the middle of the mask lies on a voxel; it lies between two otherwise.

    There a coarse voxel has its middle, here its border: the coarse grid of the mirrored mask is the mirrored coarse grid.
    """
    return [(side.start + side.stop) % 2 == 1 for side in bounding_box(mask)]


def _folded(image: Tensor, middles: Sequence[bool]) -> Tensor:
    """Return means over coarse voxels: two voxels along each axis, or one and half of both of its neighbours."""
    for axis, on_a_voxel in enumerate(middles):
        even, odd = image.unflatten(axis, (-1, FOLD)).unbind(axis + 1)
        image = (2 * even + odd + odd.roll(1, axis)) / 4 if on_a_voxel else (even + odd) / 2
    return image


def _unfolded(image: Tensor, middles: Sequence[bool]) -> Tensor:
    """Interpolate linearly between the middles of coarse voxels, which go round like the grid."""
    for axis, on_a_voxel in enumerate(middles):
        before, after = image.roll(1, axis), image.roll(-1, axis)
        pair = (image, (image + after) / 2) if on_a_voxel else ((3 * image + before) / 4, (3 * image + after) / 4)
        image = torch.stack(pair, axis + 1).flatten(axis, axis + 1)
    return image
