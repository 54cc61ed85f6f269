"""Penalties on slopes as steps of their duals, in place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from paradia.grid import Grid


def add_slope(out: Tensor, x: Tensor, axis: int, scale: float) -> None:
    """Add the scaled difference to the next voxel along an axis, the last voxel's next being the first."""
    last = x.shape[axis] - 1
    out.sub_(x, alpha=scale)
    out.narrow(axis, 0, last).add_(x.narrow(axis, 1, last), alpha=scale)
    out.narrow(axis, last, 1).add_(x.narrow(axis, 0, 1), alpha=scale)


def add_fall(out: Tensor, u: Tensor, axis: int, scale: float) -> None:
    """Add the scaled difference from the voxel before along an axis, negated: the adjoint of `add_slope`."""
    last = u.shape[axis] - 1
    out.sub_(u, alpha=scale)
    out.narrow(axis, 1, last).add_(u.narrow(axis, 0, last), alpha=scale)
    out.narrow(axis, 0, 1).add_(u.narrow(axis, last, 1), alpha=scale)


def add_bend(out: Tensor, slope: Tensor, along: int, across: int, scale: float) -> None:
    """Add the scaled change of slopes along one axis over another.

    A slope lies between two voxels. Its change along its own axis lies at a voxel, one across it at a corner of four, the same for either
    order of the axes: differences to one side in both cases would have a mirrored map bend otherwise.
    """
    if along == across:
        add_fall(out, slope, across, -scale)
    else:
        add_slope(out, slope, across, scale)


def add_unbend(out: Tensor, bend: Tensor, along: int, across: int, scale: float) -> None:
    """Do the adjoint of `add_bend`."""
    if along == across:
        add_slope(out, bend, across, -scale)
    else:
        add_fall(out, bend, across, scale)


def edges(mask: Tensor) -> list[Tensor]:
    """Mark, along each axis, the voxels that lie inside with the next one."""
    return [mask & mask.roll(-1, axis) for axis in range(3)]


def spared(mask: Tensor, grid: Grid, magnitude: Tensor | None, share: float) -> list[Tensor]:
    """Mark for each axis where a slope to the next voxel costs: not across the mask's border, nor at edges of the magnitude.

    Beyond the border nobody knows the map, so that a price there would pull the rim towards what is not known.

    Parameters
    ----------
    mask
        Where the map is wanted.
    grid
        Of the mask.
    magnitude
        Any unit; without it no slope inside is spared.
    share
        Of the slopes between voxels of the mask, the steepest, that are edges.
    """
    inside = edges(mask)
    border = [mask ^ mask.roll(-1, axis) for axis in range(3)]
    if magnitude is None:
        return [~across for across in border]
    slopes = [((magnitude.roll(-1, axis) - magnitude) / size).abs() for axis, size in enumerate(grid.voxel_size)]
    values = torch.cat([slope[both] for slope, both in zip(slopes, inside, strict=True)])
    steepest = values.kthvalue(max(1, min(len(values), round((1 - share) * len(values))))).values if len(values) else torch.inf
    return [~(across | (both & (slope > steepest))) for slope, both, across in zip(slopes, inside, border, strict=True)]


class Variation:
    r"""Dual of :math:`w\|\nabla x\|_1`, the sum of absolute slopes along the axes, moved in place and without a temporary volume.

    With :math:`t = \nabla x + u`, shrinking by :math:`w/\rho` leaves the new dual :math:`u' = \mathrm{clamp}(t)`
    between :math:`\pm w/\rho` and the target :math:`t - 2u'`, so that
    :math:`\nabla^T(z - u') = \nabla^T\nabla x + \nabla^T u - 2\nabla^T u'`: only divergences need to be kept.

    Parameters
    ----------
    grid
        Where the images live.
    limits
        :math:`w/\rho` along each axis, a number or a volume, zero where no slope counts. May be exchanged between steps.
    """

    share = 1.0

    def __init__(self, grid: Grid, limits: Sequence[Tensor]) -> None:
        self.voxel_size = grid.voxel_size
        self.limits = limits
        self.dual = [limit.new_zeros(grid.shape) for limit in limits]
        self.divergence = limits[0].new_zeros(grid.shape)

    def step(self, x: Tensor) -> Tensor:
        r"""Move the dual to an image and return the pull :math:`\nabla^T(u - 2u')`."""
        divergence = torch.zeros_like(x)
        for axis, (u, limit, size) in enumerate(zip(self.dual, self.limits, self.voxel_size, strict=True)):
            add_slope(u, x, axis, 1 / size)
            u.clamp_(-limit, limit)
            add_fall(divergence, u, axis, 1 / size)
        before, self.divergence = self.divergence, divergence
        return before.sub_(divergence, alpha=2)


class GeneralisedVariation:
    r"""Dual of :math:`w\|\nabla x - v\|_1 + w_2\|\mathcal{E}v\|_1`, least over the slopes :math:`v`, inside the mask.

    Parameters
    ----------
    grid
        Where the images live.
    limits
        :math:`w/\rho` along each axis, zero where no slope counts.
    curvature
        :math:`w_2/\rho_2`, zero where none counts.
    ratio
        :math:`\rho_2/\rho`, mm².
    """

    share = 2.0

    def __init__(self, grid: Grid, limits: list[Tensor], curvature: Tensor, ratio: float) -> None:
        self.voxel_size = grid.voxel_size
        self.limits, self.ratio = limits, ratio
        zero = torch.zeros_like(limits[0])
        self.slopes, self.dual, self.bend = ([zero.clone() for _ in range(3)] for _ in range(3))
        self.second = {(a, b): zero.clone() for a in range(3) for b in range(a, 3)}
        self.curvature = {(a, b): curvature if a == b else _corners(curvature, a, b) for a, b in self.second}
        self.divergence = zero
        self.length = 1 / (2 + 4 * ratio * sum(1 / d**2 for d in grid.voxel_size))

    def step(self, x: Tensor) -> Tensor:
        r"""Move both duals and the slopes to an image and return the pull :math:`\nabla^T(u - 2u')`."""
        divergence = torch.zeros_like(x)
        bend = self._bend()
        for axis, (u, v, limit, size) in enumerate(zip(self.dual, self.slopes, self.limits, self.voxel_size, strict=True)):
            before = u.clone()
            u.sub_(v)
            add_slope(u, x, axis, 1 / size)
            torch.clamp(u, -limit, limit, out=u)
            add_fall(divergence, u, axis, 1 / size)
            before.neg_().add_(u, alpha=2).add_(self.bend[axis], alpha=self.ratio).sub_(bend[axis], alpha=2 * self.ratio)
            v.add_(before, alpha=self.length)
        self.bend = bend
        last, self.divergence = self.divergence, divergence
        return last.sub_(divergence, alpha=2)

    def _bend(self) -> list[Tensor]:
        r"""Move the dual of the slopes' symmetric derivative and return its adjoint applied to it."""
        bend = [torch.zeros_like(v) for v in self.slopes]
        for (a, b), q in self.second.items():
            ways = {(a, b), (b, a)}  # off the diagonal each stands for two entries
            for of, along in ways:
                add_bend(q, self.slopes[of], of, along, 1 / (len(ways) * self.voxel_size[along]))
            torch.clamp(q, -self.curvature[a, b], self.curvature[a, b], out=q)
            for of, along in ways:
                add_unbend(bend[of], q, of, along, 1 / self.voxel_size[along])
        return bend


def _corners(price: Tensor, a: int, b: int) -> Tensor:
    """Return the least price of the four voxels around each corner of a plane."""
    for axis in (a, b):
        price = torch.minimum(price, price.roll(-1, axis))
    return price
