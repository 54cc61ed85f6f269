"""Fit of three pools to the echoes of many voxels at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

CENTRE = (0.3, 0.3, 0.4, 0.05, 0.05)
"""Shares of the paramagnetic, the diamagnetic and the neutral pool, and susceptibilities of the first two, ppm, expected of a voxel."""

WIDTH = 1.0
"""Standard deviation of their logarithms."""

RATE_WIDTH = 0.3
"""Standard deviation of the logarithm of the neutral pool's rate, where it is not known."""

FIRST, EASE, STIFFEN, LARGEST = 0.1, 0.3, 4.0, 1e6
"""Damping: the first, its factors after a step that helped and one that did not, and the largest."""


@dataclass(frozen=True)
class Model:
    """What all voxels share."""

    times: Tensor
    """Echo times, s, shape (echo, 1)."""
    decays: tuple[float, float]
    """Relaxivities, 1/s a ppm."""
    turn: float
    """Phase of a pool, rad/s a ppm."""
    noise: float
    """Error of the echoes, as a share of the signal at time zero."""

    def signal(self, theta: Tensor, rate: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the signal (part, echo, voxel), real and imaginary, and its derivatives (parameter, part, echo, voxel)."""
        share, chi, neutral = theta[:3].exp(), theta[3:5].exp(), (theta[5].exp() if rate is None else rate)
        t = self.times
        common = torch.exp(-neutral * t)
        pools, along = [], []
        for i, (decay, sign) in enumerate(zip(self.decays, (1, -1), strict=True)):
            angle = (sign * self.turn) * chi[i] * t
            size = share[i] * common * torch.exp(-decay * chi[i] * t)
            re, im = size * torch.cos(angle), size * torch.sin(angle)
            pools.append(torch.stack([re, im]))
            fall, spin = decay * chi[i] * t, angle
            along.append(torch.stack([-fall * re - spin * im, -fall * im + spin * re]))
        still = share[2] * common
        pools.append(torch.stack([still, torch.zeros_like(still)]))
        total = pools[0] + pools[1] + pools[2]
        slopes = [*pools, *along]
        if rate is None:
            slopes.append(total * (-neutral * t))
        return total, torch.stack(slopes)


def fit(model: Model, data: Tensor, rate: Tensor | None, expected: float, max_iter: int, tol: float) -> tuple[Tensor, Tensor]:
    """Find the most probable parameters by damped Gauss-Newton steps.

    Parameters
    ----------
    model
        What all voxels share.
    data
        Signal over that at time zero, (part, echo, voxel); an echo of which both parts are zero was not measured, and does not count.
    rate
        Rate of the neutral pool, 1/s, where it is known.
    expected
        The rate to expect, 1/s, where it is not.
    max_iter
        Most steps.
    tol
        Step of the logarithms at which a voxel is done.

    Returns
    -------
    Tensor
        Logarithms of three shares, two susceptibilities, and, where it was not known, the rate: (parameter, voxel).
    Tensor
        Which voxels would still move.
    """
    centre = [math.log(value) for value in (*CENTRE, *(() if rate is not None else (expected,)))]
    widths = [WIDTH] * len(CENTRE) + ([] if rate is not None else [RATE_WIDTH])
    prior, belief = (data.new_tensor(values)[:, None] for values in (centre, [w**-2 for w in widths]))
    theta = prior.expand(-1, data.shape[-1]).contiguous()
    damping = torch.full_like(theta[0], FIRST)
    best, hessian, gradient = _normal(model, data, rate, theta, prior, belief)
    moving = torch.ones_like(best, dtype=torch.bool)
    for _ in range(max_iter):
        change = solve([[hessian[i][j] for j in range(i + 1)] for i in range(len(theta))], gradient, damping)
        change.clamp_(-1, 1)
        trial = theta - change
        cost, new_hessian, new_gradient = _normal(model, data, rate, trial, prior, belief)
        better = cost <= best
        theta, best = torch.where(better, trial, theta), torch.where(better, cost, best)
        gradient, hessian = torch.where(better, new_gradient, gradient), torch.where(better, new_hessian, hessian)
        damping = torch.where(better, damping * EASE, (damping * STIFFEN).clamp_max(LARGEST))
        moving = change.abs().amax(0) > tol
        if not bool(moving.any()):
            break
    return theta, moving


def _normal(model: Model, data: Tensor, rate: Tensor | None, theta: Tensor, prior: Tensor, belief: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cost, the matrix of the normal equations (parameter, parameter, voxel) and the gradient."""
    total, slopes = model.signal(theta, rate)
    there = (data != 0).any(0)
    if not bool(there.all()):
        total, slopes = total * there, slopes * there
    slopes = slopes.flatten(1, 2)
    residual = (total - data).flatten(0, 1)
    firm = model.noise**-2
    away = theta - prior
    cost = residual.square().sum(0).mul_(firm) + (belief * away.square()).sum(0)
    gradient = (slopes * residual).sum(1).mul_(firm) + belief * away
    count = len(theta)
    hessian = theta.new_empty(count, count, theta.shape[1])
    for i in range(count):
        for j in range(i + 1):
            hessian[i, j] = (slopes[i] * slopes[j]).sum(0).mul_(firm)
        hessian[i, i] += belief[i]
    return cost, hessian, gradient


def solve(lower: list[list[Tensor]], right: Tensor, damping: Tensor) -> Tensor:
    """Solve small positive definite systems, one a voxel, by Cholesky's factors; the diagonal is raised by the share ``damping``.

    Parameters
    ----------
    lower
        Rows of the lower triangle.
    right
        Right sides (unknown, voxel).
    damping
        One a voxel.
    """
    count = len(lower)
    factor: list[list[Tensor]] = []
    forward: list[Tensor] = []
    for i in range(count):
        row: list[Tensor] = []
        for j in range(i):
            value = lower[i][j]
            for k in range(j):
                value = value - row[k] * factor[j][k]
            row.append(value * factor[j][j])
        pivot = lower[i][i] * (1 + damping)
        value = right[i]
        for k in range(i):
            pivot = pivot - row[k] * row[k]
            value = value - row[k] * forward[k]
        row.append(pivot.clamp_min(1e-12).rsqrt())  # the diagonal is kept as its reciprocal
        factor.append(row)
        forward.append(value * row[i])
    result = torch.empty_like(right)
    for i in reversed(range(count)):
        value = forward[i]
        for k in range(i + 1, count):
            value = value - factor[k][i] * result[k]
        result[i] = value * factor[i][i]
    return result
