"""Finite differences."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from paradia.grid import Grid
from paradia.operators._base import LinearOperator
from paradia.types import Image


class Gradient(LinearOperator):
    """Differences to the next voxel divided by the voxel size, 1/mm; zero across the last face.

    ::

        slopes = Gradient(grid)(chi)  # a new axis of three before x, y, z
        divergence = -Gradient(grid).H @ slopes

    Parameters
    ----------
    grid
        Where the images live.
    periodic
        Join the last voxel of an axis to its first, which makes the operator diagonal in the frequency domain.
    """

    def __init__(self, grid: Grid, *, periodic: bool = False) -> None:
        super().__init__()
        self.grid = grid
        self.periodic = periodic

    def forward(self, x: Image) -> Float[Tensor, "*batch 3 x y z"]:
        """Differentiate."""
        next_to_last = 0 if self.periodic else -1
        slopes = [
            torch.diff(x, dim=axis, append=x.narrow(axis, next_to_last, 1)) / size
            for axis, size in zip((-3, -2, -1), self.grid.voxel_size, strict=True)
        ]
        return torch.stack(slopes, dim=-4)

    def adjoint(self, y: Float[Tensor, "*batch 3 x y z"]) -> Image:
        """Take the negative divergence."""
        divergence = torch.zeros_like(y[..., 0, :, :, :])
        for component, (axis, size) in enumerate(zip((-3, -2, -1), self.grid.voxel_size, strict=True)):
            slope = y[..., component, :, :, :]
            last = slope.narrow(axis, -1, 1)
            if self.periodic:
                difference = torch.diff(slope, dim=axis, prepend=last)
            else:
                edge = torch.zeros_like(last)
                difference = torch.diff(slope.narrow(axis, 0, slope.shape[axis] - 1), dim=axis, prepend=edge, append=edge)
            divergence = divergence + difference / size
        return -divergence
