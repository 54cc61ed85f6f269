"""The first guess at the sources of a total field, under quadratic penalties.

The field of the sources outside is a thousand times that of the tissue. A grid twice as coarse tells most of them, and there an iteration
takes an eighth of the time; the fine one only has to find what is left.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d

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
        Of all of these: sides even, and the mask in the nearer half of each, as in a window.
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
    turns = _turns(mask)
    share, weights = _folded(mask.to(field), turns), _folded(precision.square(), turns)
    inner = (share > 0.5) & (weights > 0)
    if not inner.any():
        return torch.zeros_like(field)
    nx, ny, nz = inner.shape
    x, y, z = (FOLD * size for size in grid.voxel_size)
    dipole = Dipole(Grid((nx, ny, nz), (x, y, z), grid.b0_dir)).to(field)
    seen = torch.where(inner, _folded(precision.square() * field, turns) / weights.clamp_min(torch.finfo(weights.dtype).tiny), 0.0)
    certain = torch.where(inner, _folded(precision, turns) / share.clamp_min(0.5), 0.0)
    spread = torch.where(inner, INSIDE, outside).to(field)
    found = torch.where(inner, 0.0, probable(seen, certain, spread, dipole, max_iter=max_iter, tol=tol))
    return torch.where(mask, 0.0, _unfolded(found, turns))


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


def _turns(mask: Tensor) -> list[tuple[int, int] | None]:
    """Tell for each axis where the middle of the mask lies on a voxel, and the voxel furthest from it the way round; None between two.

    Coarse voxels are pairs that lie alike on both sides of the middle: so the mirrored head has the mirrored start. Where the middle is a
    voxel it counts twice, once on each side, and the furthest, which is empty, makes room for it. What the halves make of each other is
    then half a voxel out of place on either side, which the fine fit mends; coarse voxels that overlap instead blur what is at the rim.
    """
    turns: list[tuple[int, int] | None] = []
    for side, n in zip(bounding_box(mask), mask.shape, strict=True):
        middle, on_a_voxel = divmod(side.start + side.stop, 2) if side.stop - side.start > 1 else (0, 0)  # a slice twice is another
        turns.append((middle, (middle + n // 2) % n) if on_a_voxel else None)
    return turns


def _folded(image: Tensor, turns: Sequence[tuple[int, int] | None]) -> Tensor:
    """Return means over pairs of voxels along each axis."""
    for axis, turn in enumerate(turns):
        if turn:
            middle, furthest = turn
            twice = [*range(middle + 1), *range(middle, furthest), *range(furthest + 1, image.shape[axis])]
            image = image.index_select(axis, torch.tensor(twice, device=image.device))
    return avg_pool3d(image[None, None], FOLD)[0, 0]


def _unfolded(image: Tensor, turns: Sequence[tuple[int, int] | None]) -> Tensor:
    """Interpolate linearly between the middles of coarse voxels, which go round like the grid."""
    for axis, turn in enumerate(turns):
        before, after = image.roll(1, axis), image.roll(-1, axis)
        image = torch.stack([(3 * image + before) / 4, (3 * image + after) / 4], axis + 1).flatten(axis, axis + 1)
        if turn:
            middle, furthest = turn
            n = image.shape[axis]
            one = [*range(middle + 1), *range(middle + 2, furthest + 1), *range(furthest, n)]
            other = [*range(middle), *range(middle + 1, furthest + 1), (furthest + 1) % n, *range(furthest + 1, n)]
            here, there = (image.index_select(axis, torch.tensor(places, device=image.device)) for places in (one, other))
            image = (here + there) / 2
    return image
