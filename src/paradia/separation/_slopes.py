"""Total variation as a term of a splitting."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from paradia.grid import Grid


class Slopes:
    r"""Dual of :math:`w\|P\nabla x\|_1`, the sum of absolute slopes along the axes (periodic).

    Of the dual only its divergence is asked for: with :math:`t = \nabla x + u`, shrinking by the limit leaves
    :math:`u' = \mathrm{clamp}(t)` and the target :math:`t - 2u'`.

    Parameters
    ----------
    grid
        Where the map lives.
    limit
        :math:`wP` over the penalty of the splitting, a volume for each axis.
    like
        A tensor of the shape, device and precision to use.
    """

    def __init__(self, grid: Grid, limit: Sequence[Tensor], like: Tensor) -> None:
        self.sizes, self.limit = grid.voxel_size, limit
        self.dual = [torch.zeros_like(like) for _ in range(3)]
        self.divergence = torch.zeros_like(like)

    def step(self, x: Tensor) -> Tensor:
        r"""Move the dual to a map and return :math:`\nabla^T u - 2\nabla^T u'`."""
        divergence = torch.zeros_like(x)
        for axis, (u, size) in enumerate(zip(self.dual, self.sizes, strict=True)):
            u.add_(slope(x, axis, size))
            u.clamp_(-self.limit[axis], self.limit[axis])
            divergence.add_(fall(u, axis, size))
        before, self.divergence = self.divergence, divergence
        return before.sub_(divergence, alpha=2)


def slope(x: Tensor, axis: int, size: float) -> Tensor:
    """Return the difference to the next voxel along an axis over the voxel size; the last voxel's next is the first."""
    return x.roll(-1, axis).sub_(x).div_(size)


def fall(u: Tensor, axis: int, size: float) -> Tensor:
    """Apply the adjoint of `slope`."""
    return u.roll(1, axis).sub_(u).div_(size)
