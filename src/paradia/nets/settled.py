"""A proposal for the sources inside and those outside a mask, moved until together they explain a field."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from paradia.fft import bounding_box, length
from paradia.nets.features import spread
from paradia.nets.unet import UNet3d
from paradia.nets.unrolled import FLOOR, Estimate, Problem, centred, propose
from paradia.operators.dipole import Dipole
from paradia.solvers.lsmr import lsmr

TRUST = 0.5
"""How much of what the network doubts may move, as a share of its variance: its errors are not independent; chosen on simulated heads."""

ITERATIONS = 40
"""Of the descent: more help heads whose background is strong and take as long."""

FEW = 3
"""How many times fewer serve a proposal that the network will see again."""

AROUND = 0.5
"""Standard deviation, ppm, of what is wrong with the sources outside: air is 9 ppm off, but the fit they come from has found it already."""

LEAST, WIDE = 0.003, 45.0
"""Least that a background removal has left of them, ppm, and how many times more than `remainder` finds in the mean they are let be off:
what is left is strong in few places. Chosen on 19 fields of simulated and drawn heads, true ones and those of four removals, and on six
validation volumes."""

SURER, SURE = 0.63, 0.89
"""Shares of its deviation that a proposal keeps once a local field has settled it, where nothing was left outside and where something was:
what holds 68 % of the errors, read off ten validation volumes."""

MEAN = (0.25 + 2 * 0.0625) ** 0.5
"""Standard deviation of (1, 2, 1)/4 means of white noise of one, along each axis."""


class Settled(NamedTuple):
    """Sources on both sides of the mask's edge, in the window. All (x, y, z), ppm."""

    chi: Tensor
    """Inside, mean zero in the mask."""
    outside: Tensor
    """Outside, zero in the mask."""
    rest: Tensor
    """What neither side explains of the field, zero outside the mask."""


def settle(
    estimate: Estimate,
    outside: Tensor,
    field: Tensor,
    deviation: Tensor,
    mask: Tensor,
    dipole: Dipole,
    *,
    around: float,
    trust: float,
    iterations: int,
) -> Settled:
    r"""Move a proposal and the sources outside to where a field, total or local, can tell better.

    .. math:: \arg\min_{u, v}\; \|\sigma^{-1} M (f - D(z + \sqrt t\,\tau B u + q + s v))\|^2 + \|u\|^2 + \|v\|^2

    by a few steps of LSMR from zero, with the proposal z, its standard deviation τ, and the sources q found outside, which are off by s.
    B means neighbours by (1, 2, 1)/4 along each axis, its variance kept: errors of a proposal go together. A field is known no better
    than proposals explain it: σ is the field's own deviation and the robust one of :math:`f - D(z + q)`, together.

    Parameters
    ----------
    estimate
        z and τ, ppm.
    outside
        q, ppm, zero in the mask.
    field
        f in the window, ppm.
    deviation
        Of the field, ppm, positive in the mask; infinite where it is unknown.
    mask
        M.
    dipole
        D, of the window.
    around
        s, ppm.
    trust
        t.
    iterations
        Of LSMR; none only reckons what is left.

    Returns
    -------
    Settled
        Both kinds of sources and what they leave.
    """
    both = estimate.value + outside
    left = field - dipole(both)
    certain = _certain(deviation, spread(left, mask & deviation.isfinite()), mask)
    moves = _moves(estimate, trust)
    free = torch.where(mask, 0.0, torch.as_tensor(around).to(field))
    box = bounding_box(mask)

    def moved_by(x: Tensor) -> Tensor:
        moved = free * x
        moved[box] += moves[box] * neighbours(x[box] * mask[box])
        return moved

    def gathered(x: Tensor) -> Tensor:
        found = free * x
        found[box] += neighbours(moves[box] * x[box]) * mask[box]
        return found

    if iterations:
        solution = lsmr(
            lambda x: dipole(moved_by(x)).mul_(certain),
            lambda x: gathered(dipole(certain * x)),
            certain * left,
            damp=1.0,
            max_iter=iterations,
            tol=1e-6,
        )
        both = both + moved_by(solution.x)
    rest = torch.where(mask, field - dipole(both), 0.0)
    return Settled(centred(both, mask), torch.where(mask, 0.0, both), rest)


def remainder(start: Estimate, field: Tensor, deviation: Tensor, mask: Tensor, dipole: Dipole, *, trust: float) -> float:
    r"""Tell from a local field how strong the sources are that a background removal has left outside, as far as `settle` should seek them.

    What a classical start leaves of the field is brought back to the places outside, :math:`g = (1 - M) D \sigma^{-2} M (f - D z)`. Noise,
    what z may be off, and sources outside of standard deviation s would each make :math:`\|g\|^2` so large in the mean, which one draw of
    each tells; s is what the first two do not explain. Where nothing was left they explain it all: the field tells of the inside alone.

    Parameters
    ----------
    start
        z before the network, which has explained with sources inside what they can, with τ of the proposal. What the network adds
        speaks of its own errors, too.
    field, deviation, mask, dipole, trust
        See `settle`. Noise counts for no more than is left: a removal may have smoothed the field.

    Returns
    -------
    float
        `WIDE` times s times the share of :math:`\|g\|^2` that it makes up, between `LEAST` and `AROUND`, ppm.

    Notes
    -----
    Designed here, on simulated heads.
    """
    left = field - dipole(start.value)
    size = spread(left, mask & deviation.isfinite())
    certain, moves = _certain(deviation, size, mask), _moves(start, trust)
    generator = torch.Generator().manual_seed(0)  # on the processor, so that every device draws alike

    def drawn() -> Tensor:
        return torch.randn(field.shape, generator=generator, dtype=field.dtype).to(field.device)

    def seen(image: Tensor) -> float:
        return length(torch.where(mask, 0.0, dipole(certain.square() * image))) ** 2

    whole = seen(left)
    noise = torch.where(mask, deviation.minimum(size), 0.0)
    explained = seen(noise * drawn()) + seen(dipole(moves * neighbours(drawn() * mask) * mask))
    share = max(whole - explained, 0.0) / whole if whole else 0.0
    s = math.sqrt(share * whole / seen(dipole(torch.where(mask, 0.0, drawn())))) if share else 0.0
    return min(max(WIDE * share * s, LEAST), AROUND)


def _certain(deviation: Tensor, size: Tensor, mask: Tensor) -> Tensor:
    """Return the inverse of the deviation of a field of which so much is left, zero where nothing is known."""
    return torch.where(mask, torch.hypot(deviation, size).reciprocal(), 0.0)


def _moves(estimate: Estimate, trust: float) -> Tensor:
    """Return how far voxels may move before they are averaged with their neighbours, ppm."""
    return estimate.deviation * (trust**0.5 / MEAN**3)


def invert(net: UNet3d, chi: Tensor, held: Problem, *, stages: int, trust: float, refine: int) -> Estimate:
    """Alternate: the network proposes, the local field settles it, as often as it has stages.

    Parameters
    ----------
    net
        See `unrolled.propose`.
    chi
        Start, ppm, mean zero in the mask.
    held
        The problem.
    stages
        How often the network is asked.
    trust
        See `settle`.
    refine
        Iterations in which the field settles the last proposal; `FEW` times fewer those before it, and none leaves all to the network.

    Returns
    -------
    Estimate
        χ, its standard deviation, and how strange the start looked. Memory does not grow with the stages.
    """
    nothing, wrong = torch.zeros_like(chi), torch.hypot(held.noise, torch.full_like(held.noise, FLOOR))
    given = (held.field, wrong, held.mask, held.dipole)
    around, strange = LEAST, 0.0
    for more in reversed(range(stages)):
        sure, steps = asked(net, chi, held, more=more, refine=refine)
        strange = max(strange, sure.novelty)
        if more == stages - 1 and refine:  # later χ has taken up some of what was left outside
            around = remainder(sure._replace(value=chi), *given, trust=trust)
        chi = settle(sure, nothing, *given, around=around, trust=trust, iterations=steps).chi
    kept = (SURE if around > LEAST else SURER) if refine else 1.0
    return Estimate(chi, kept * sure.deviation, strange)


def asked(net: UNet3d, chi: Tensor, held: Problem, *, more: int, refine: int) -> tuple[Estimate, int]:
    """Ask the network in a stage.

    Parameters
    ----------
    net, chi, held
        See `unrolled.propose`.
    more
        How many stages follow.
    refine
        Iterations that settle the last proposal.

    Returns
    -------
    Estimate
        Its proposal, with calibrated deviations.
    int
        Iterations that settle this one.
    """
    found = propose(net, chi, held, last=not more)
    return found._replace(deviation=found.deviation * net.calibration[0]), refine // FEW if more else refine


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
