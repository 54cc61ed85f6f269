"""Daubechies' orthogonal wavelets in three dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from paradia.operators._base import LinearOperator

LOW = (
    0.23037781330885523,
    0.7148465705525415,
    0.6308807679295904,
    -0.02798376941698385,
    -0.18703481171888114,
    0.030841381835986965,
    0.032883011666982945,
    -0.010597401784997278,
)
"""Scaling filter with four vanishing moments (db4)."""


class Wavelets(LinearOperator):
    """Orthonormal periodic wavelet transform, in the layout of Mallat: the coarsest averages in the first corner.

    The adjoint is the inverse. Each level is a matrix along each axis: a product of matrices takes less time than eight
    shifted sums.

    Parameters
    ----------
    shape
        Of the images; each side a multiple of two to the power of the levels.
    levels
        How often the averages are split again.
    """

    def __init__(self, shape: Sequence[int], levels: int) -> None:
        super().__init__()
        self.shape, self.levels = tuple(shape), levels
        for n in {n >> level for n in self.shape for level in range(levels)}:
            self.register_buffer(f"matrix{n}", _matrix(n), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Split into averages and details."""
        y = x.clone()
        for level in range(self.levels):
            corner = self.averages(y, level)
            corner.copy_(self._along(corner, inverse=False))
        return y

    def adjoint(self, y: Tensor) -> Tensor:
        """Put averages and details together."""
        x = y.clone()
        for level in reversed(range(self.levels)):
            corner = self.averages(x, level)
            corner.copy_(self._along(corner, inverse=True))
        return x

    def averages(self, y: Tensor, level: int) -> Tensor:
        """Return the part in which the averages of a level lie (a view)."""
        i, j, k = (n >> level for n in self.shape)
        return y[..., :i, :j, :k]

    def _along(self, x: Tensor, *, inverse: bool) -> Tensor:
        """Apply one level along every axis."""
        for axis in (-3, -2, -1):
            matrix: Tensor = getattr(self, f"matrix{x.shape[axis]}").to(x)
            if inverse:
                matrix = matrix.T
            if axis == -1:
                x = x @ matrix.T
            elif axis == -2:
                x = matrix @ x
            else:
                x = (matrix @ x.flatten(-2)).unflatten(-1, x.shape[-2:])
        return x


def _matrix(n: int) -> Tensor:
    """Return one level in one dimension: averages in the first half of the rows, details in the second."""
    low = torch.tensor(LOW, dtype=torch.float64)
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(len(LOW) // 2)
    matrix = torch.zeros(n, n, dtype=torch.float64)
    for row in range(n // 2):
        columns = (2 * row + torch.arange(len(LOW))) % n
        matrix[row].index_add_(0, columns, low)
        matrix[n // 2 + row].index_add_(0, columns, low.flip(0) * signs)
    return matrix
