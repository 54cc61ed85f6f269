"""The first guess at the sources of a total field, under quadratic penalties.

The field of the sources outside is a thousand times that of the tissue. A grid twice as coarse tells most of them, and there an iteration
takes an eighth of the time; the fine one only has to find what is left.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, interpolate

from paradia.fft import crop
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
        Of all of these.
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
    share, weights = _folded(mask.to(field)), _folded(precision.square())
    inner = (share > 0.5) & (weights > 0)
    if not inner.any():
        return torch.zeros_like(field)
    nx, ny, nz = inner.shape
    x, y, z = (FOLD * size for size in grid.voxel_size)
    dipole = Dipole(Grid((nx, ny, nz), (x, y, z), grid.b0_dir)).to(field)
    seen = torch.where(inner, _folded(precision.square() * field) / weights.clamp_min(torch.finfo(weights.dtype).tiny), 0.0)
    certain = torch.where(inner, _folded(precision) / share.clamp_min(0.5), 0.0)
    spread = torch.where(inner, INSIDE, outside).to(field)
    found = torch.where(inner, 0.0, probable(seen, certain, spread, dipole, max_iter=max_iter, tol=tol))
    fine = interpolate(found[None, None], [FOLD * n for n in inner.shape], mode="trilinear")[0, 0]
    return torch.where(mask, 0.0, crop(fine, field.shape))


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


def _folded(image: Tensor) -> Tensor:
    """Return means over blocks of voxels; of those that reach beyond the end, over what they hold."""
    return avg_pool3d(image[None, None], FOLD, ceil_mode=True, count_include_pad=False)[0, 0]
