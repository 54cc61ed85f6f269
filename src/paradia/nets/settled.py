"""A proposal for the sources inside and those outside a mask, moved until together they explain the total field."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from paradia.fft import bounding_box
from paradia.nets.unrolled import Estimate, centred
from paradia.operators.dipole import Dipole
from paradia.solvers.lsmr import lsmr

TRUST = 0.5
"""How much of what the network doubts may move, as a share of its variance: its errors are not independent; chosen on simulated heads."""

ITERATIONS = 40
"""Of the descent: more help heads whose background is strong and take as long."""

AROUND = 0.5
"""Standard deviation, ppm, of what is wrong with the sources outside: air is 9 ppm off, but the fit they come from has found it already."""

MEAN = (0.25 + 2 * 0.0625) ** 0.5
"""Standard deviation of (1, 2, 1)/4 means of white noise of one, along each axis."""


class Settled(NamedTuple):
    """Sources on both sides of the mask's edge, in the window. All (x, y, z), ppm."""

    chi: Tensor
    """Inside, mean zero in the mask."""
    outside: Tensor
    """Outside, zero in the mask."""
    rest: Tensor
    """What neither side explains of the total field, zero outside the mask."""


def settle(
    estimate: Estimate, outside: Tensor, field: Tensor, deviation: Tensor, mask: Tensor, dipole: Dipole, *, trust: float, iterations: int
) -> Settled:
    r"""Move a proposal and the sources outside to where the total field can tell better.

    .. math:: \arg\min_{u, v}\; \|\sigma^{-1} M (f - D(z + \sqrt t\,\tau B u + q + s v))\|^2 + \|u\|^2 + \|v\|^2

    by a few steps of LSMR from zero, with the proposal z, its standard deviation τ, and the sources q found outside, which are off by s.
    B means neighbours by (1, 2, 1)/4 along each axis, its variance kept: errors of a proposal go together. The local field never
    enters: how the field is shared between both sides is settled anew.

    Parameters
    ----------
    estimate
        z and τ, ppm.
    outside
        q, ppm, zero in the mask.
    field
        f, total field in the window, ppm.
    deviation
        σ, ppm, positive in the mask; infinite where the field is unknown.
    mask
        M.
    dipole
        D, of the window.
    trust
        t.
    iterations
        Of LSMR; none only reckons what is left.

    Returns
    -------
    Settled
        Both kinds of sources and what they leave.
    """
    certain = torch.where(mask, deviation.reciprocal(), 0.0)
    moves = estimate.deviation * (trust**0.5 / MEAN**3)
    around = torch.where(mask, 0.0, torch.as_tensor(AROUND).to(field))
    box = bounding_box(mask)

    def spread(x: Tensor) -> Tensor:
        moved = around * x
        moved[box] += moves[box] * neighbours(x[box] * mask[box])
        return moved

    def gathered(x: Tensor) -> Tensor:
        found = around * x
        found[box] += neighbours(moves[box] * x[box]) * mask[box]
        return found

    both = estimate.value + outside
    if iterations:
        solution = lsmr(
            lambda x: dipole(spread(x)).mul_(certain),
            lambda x: gathered(dipole(certain * x)),
            certain * (field - dipole(both)),
            damp=1.0,
            max_iter=iterations,
            tol=1e-6,
        )
        both = both + spread(solution.x)
    rest = torch.where(mask, field - dipole(both), 0.0)
    return Settled(centred(both, mask), torch.where(mask, 0.0, both), rest)


def neighbours(x: Tensor) -> Tensor:
    """Mean by (1, 2, 1)/4 along each axis, zero beyond the edges: its own adjoint."""
    for axis in range(3):
        n = x.shape[axis]
        mean = 0.5 * x
        if n > 1:
            mean.narrow(axis, 1, n - 1).add_(x.narrow(axis, 0, n - 1), alpha=0.25)
            mean.narrow(axis, 0, n - 1).add_(x.narrow(axis, 1, n - 1), alpha=0.25)
        x = mean
    return x
