"""Networks in turn with the data: each proposes, with a standard deviation; the field decides where it can."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from paradia.fft import Window
from paradia.grid import Grid
from paradia.nets.familiar import belief, novelty
from paradia.nets.features import FIELD, background_channels, gain, inversion_channels, spread
from paradia.nets.unet import UNet3d
from paradia.nets.windows import apply, ask
from paradia.operators.dipole import Dipole

LEAST = 1e-3
"""Least unit of what the network sees, as a share of the start's root mean square: where most of the start is exactly flat."""

NOTHING = 1e-9
"""Least unit, ppm, so that a start that is flat is divided by something."""

FLOOR = 1e-3
"""Least standard deviation of a field, ppm: what the model leaves out."""


class Estimate(NamedTuple):
    """A map and how far to trust it."""

    value: Tensor
    """ppm, zero outside the mask."""
    deviation: Tensor
    """Standard deviation, ppm, zero outside the mask."""
    novelty: float = 0.0
    """See `familiar.novelty`."""


class Problem(NamedTuple):
    """A local field in its window, as the network works on it."""

    field: Tensor
    """ppm, free of what the start leaves of it in the mean, zero outside the mask."""
    mask: Tensor
    noise: Tensor
    """ppm, zero outside the mask, infinite where unknown."""
    dipole: Dipole
    scale: Tensor
    """Robust standard deviation of the start's susceptibility, ppm: the unit of all that the network sees."""


def problem(field: Tensor, start: Tensor, mask: Tensor, noise: Tensor, grid: Grid) -> tuple[Problem, Tensor]:
    """Bring a field and a start into the network's form.

    Parameters
    ----------
    field
        Local field in a window, ppm.
    start
        Susceptibility to begin with, ppm.
    mask
        Voxels where both hold.
    noise
        Standard deviation of the field, ppm; infinite where unknown.
    grid
        Of the window.

    Returns
    -------
    Problem
        What stays the same from stage to stage.
    Tensor
        The start with a mean of zero in the mask.
    """
    dipole, chi = Dipole(grid).to(field), centred(start, mask)
    inside, loud = evened(field, chi, mask, noise, dipole), torch.where(mask, noise, 0.0)
    return Problem(inside, mask, loud, dipole, unit_of(start, mask)), chi


def evened(field: Tensor, chi: Tensor, mask: Tensor, noise: Tensor, dipole: Dipole) -> Tensor:
    """Take what χ leaves of a field in the mean off it: a background removal leaves a constant of a few ppb.

    Where the noise is unknown the field may be anything: there it is that of χ, of which a network makes nothing new.
    """
    made, known = dipole(chi), mask & noise.isfinite()
    left = (field - made)[known]
    return torch.where(mask, torch.where(known, field - left.mean(), made) if len(left) else field, 0.0)


def unit_of(start: Tensor, mask: Tensor) -> Tensor:
    """Return `spread`, held above zero where more than half of the start, or all of it, is one value."""
    centre = start[mask] - start[mask].mean()
    return spread(start, mask).maximum(LEAST * centre.square().mean().sqrt()).clamp_min(NOTHING)


def centred(image: Tensor, mask: Tensor) -> Tensor:
    """Take the mean over the mask away: the field does not know it."""
    return (image - image[mask].mean()) * mask


def propose(net: UNet3d, chi: Tensor, held: Problem, *, last: bool = True) -> Estimate:
    """Ask the network for a better susceptibility.

    Parameters
    ----------
    net
        From the six channels of `inversion_channels` to a change of χ and the logarithm of its standard deviation.
    chi
        Susceptibility so far, ppm, mean zero in the mask.
    held
        The problem.
    last
        Whether its word is the last: then it is asked twice, so that no lattice remains; see `windows.ask`.

    Returns
    -------
    Estimate
        χ, mean zero in the mask.
    """
    channels = inversion_channels(held.field, chi, held.mask, held.noise, held.dipole, held.scale)
    answer = ask(net, channels) if last else apply(net, channels)
    strange = novelty(net, channels, held.mask)
    unit = held.scale * gain(chi / held.scale)
    deviation = unit * answer[1].clamp(-6, 3).exp() * held.mask
    return Estimate(centred(chi + belief(strange) * unit * answer[0], held.mask), deviation, strange)


def unexplained(chi: Tensor, field: Tensor, mask: Tensor, dipole: Dipole) -> Tensor:
    """Return what χ leaves of the field, ppm: the mean of χ, which nobody knows, taken as the field would have it."""
    left = (field - dipole(chi)) * mask
    body = dipole(mask.to(chi)) * mask
    size = body.square().sum()
    return left - body * ((left * body).sum() / size.clamp_min(torch.finfo(size.dtype).tiny))


def clear(net: UNet3d, total: Tensor, local: Tensor, chi: Tensor, rest: Tensor, noise: Tensor, window: Window) -> Estimate:
    """Ask the network for a better local field.

    Parameters
    ----------
    net
        From the seven channels of `background_channels` to a change of the local field and the logarithm of its deviation.
    total
        Total field in the window, ppm.
    local
        Local field so far, ppm.
    chi
        The susceptibility that makes it, ppm.
    rest
        What the fit leaves of the total field, ppm.
    noise
        Standard deviation of the total field, ppm; infinite where unknown.
    window
        Where they live.

    Returns
    -------
    Estimate
        Local field.
    """
    mask, scale = window.mask, unit_of(chi, window.mask)
    chi, known = centred(chi, mask), noise.isfinite()
    total, rest = torch.where(known, total, total - rest), torch.where(known, rest, 0.0)  # unknown is what the fit makes of it
    whole, share, loud = (torch.where(mask, image, 0.0) for image in (total, local, noise))
    channels = background_channels(whole, share, chi, rest, mask, loud, window.grid, scale)
    answer = ask(net, channels)
    strange = novelty(net, channels, mask)
    unit = scale / FIELD * gain(FIELD * local / scale)
    deviation = unit * answer[1].clamp(-6, 3).exp() * mask
    return Estimate((local + belief(strange) * unit * answer[0]) * mask, deviation * net.calibration[0], strange)
