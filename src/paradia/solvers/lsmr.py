"""Least squares by Golub-Kahan bidiagonalisation."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from paradia.fft import length
from paradia.solvers._solution import Solution, unfinished
from paradia.types import Callback

Map = Callable[[Tensor], Tensor]


def lsmr(
    forward: Map,
    adjoint: Map,
    right: Tensor,
    *,
    damp: float = 0.0,
    max_iter: int = 100,
    tol: float = 1e-6,
    callback: Callback | None = None,
) -> Solution:
    r"""Minimise :math:`\|Ax - b\|^2 + d^2\|x\|^2`; the gradient of it falls in every iteration.

    Parameters
    ----------
    forward, adjoint
        :math:`A` and :math:`A^T`.
    right
        :math:`b`, one system whatever its shape.
    damp
        :math:`d`.
    max_iter
        Most iterations to do.
    tol
        Stop when :math:`\|A^T r\| \le \mathrm{tol}\,\|A^T b\|`, with :math:`r` the residual of the damped system.
    callback
        Called as ``callback(iteration, relative_gradient)``.

    Returns
    -------
    Solution
        With the relative gradient, :math:`\|A^T r\| / \|A^T b\|`.

    Notes
    -----
    In differentiation the coefficients of the recursion are held fixed: the gradient is that of the linear map which
    the iterations make up, exact in the limit.

    References
    ----------
    Fong DCL, Saunders M. SIAM J Sci Comput 2011;33:2950-2971. doi:10.1137/10079687X.
    """
    u, beta = _unit(right.clone())
    v, alpha = _unit(adjoint(u).clone())
    x = torch.zeros_like(v)
    h, h_bar = v.clone(), torch.zeros_like(v)
    alpha_bar, zeta_bar, start = alpha, alpha * beta, alpha * beta
    rho, rho_bar, c_bar, s_bar = 1.0, 1.0, 1.0, 0.0
    relative = 1.0 if start else 0.0
    iteration = 0
    while unfinished(relative, tol) and iteration < max_iter:
        iteration += 1
        u, beta = _unit(torch.sub(forward(v), u, alpha=alpha))
        v, alpha = _unit(torch.sub(adjoint(u), v, alpha=beta))

        alpha_hat = math.hypot(alpha_bar, damp)
        rho_before, rho = rho, math.hypot(alpha_hat, beta)
        c, s = alpha_hat / rho, beta / rho
        theta, alpha_bar = s * alpha, c * alpha

        rho_bar_before, theta_bar = rho_bar, s_bar * rho
        rho_bar = math.hypot(c_bar * rho, theta)
        c_bar, s_bar = c_bar * rho / rho_bar, theta / rho_bar
        zeta, zeta_bar = c_bar * zeta_bar, -s_bar * zeta_bar

        h_bar.mul_(-theta_bar * rho / (rho_before * rho_bar_before)).add_(h)
        x.add_(h_bar, alpha=zeta / (rho * rho_bar))
        h.mul_(-theta / rho).add_(v)
        relative = abs(zeta_bar) / start
        if callback is not None:
            callback(iteration, relative)
    return Solution(x, iteration, relative, relative <= tol)


def _unit(vector: Tensor) -> tuple[Tensor, float]:
    """Scale a vector to length one, in place."""
    size = length(vector)
    return (vector.div_(size) if size else vector), size
