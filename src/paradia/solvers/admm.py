"""The alternating direction method of multipliers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from paradia.fft import length
from paradia.solvers._solution import Solution, unfinished
from paradia.types import Callback


def admm(
    solve: Callable[[Tensor], Tensor],
    terms: Sequence[Callable[[Tensor], Tensor]],
    x0: Tensor,
    *,
    max_iter: int = 100,
    tol: float = 1e-3,
    callback: Callback | None = None,
    change: Callable[[Tensor, Tensor], float] | None = None,
) -> Solution:
    r"""Minimise :math:`\sum_i g_i(K_i x)` by splitting off :math:`z_i = K_i x`.

    Each term is a callable that keeps its split variable and its scaled dual :math:`u_i`, moves both to the :math:`x` it
    is given, :math:`z_i = \mathrm{prox}_{g_i/\rho_i}(K_i x + u_i)` and :math:`u_i \leftarrow u_i + K_i x - z_i`, and
    returns its pull on the next one, :math:`\rho_i K_i^T(z_i - u_i)`.

    Parameters
    ----------
    solve
        From the sum :math:`p` of the pulls to the next :math:`x = (\sum_i \rho_i K_i^T K_i)^{-1} p`; may overwrite it.
    terms
        One callable a term.
    x0
        Where to start, in the space in which `solve` is cheap, such as the frequency domain.
    max_iter
        Most iterations to do.
    tol
        Stop when :math:`\|x - x_\mathrm{before}\| \le \mathrm{tol}\,\|x\|`.
    callback
        Called as ``callback(iteration, relative_change)``.
    change
        Measures the relative change from the new and the former :math:`x`, where plain lengths of x0's space will not do.

    Returns
    -------
    Solution
        With the relative change in the last iteration.

    References
    ----------
    Boyd S, Parikh N, Chu E, Peleato B, Eckstein J. Found Trends Mach Learn 2011;3:1-122. doi:10.1561/2200000016.
    """
    x = x0
    iteration, relative = 0, float("inf")
    while unfinished(relative, tol) and iteration < max_iter:
        iteration += 1
        pull = terms[0](x)
        for term in terms[1:]:
            pull = pull + term(x)
        before, x = x, solve(pull)
        relative = (change or relative_change)(x, before)
        if callback is not None:
            callback(iteration, relative)
    return Solution(x, iteration, relative, relative <= tol)


def relative_change(now: Tensor, before: Tensor) -> float:
    r"""Return :math:`\|a - b\| / \|a\|`, zero when both are zero."""
    change, size = length(now - before), length(now)
    return change / size if size else change
