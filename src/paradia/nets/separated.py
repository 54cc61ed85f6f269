"""Iron apart from myelin: a network in turn with both equations, field and relaxation."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from paradia.nets.familiar import belief, novelty
from paradia.nets.features import FIELD, gain, loudness, squash
from paradia.nets.unet import UNet3d
from paradia.nets.unrolled import FLOOR, LEAST, centred, evened, unit_of
from paradia.nets.windows import ask
from paradia.operators.dipole import Dipole
from paradia.solvers.cg import cg

TRUST = 0.1
"""Weight of both equations in the data steps: less than one, since errors are neither white nor all known; chosen on validation volumes."""

ITERATIONS = 8
"""Of conjugate gradients in a data step: more do not change what the network sees."""

TYPICAL_R2 = 13.0
"""R2 of brain tissue at 3 T, 1/s, where nobody measured it; it grows with the square root of B0."""

R2_SPREAD = 0.25
"""Share of the typical R2 by which that of a voxel differs."""

LIFT = 0.3
"""Added to centred χ before the first guess, as a share of its scale: brain tissue holds a little more iron than myelin."""

ROUNDS = 4
"""Of shifts until a mean is right: each leaves what it cut at zero."""

ANCHOR = 0.5
"""How far the zero of both maps is that of the reference. A brain's mean is some ppb above tissue without sources, which the network
reads off the rates, a few ppb off as well; half of the way is best on the heads of the benchmark."""

RATE_ERROR = 0.3
"""Share by which a rate is wrong beside its noise: relaxivities that differ with fibres and cells, R2 of another scan. A choice."""


class Separable(NamedTuple):
    """What is known of a volume, as the network works on it."""

    field: Tensor
    """Local field, ppm, zero outside the mask."""
    chi: Tensor
    """Total susceptibility, ppm, mean zero in the mask."""
    zero: Tensor
    """Mean that χ came with, ppm, as the reference step chose it: no field tells it."""
    rate: Tensor
    """R2′, or R2* less the typical R2, 1/s; the latter is negative where R2 is less than that."""
    rate_noise: Tensor
    """Its standard deviation, 1/s; infinite where unknown."""
    noise: Tensor
    """Of the field, ppm; infinite where unknown."""
    mask: Tensor
    dipole: Dipole
    scale: Tensor
    """`unrolled.unit_of` χ, ppm, or what the rates say where χ is flat."""
    dr_pos: float
    """Relaxivity of paramagnetic sources, Hz/ppm."""
    dr_neg: float
    b0: float
    """T."""


class Pair(NamedTuple):
    """Both maps and how far to trust them. All ppm, (2, x, y, z), paramagnetic first."""

    value: Tensor
    deviation: Tensor
    novelty: float = 0.0
    """See `familiar.novelty`."""


def separable(
    field: Tensor,
    chi: Tensor,
    rate: Tensor,
    rate_noise: Tensor,
    noise: Tensor,
    mask: Tensor,
    dipole: Dipole,
    dr: tuple[float, float],
    b0: float,
) -> Separable:
    """Collect what is known; see `Separable`."""
    zero = chi[mask].mean()
    chi = centred(chi, mask)
    whole = rate[mask].square().mean().sqrt() / (sum(dr) / 2)
    scale = unit_of(chi, mask).maximum(LEAST * whole)
    field = evened(field, chi, mask, noise, dipole)
    rate, rate_noise, noise = (torch.where(mask, image, 0.0) for image in (rate, rate_noise, noise))
    return Separable(field, chi, zero, rate, rate_noise, noise, mask, dipole, scale, *dr, b0)


def less_typical(r2star: Tensor, noise: Tensor, b0: float) -> tuple[Tensor, Tensor]:
    """Return R2* less the typical R2 and its standard deviation, both 1/s: negative in fluid and plaques, which tells the network so."""
    typical = TYPICAL_R2 * math.sqrt(b0 / 3)
    return r2star - typical, torch.hypot(noise, torch.as_tensor(R2_SPREAD * typical).to(noise))


def guess(held: Separable) -> Float[Tensor, "2 x y z"]:
    """Solve both equations voxel by voxel and cut what is negative; a rate below zero is none.

    Returns
    -------
    Tensor
        χ+ and χ−, ppm.
    """
    chi = held.chi + LIFT * held.scale
    rate = held.rate.clamp_min(0)
    pos = ((rate + held.dr_neg * chi) / (held.dr_pos + held.dr_neg)).clamp_min(0)
    neg = ((rate - held.dr_pos * chi) / (held.dr_pos + held.dr_neg)).clamp_min(0)
    return torch.stack([pos, neg]) * held.mask


def separation_channels(pair: Tensor, held: Separable) -> Float[Tensor, "10 x y z"]:
    """Show both maps so far, what they leave of both equations, and the conditions of the scan.

    Parameters
    ----------
    pair
        χ+ and χ− so far, ppm, (2, x, y, z).
    held
        What is known.

    Returns
    -------
    Tensor
        χ+, χ−, χ, the field, the rate, what is left of the field and of the rate, both noises: in units of `scale`, squashed;
        and the logarithms of the field strength over 3 T and of the ratio of both relaxivities, as one sum.
    """
    mean = (held.dr_pos + held.dr_neg) / 2
    of_field, of_rate = unmet(pair, held)
    rows = [*pair, held.chi, FIELD * held.field, held.rate / mean, 3 * FIELD * of_field, of_rate / mean]
    seen = squash(torch.stack(rows) / held.scale)
    noises = (held.rate_noise / mean, FIELD * held.noise)
    loud = torch.stack([loudness(noise, held.scale, held.mask) for noise in noises])
    constant = torch.full_like(held.chi, math.log(held.b0 / 3) + math.log(held.dr_pos / held.dr_neg))
    return torch.cat([seen, loud, constant[None]]) * held.mask


def propose(net: UNet3d, pair: Tensor, held: Separable) -> Pair:
    """Ask the network for better maps; they stay at zero or above, and near those so far where these look strange to it."""
    channels = separation_channels(pair, held)
    answer = ask(net, channels)
    strange = novelty(net, channels, held.mask)
    unit = held.scale * gain(pair / held.scale)
    value = (pair + belief(strange) * unit * answer[:2]).clamp_min(0) * held.mask
    return Pair(value, unit * answer[2:4].clamp(-6, 3).exp() * held.mask, strange)


def consult(proposal: Pair, held: Separable, trust: float, iterations: int = ITERATIONS) -> Float[Tensor, "2 x y z"]:
    r"""Let both equations correct a proposal where they can tell better.

    .. math:: \arg\min_{p,n}\; t\|\sigma^{-1}M(f - D(p - n))\|^2 + t\|\rho^{-1}(R - D_r^+ p - D_r^- n)\|^2
              + \|(p - z_+)/\tau_+\|^2 + \|(n - z_-)/\tau_-\|^2

    by a few conjugate gradients from the proposal z with its deviations τ; what comes out negative is cut. The rate's doubt ρ is its noise
    and `RATE_ERROR` of itself.

    Parameters
    ----------
    proposal
        z and τ.
    held
        Field, rate and their noises.
    trust
        t.
    iterations
        Of conjugate gradients.

    Returns
    -------
    Tensor
        χ+ and χ−, ppm.
    """
    weight = torch.where(held.mask, trust / (held.noise.square() + FLOOR**2), 0.0)
    floor = 0.02 * (held.dr_pos + held.dr_neg) / 2 * held.scale
    wrong = held.rate_noise.square() + floor.square() + (RATE_ERROR * held.rate).square()
    certain = torch.where(held.mask, trust / wrong, 0.0)
    size, (z_pos, z_neg) = proposal.deviation, proposal.value

    def back(of_field: Tensor, of_rate: Tensor) -> Tensor:
        drawn = held.dipole(weight * of_field)
        pulled = certain * of_rate
        return size * torch.stack([drawn + held.dr_pos * pulled, held.dr_neg * pulled - drawn])

    def normal(u: Tensor) -> Tensor:
        pos, neg = size * u
        return u + back(held.dipole(pos - neg), held.dr_pos * pos + held.dr_neg * neg)

    right = back(held.field - held.dipole(z_pos - z_neg), held.rate - held.dr_pos * z_pos - held.dr_neg * z_neg)
    change = cg(normal, right, max_iter=iterations, tol=1e-3).x
    return (proposal.value + size * change).clamp_min(0) * held.mask


def separate(net: UNet3d, held: Separable, *, stages: int, trust: float, refine: int = 0, anchor: float = ANCHOR) -> Pair:
    """Alternate network and equations, beginning with `guess`.

    The deviations are multiplied by the network's calibration, which was found on held-out volumes.

    Parameters
    ----------
    net
        See `propose`.
    held
        What is known.
    stages
        How often the network is asked.
    trust
        See `consult`.
    refine
        Conjugate gradients of a data step after the last proposal; none leaves the last word to the network.
    anchor
        See `grounded`.

    Returns
    -------
    Pair
        Both maps, their deviations, and how strange the first guess looked.
    """
    pair = propose(net, guess(held), held)
    strange = pair.novelty
    for _ in range(stages - 1):
        pair = propose(net, consult(pair, held, trust), held)
    value = grounded(consult(pair, held, trust, refine) if refine else pair.value, held, anchor)
    factors = torch.tensor(net.calibration).to(value)[:, None, None, None]
    return Pair(value, pair.deviation * factors, strange)


def grounded(pair: Tensor, held: Separable, anchor: float) -> Float[Tensor, "2 x y z"]:
    """Shift both maps by as much in turn, without going below zero, towards the mean that χ came with.

    Parameters
    ----------
    pair
        χ+ and χ−, ppm.
    held
        Tells that mean.
    anchor
        Share of the way that their difference goes there: 1 keeps the zero of χ, 0 that of the pair.

    Returns
    -------
    Tensor
        χ+ and χ−, ppm.
    """
    aim = torch.lerp((pair[0] - pair[1])[held.mask].mean(), held.zero, anchor)
    for _ in range(ROUNDS):
        off = (pair[0] - pair[1])[held.mask].mean() - aim
        pair = torch.stack([pair[0] - off / 2, pair[1] + off / 2]).clamp_min(0) * held.mask
    return pair


def unmet(pair: Tensor, held: Separable) -> tuple[Tensor, Tensor]:
    """Return what two maps leave of the field, ppm, and of the rate, 1/s."""
    pos, neg = pair
    field = (held.field - held.dipole(pos - neg)) * held.mask
    return field, (held.rate - held.dr_pos * pos - held.dr_neg * neg) * held.mask
