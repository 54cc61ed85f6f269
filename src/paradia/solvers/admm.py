"""The alternating direction method of multipliers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from paradia.solvers._solution import Solution
from paradia.types import Callback

Map = Callable[[Tensor], Tensor]


def admm(
    solve: Callable[[Sequence[Tensor]], Tensor],
    parts: Sequence[tuple[Map, Map]],
    x0: Tensor,
    *,
    max_iter: int = 100,
    tol: float = 1e-3,
    callback: Callback | None = None,
) -> Solution:
    r"""Minimise :math:`\sum_i g_i(K_i x)` by splitting off :math:`z_i = K_i x`.

    With :math:`t_i = K_i x + u_i` the iteration needs one tensor a part: the split variable is
    :math:`z_i = \mathrm{prox}_i(t_i)`, the scaled dual :math:`u_i = t_i - z_i`, and the next target
    :math:`z_i - u_i = 2z_i - t_i`.

    Parameters
    ----------
    solve
        From the targets :math:`v_i` to :math:`\arg\min_x \sum_i \frac{\rho_i}{2}\|K_i x - v_i\|^2`.
    parts
        For each term :math:`K_i` and the prox of :math:`g_i/\rho_i`.
    x0
        Where to start.
    max_iter
        Most iterations to do.
    tol
        Stop when :math:`\|x - x_\mathrm{before}\| \le \mathrm{tol}\,\|x\|`.
    callback
        Called as ``callback(iteration, relative_change)``.

    Returns
    -------
    Solution
        With the relative change in the last iteration.

    References
    ----------
    Boyd S, Parikh N, Chu E, Peleato B, Eckstein J. Found Trends Mach Learn 2011;3:1-122. doi:10.1561/2200000016.
    """
    x = x0
    duals: list[Tensor | float] = [0.0] * len(parts)
    targets: list[Tensor] = []
    iteration, relative = 0, float("inf")
    for forward, _ in parts:
        targets.append(forward(x))
    while relative > tol and iteration < max_iter:
        iteration += 1
        before, x = x, solve(targets)
        for i, (forward, prox) in enumerate(parts):
            moved = forward(x) + duals[i]
            split = prox(moved)
            duals[i] = moved - split
            targets[i] = split - duals[i]
        relative = relative_change(x, before)
        if callback is not None:
            callback(iteration, relative)
    return Solution(x, iteration, relative, relative <= tol)


def relative_change(now: Tensor, before: Tensor) -> float:
    r"""Return :math:`\|a - b\| / \|a\|`, zero when both are zero."""
    change, size = float(torch.dist(now, before)), float(now.norm())
    return change / size if size else change
