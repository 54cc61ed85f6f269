"""Conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from paradia.solvers._solution import Solution, unfinished
from paradia.types import Callback

Map = Callable[[Tensor], Tensor]


def cg(
    operator: Map,
    right: Tensor,
    *,
    x0: Tensor | None = None,
    precondition: Map | None = None,
    max_iter: int = 100,
    tol: float = 1e-6,
    callback: Callback | None = None,
) -> Solution:
    r"""Solve :math:`Ax = b` for a symmetric positive semidefinite operator.

    Parameters
    ----------
    operator
        :math:`A`.
    right
        :math:`b`, one system whatever its shape.
    x0
        Where to start; zero if not given.
    precondition
        Symmetric positive definite approximation of :math:`A^{-1}`.
    max_iter
        Most iterations to do.
    tol
        Stop when :math:`\|b - Ax\| \le \mathrm{tol}\,\|b\|`.
    callback
        Called as ``callback(iteration, relative_residual)``.

    Returns
    -------
    Solution
        With the relative residual as kept up by the recursion.

    References
    ----------
    Hestenes MR, Stiefel E. J Res Natl Bur Stand 1952;49:409-436. doi:10.6028/jres.049.044.
    """
    size = float(right.detach().norm())
    if not size:
        return Solution(torch.zeros_like(right), 0, 0.0, True)
    x = torch.zeros_like(right) if x0 is None else x0
    residual = right if x0 is None else right - operator(x0)
    relative = float(residual.detach().norm()) / size
    direction = precondition(residual) if precondition else residual
    slope = _dot(residual, direction)
    iteration = 0
    while unfinished(relative, tol) and iteration < max_iter:
        image = operator(direction)
        curvature = _dot(direction, image)
        if not float(curvature.detach()) > 0:
            break  # no step along a direction that the operator does not see gets any nearer
        iteration += 1
        step = slope / curvature
        x = torch.addcmul(x, step, direction)
        residual = torch.addcmul(residual, -step, image)
        relative = float(residual.detach().norm()) / size
        better = precondition(residual) if precondition else residual
        slope, before = _dot(residual, better), slope
        direction = torch.addcmul(better, slope / before, direction)
        if callback is not None:
            callback(iteration, relative)
    return Solution(x, iteration, relative, relative <= tol)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a.reshape(-1), b.reshape(-1))
