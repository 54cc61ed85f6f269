"""Total variation as a term for `admm`, without a temporary volume."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from paradia.grid import Grid
from paradia.sources.slopes import add_fall, add_slope

MARGIN = 15.0
"""Distance between the mask and its periodic copies, mm; errors at the mask change by less than a percent beyond it."""


class Variation:
    r"""Dual of :math:`w\|\nabla x\|_1` (the sum of the absolute slopes along the axes; periodic).

    With :math:`t = \nabla x + u`, shrinking by :math:`w/\rho` leaves the new dual :math:`u' = \mathrm{clamp}(t)`
    between :math:`\pm w/\rho` and the target :math:`t - 2u'`, so that
    :math:`\nabla^T(z - u') = \nabla^T\nabla x + \nabla^T u - 2\nabla^T u'`: only divergences need to be kept.

    Parameters
    ----------
    grid
        Where the images live.
    limit
        :math:`w/\rho`; one for all, or a volume for each axis. May be changed between steps.
    like
        A tensor of the device and precision to use.
    """

    def __init__(self, grid: Grid, limit: float | Sequence[Tensor], like: Tensor) -> None:
        self.voxel_size = grid.voxel_size
        self.limit = limit
        self.dual = [like.new_zeros(grid.shape) for _ in range(3)]
        self.divergence = like.new_zeros(grid.shape)

    def step(self, x: Tensor) -> Tensor:
        r"""Move the dual to an image and return :math:`\nabla^T u - 2\nabla^T u'`."""
        divergence = torch.zeros_like(x)
        for axis, (u, size) in enumerate(zip(self.dual, self.voxel_size, strict=True)):
            add_slope(u, x, axis, 1 / size)
            limit = self.limit if isinstance(self.limit, float) else self.limit[axis]
            u.clamp_(-limit, limit)  # type: ignore[arg-type]
            add_fall(divergence, u, axis, 1 / size)
        before, self.divergence = self.divergence, divergence
        return before.sub_(divergence, alpha=2)
