"""Second-order total generalised variation as a term for `admm`."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.grid import Grid
from paradia.sources.slopes import add_bend, add_fall, add_slope, add_unbend

PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
"""Components of a symmetric matrix."""


class GeneralisedVariation:
    r"""Duals and slopes of :math:`\min_p w\|\nabla x - p\|_1 + w_2\|\mathcal E p\|_1` (absolute components; periodic).

    :math:`\mathcal E` is the symmetrised gradient, see `add_bend`. Minimising over :math:`p` would take a linear
    solve of its own; instead :math:`p` goes one step of a length that cannot overshoot down the augmented Lagrangian, all
    in space, so that the term costs no transform more than `Variation`. With :math:`q = 2u' - u` the step is
    :math:`p' = p + \tfrac12(q_1 - r\,\mathcal E^T q_2)`, and the target is
    :math:`\nabla^T\nabla x - \nabla^T(q_1 - p' + p)`.

    Parameters
    ----------
    grid
        Where the images live.
    limit
        :math:`w/\rho`.
    ratio
        :math:`w_2/w`, mm.
    like
        A tensor of the device and precision to use.
    """

    def __init__(self, grid: Grid, limit: float, ratio: float, like: Tensor) -> None:
        self.voxel_size = grid.voxel_size
        self.coupling = 1 / sum(4 / size**2 for size in grid.voxel_size)  # ρ₂/ρ, so that ρ₂‖E‖² ≤ ρ
        self.limits = limit, ratio * limit / self.coupling
        self.slopes = [like.new_zeros(grid.shape) for _ in range(3)]
        self.first = [like.new_zeros(grid.shape) for _ in range(3)]
        self.second = {pair: like.new_zeros(grid.shape) for pair in PAIRS}

    def step(self, x: Tensor) -> Tensor:
        r"""Move duals and slopes to an image and return the pull less :math:`\nabla^T\nabla x`."""
        ahead = []
        for axis, (u, p, size) in enumerate(zip(self.first, self.slopes, self.voxel_size, strict=True)):
            before = u.clone()
            u.sub_(p)
            add_slope(u, x, axis, 1 / size)
            u.clamp_(-self.limits[0], self.limits[0])
            ahead.append(torch.add(before.neg_(), u, alpha=2))
        moves = [q.clone() for q in ahead]
        for (i, j), u in self.second.items():
            q = self._bend(u, i, j)
            for along, across in {(i, j), (j, i)}:
                add_unbend(moves[along], q, along, across, -self.coupling / self.voxel_size[across])
        pull = torch.zeros_like(x)
        for axis, (p, move, q, size) in enumerate(zip(self.slopes, moves, ahead, self.voxel_size, strict=True)):
            p.add_(move, alpha=0.5)
            add_fall(pull, q.sub_(move, alpha=0.5), axis, -1 / size)
        return pull

    def _bend(self, u: Tensor, i: int, j: int) -> Tensor:
        """Move one dual of the bends to the slopes and return it extrapolated."""
        before = u.clone()
        half = 1.0 if i == j else 0.5
        for along, across in {(i, j), (j, i)}:
            add_bend(u, self.slopes[along], along, across, half / self.voxel_size[across])
        u.clamp_(-self.limits[1], self.limits[1])
        return before.neg_().add_(u, alpha=2)
