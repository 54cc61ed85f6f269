"""Which lines of k-space are sampled: masks over both phase-encoding axes, the readout being sampled fully."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from paradia.errors import InputError, UnknownNameError, nearest
from paradia.simulate._lines import distance, visit
from paradia.simulate._lines import middle as middle_of

Lines: TypeAlias = Bool[Tensor, "ky kz"]
"""Which lines are sampled; the zero frequency is at index n // 2 of each axis."""

PATTERNS = ("poisson", "uniform", "caipi")

CALIBRATION = (24, 24)
"""Lines of the middle that are sampled fully unless something else is asked for."""

FALLOFF = 2.0
"""How much larger than in the middle the distance of samples is at the edge, less one: the density falls to a ninth."""

BLUR = 0.3
"""Share by which the distance kept around each line varies at random: on a lattice distances come in few sizes, and the density
would fall in steps."""

CLOSE = 0.005
"""The search for the distance of samples ends when their number is at most this share above the wanted one."""

TOLERANCE = 0.02
"""Share of all samples that may be left out at random to meet their number; more would leave holes."""


def acceleration_of(mask: Lines) -> float:
    """Return the number of lines in all over that of the sampled ones."""
    return mask.numel() / max(int(mask.sum()), 1)


def masks(
    shape: tuple[int, int],
    echoes: int,
    acceleration: float,
    *,
    pattern: str = "poisson",
    calibration: tuple[int, int] = CALIBRATION,
    shutter: bool = True,
    each: bool = True,
    seed: int = 0,
) -> Bool[Tensor, "echo ky kz"]:
    """Choose the lines of every echo.

    Parameters
    ----------
    shape
        Lines along both phase-encoding axes.
    echoes
        Number of echoes.
    acceleration
        For ``poisson`` the number of all lines over that of the sampled ones, met within 2 %.  For ``uniform`` and ``caipi`` a whole
        number, that of the lattice: fully sampled calibration makes the net factor smaller, the shutter makes it larger.
    pattern
        ``poisson`` for a Poisson disk whose density falls outwards, ``uniform`` for every so-many-th line, ``caipi`` for the same with
        neighbouring rows shifted, so that aliases fall where there is most air between them.
    calibration
        Lines along each axis that are sampled fully in the middle.
    shutter
        Whether the corners of k-space, outside the ellipse that touches its sides, are left out.
    each
        Whether every echo of ``poisson`` has a mask of its own.
    seed
        Draws the Poisson disks.

    Returns
    -------
    Tensor
        Boolean masks (echo, ky, kz).

    Raises
    ------
    InputError
        An acceleration below 1 or beyond what the calibration or the shutter leaves.
    UnknownNameError
        A pattern that is not known.
    """
    if echoes < 1:
        raise InputError(f"there must be at least one echo, got {echoes}.")
    if pattern not in PATTERNS:
        raise UnknownNameError(f"there is no sampling pattern {pattern!r}. {nearest(pattern, PATTERNS)}")
    if pattern == "poisson":
        drawn = [
            poisson_disk(shape, acceleration, calibration=calibration, shutter=shutter, seed=seed, echo=echo)
            for echo in range(echoes if each else 1)
        ]
        return torch.stack(drawn if each else drawn * echoes)
    steps = lattice(acceleration)
    shift = 0 if pattern == "uniform" else max(1, steps[1] // 2)
    return uniform(shape, steps, shift=shift, calibration=calibration, shutter=shutter).expand(echoes, *shape).clone()


def lattice(acceleration: float) -> tuple[int, int]:
    """Divide a whole acceleration between both axes as evenly as possible, the larger factor to the second.

    Raises
    ------
    InputError
        It is no whole number from 1.
    """
    whole = round(acceleration) if math.isfinite(acceleration) else 0
    if whole < 1 or abs(whole - acceleration) > 1e-9:
        raise InputError(f"a regular pattern has a whole number as its acceleration, 1 or more, got {acceleration:g}. Try poisson.")
    first = max(n for n in range(1, math.isqrt(whole) + 1) if whole % n == 0)
    return first, whole // first


def ellipse(shape: tuple[int, int]) -> Lines:
    """Return the lines inside the ellipse that touches the sides of k-space."""
    return torch.from_numpy(distance(shape) <= 1)


def uniform(
    shape: tuple[int, int],
    steps: tuple[int, int],
    *,
    shift: int = 0,
    calibration: tuple[int, int] = CALIBRATION,
    shutter: bool = False,
) -> Lines:
    """Sample every so-many-th line along both axes, the zero frequency among them, and the middle fully.

    Parameters
    ----------
    shape
        Lines along both axes.
    steps
        Distance of the samples along each axis, lines.
    shift
        By how many lines of the second axis each sampled row of the first is shifted against the one before (CAIPIRINHA).
    calibration
        Lines along each axis that are sampled fully in the middle.
    shutter
        Whether the corners of k-space are left out.

    Raises
    ------
    InputError
        Sizes or steps that are not positive, or a calibration larger than k-space.

    References
    ----------
    Breuer FA, et al. Controlled aliasing in volumetric parallel imaging (2D CAIPIRINHA). Magn Reson Med 2006;55:549-556.
    doi:10.1002/mrm.20787.
    """
    _check(shape, calibration)
    if min(steps) < 1:
        raise InputError(f"the steps between lines must be 1 or more, got {steps}.")
    y, z = (np.arange(n) - n // 2 for n in shape)
    rows = y[:, None] % steps[0] == 0
    taken = rows & ((z[None] - shift * (y[:, None] // steps[0])) % steps[1] == 0)
    inside = distance(shape) <= 1 if shutter else np.ones(shape, bool)
    return torch.from_numpy(taken & inside | middle_of(shape, calibration))


def poisson_disk(
    shape: tuple[int, int],
    acceleration: float,
    *,
    calibration: tuple[int, int] = CALIBRATION,
    shutter: bool = True,
    falloff: float = FALLOFF,
    seed: int = 0,
    echo: int = 0,
) -> Lines:
    r"""Draw a Poisson disk whose density falls outwards, and sample the middle fully.

    Lines are visited in random order; one is taken when no line taken before lies closer than the distance
    :math:`r = s\,(1 + a\rho)\,u` of either, ρ being 0 in the middle and 1 on the ellipse that touches the sides, and u drawn for each
    line between 0.7 and 1.3.  The scale s is found by bisection so that barely too many are taken; which of them go is drawn.  Lines
    of the calibration do not count as neighbours.

    Parameters
    ----------
    shape
        Lines along both axes.
    acceleration
        Number of all lines, corners included, over that of the sampled ones.
    calibration
        Lines along each axis that are sampled fully in the middle.
    shutter
        Whether the corners of k-space are left out.
    falloff
        a of the formula.
    seed, echo
        Draw the order of the visits.

    Returns
    -------
    Tensor
        Boolean mask (ky, kz).

    Raises
    ------
    InputError
        An acceleration below 1, a shutter that leaves less than it wants, or a calibration that takes more.

    Notes
    -----
    Visiting all lines, instead of drawing candidates around the last ones, leaves no hole that another line would fit into.

    References
    ----------
    Bridson R. Fast Poisson disk sampling in arbitrary dimensions. ACM SIGGRAPH 2007 Sketches, 22. doi:10.1145/1278780.1278807.

    Vasanawala SS, et al. Practical parallel imaging compressed sensing MRI. Proc IEEE ISBI 2011, 1039-1043.
    doi:10.1109/ISBI.2011.5872579.
    """
    return _poisson_disk(shape, acceleration, calibration, shutter, falloff, seed, echo)[0]


def _poisson_disk(
    shape: tuple[int, int],
    acceleration: float,
    calibration: tuple[int, int],
    shutter: bool,
    falloff: float,
    seed: int,
    echo: int,
) -> tuple[Tensor, NDArray[np.float32]]:
    """Return the mask, and the distance that holds around each line."""
    _check(shape, calibration)
    wanted = _wanted(shape, acceleration)
    if not (falloff >= 0 and math.isfinite(falloff)):
        raise InputError(f"the falloff must be zero or more, got {falloff}.")
    rho, middle = distance(shape), middle_of(shape, calibration)
    inside = rho <= 1 if shutter else np.ones(shape, bool)
    if wanted > int((inside | middle).sum()):
        raise InputError(
            f"the elliptical shutter alone gives an acceleration of {inside.size / (inside | middle).sum():.2f}, and {acceleration:g} was "
            "asked for. Ask for more, or sample the corners too."
        )
    rest = wanted - int(middle.sum())
    if rest < 0:
        raise InputError(
            f"an acceleration of {acceleration:g} leaves {wanted} of {inside.size} lines, fewer than the {int(middle.sum())} of the "
            f"calibration {calibration[0]} × {calibration[1]}. Ask for less, or for a smaller calibration."
        )
    generator = np.random.default_rng([seed, echo])
    places = generator.permutation(np.argwhere(inside & ~middle))
    blur = 1 + BLUR * generator.uniform(-1, 1, shape)
    profile = (blur * (1 + falloff * rho)).astype(np.float32)
    low, high = 0.2, max(shape) / 2.0  # the first takes every line, the second next to none
    taken, scale = places, low
    for _ in range(40):
        if len(taken) - rest <= CLOSE * wanted or high - low < 1e-4:
            break
        trial = math.sqrt(low * high)
        found = visit(places, profile * trial, shape)
        if len(found) >= rest:
            low, taken, scale = trial, found, trial
        else:
            high = trial
    if len(taken) - rest > TOLERANCE * wanted:
        raise InputError(f"no distance of samples gives an acceleration of {acceleration:g} with a falloff of {falloff:g}. Ask for more.")
    drawn = generator.permutation(len(taken))
    sparse = (profile * scale)[taken[drawn, 0], taken[drawn, 1]] > 1
    kept = taken[drawn[np.argsort(sparse, kind="stable")][:rest]]  # where every line is taken none is left out, if that can be
    mask = middle.copy()
    mask[kept[:, 0], kept[:, 1]] = True
    return torch.from_numpy(mask), profile * scale


def _wanted(shape: tuple[int, int], acceleration: float) -> int:
    """Return how many lines an acceleration leaves."""
    if not (math.isfinite(acceleration) and acceleration >= 1):
        raise InputError(f"the acceleration must be 1 or more, got {acceleration:g}. 1 samples everything.")
    wanted = round(shape[0] * shape[1] / acceleration)
    if wanted < 1:
        raise InputError(f"an acceleration of {acceleration:g} leaves none of the {shape[0]} × {shape[1]} lines. Ask for less.")
    return wanted


def _check(shape: tuple[int, int], calibration: tuple[int, int]) -> None:
    if min(shape) < 1:
        raise InputError(f"k-space has positive sizes, got {shape[0]} × {shape[1]} lines.")
    if min(calibration) < 0 or any(c > n for c, n in zip(calibration, shape, strict=True)):
        raise InputError(
            f"the calibration must lie inside the {shape[0]} × {shape[1]} lines, got {calibration[0]} × {calibration[1]}. "
            "Take a smaller one."
        )
