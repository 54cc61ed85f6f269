"""What both learned separations do once they know a rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from paradia.errors import InputError
from paradia.fft import Window
from paradia.grid import Grid
from paradia.nets.beginning import begin
from paradia.nets.checks import LOCAL_LIMIT, check_field, check_voxels
from paradia.nets.familiar import tell
from paradia.nets.separated import Pair, Separable, separable, separate, unmet
from paradia.nets.store import network
from paradia.nets.unrolled import centred, unexplained
from paradia.operators.dipole import Dipole
from paradia.scan import Scan, relaxivities
from paradia.separation._inputs import check_images, check_ppm
from paradia.separation._voxel import split
from paradia.sources.doubt import believed
from paradia.sources.knobs import check_count, check_not_negative
from paradia.sources.split import MARGIN
from paradia.types import Callback, LearnedSeparation

WIDEST = 0.9
"""Largest share by which the relaxivities may be varied."""


class Asked(NamedTuple):
    """The knobs of a learned separation."""

    dr_pos: float | None
    dr_neg: float | None
    stages: int
    trust: float
    refine: int
    anchor: float
    band: float


class Given(NamedTuple):
    """The data of a learned separation besides its rate, as they came."""

    local_field: Tensor
    mask: Tensor
    grid: Grid
    scan: Scan
    noise: Tensor | None
    chi: Tensor | None


def prepare(given: Given, asked: Asked, **maps: Tensor | None) -> tuple[float, float]:
    """Check all that is cheap to check, and return both relaxivities, Hz/ppm."""
    check_count(stages=asked.stages)
    check_not_negative(trust=asked.trust, refine=asked.refine)
    if not 0 <= asked.anchor <= 1:
        raise InputError(f"anchor must be a share from 0 to 1, got {asked.anchor:g}. 1 keeps the zero of χ, 0 leaves it to the network.")
    if not 0 <= asked.band <= WIDEST:
        raise InputError(f"band must be a share of the relaxivities from 0 to {WIDEST}, got {asked.band:g}. 0.2 varies them by 20 %.")
    dr = relaxivities(given.scan, asked.dr_pos, asked.dr_neg)
    check_images(given.mask, given.grid, local_field=given.local_field, **maps, noise=given.noise, chi=given.chi)
    check_ppm(given.mask, local_field=given.local_field, chi=given.chi)
    check_field(given.local_field, given.mask, "local field", LOCAL_LIMIT)
    return dr


def learned(
    name: str, given: Given, asked: Asked, rate: Tensor, rate_noise: Tensor, dr: tuple[float, float], callback: Callback | None
) -> LearnedSeparation:
    """Ask the network in turn with both equations, and write down what these and the closed form say of its answer.

    Parameters
    ----------
    name
        Of the method, for warnings.
    given
        Field and χ.
    asked
        Knobs.
    rate
        What the sources add to the relaxation rate, 1/s; negative where R2 is below the typical one that was taken off.
    rate_noise
        Its standard deviation, 1/s.
    dr
        Dr+ and Dr−, Hz/ppm.
    callback
        Told of the start of the inversion, where there is one.
    """
    mask, like = given.mask, given.local_field
    field, rate, rate_noise = (_inside(image, mask) for image in (given.local_field, rate, rate_noise))
    noise = None if given.noise is None else _inside(given.noise, mask)
    window = Window.around(mask, given.grid, MARGIN)
    net = network("sepnet", str(field.device))
    check_voxels(given.grid, net)
    if not (field.any() or (rate > 0).any()):
        empty = torch.zeros_like(like)
        band = empty if asked.band else None
        nothing = (empty, empty, empty, empty, empty, empty, empty, empty, empty)
        return LearnedSeparation(*nothing, like.new_zeros(()), band, band)
    local = window.take(field)
    known = None if noise is None else window.take(noise)
    if given.chi is None:
        chi = centred(begin(local, window.mask, window.grid, known, callback), window.mask)
    else:
        chi = window.take(_inside(given.chi, mask))
    loud = believed(local, window.mask, known)
    rates = window.take(rate), window.take(rate_noise)
    held = separable(local, chi, *rates, loud, window.mask, Dipole(window.grid).to(local), dr, given.scan.b0)

    def ask(held: Separable) -> Pair:
        return separate(net, held, stages=asked.stages, trust=asked.trust, refine=asked.refine, anchor=asked.anchor)

    found = ask(held)
    tell(found.novelty, name)
    closed = torch.stack(split(held.chi + held.zero, held.rate.clamp_min(0), *dr, 1.0)) * held.mask
    apart = (found.value - closed).square().mean(0).sqrt()
    pos, neg = found.value
    of_field, of_rate = unexplained(pos - neg, held.field, held.mask, held.dipole), unmet(found.value, held)[1]
    images = [pos, neg, *found.deviation, of_field, of_rate, *closed, apart]
    put = [*(window.put(image).to(like) for image in images), like.new_tensor(found.novelty)]
    maps = LearnedSeparation(**dict(zip(LearnedSeparation._fields, put, strict=False)))  # the bands, last, come where they are asked for
    if not asked.band:
        return maps
    wide = [window.put(image).to(like) for image in _band(ask, found, held, asked.band)]
    return maps._replace(chi_pos_band=wide[0], chi_neg_band=wide[1])


def _inside(image: Tensor, mask: Tensor) -> Tensor:
    """Return single precision, with nothing outside the mask, where there may be no numbers."""
    return torch.where(mask, image, 0.0).float()


def _band(ask: Callable[[Separable], Pair], found: Pair, held: Separable, share: float) -> Tensor:
    """Return half of the range that both maps go through while the relaxivities do, ppm."""
    factors = (1 - share, 1 + share)
    others = [ask(held._replace(dr_pos=held.dr_pos * factor, dr_neg=held.dr_neg * factor)).value for factor in factors]
    every = torch.stack([found.value, *others])
    return (every.amax(0) - every.amin(0)) / 2
