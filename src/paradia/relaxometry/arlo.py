"""R2* in closed form, by autoregression on integrals of the decay."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.relaxometry._checks import CHUNK, check, give, measured, noise_level, signals
from paradia.relaxometry._decay import TINY, state
from paradia.scan import Scan
from paradia.types import Decay, Echoes, Mask

CITE = "10.1002/mrm.25137"

LEAST = 1.0
"""Rate, 1/s, below which the rule needs no correction."""


def arlo(magnitude: Echoes, mask: Mask, scan: Scan, *, maximum: float = 500.0) -> Decay:
    r"""Fit a mono-exponential decay by autoregression on linear operations.

    For each three neighbouring echoes, the integral of the decay :math:`y=\int S\,dt` (Simpson's rule, for any spacing) and its difference
    :math:`x=S_0-S_2` obey :math:`x=R_2^*y`; so :math:`R_2^*=\sum(xy+\beta x^2)/\sum(y^2+\beta xy)` with :math:`\beta` one third of the
    spacing.

    Parameters
    ----------
    magnitude
        Magnitude of every echo, any unit. An echo that is zero in a voxel was not measured there; with two left their ratio tells the rate,
        with fewer the deviation is that of a guess.
    mask
        Voxels to fit.
    scan
        Echo times; at least three.
    maximum
        Largest rate given, 1/s.

    Returns
    -------
    Decay
        R2* and its standard deviation, 1/s, zero outside the mask.

    Raises
    ------
    MetadataError
        Fewer than three echoes, or not as many as echo times.
    GeometryError, MaskError, NonFiniteError, InputError
        Shapes do not fit, the mask is empty, the magnitude inside it is not finite, or the maximum is not positive.

    Notes
    -----
    Simpson's rule on an exponential is good to :math:`(R_2^*\Delta TE)^4/180`, and worse with unequal spacing. Differs from the publication
    in that the error of the rule is computed for the rate first found and taken off. Noise biases rates with little signal at the last
    echoes; the nonlinear fit is less affected.

    References
    ----------
    Pei M, et al. Algorithm for fast monoexponential fitting based on auto-regression on linear operations (ARLO) of data. Magn Reson Med
    2015;73:843. https://doi.org/10.1002/mrm.25137
    """
    check("arlo", magnitude, mask, scan, 3, maximum)
    signal = signals(magnitude, mask)
    times = torch.tensor(scan.echo_times, dtype=torch.float64)
    there = signal > 0
    whole = there.all(0)
    rate, leverage, squares = _fit(signal, times, maximum)
    if not bool(whole.all()):
        echoes, which = torch.unique(there[:, ~whole], dim=1, return_inverse=True)
        places = (~whole).nonzero().flatten()
        for kind, seen in enumerate(echoes.T.cpu()):
            place = places[which == kind]
            found = _fit(signal[seen.to(signal.device)][:, place], times[seen], maximum)
            for image, part in zip((rate, leverage, squares), found, strict=True):
                image[place] = part
    sigma = noise_level(squares, *measured(signal, 2), mask)
    return Decay(*give(rate, sigma * leverage, mask, maximum))


def _fit(signal: Tensor, times: Tensor, maximum: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rate, its deviation for noise of one unit, and the squares of what is left; of two echoes by the ratio of both."""
    if len(times) < 2:
        return torch.zeros_like(signal.sum(0)), torch.full_like(signal.sum(0), torch.inf), torch.zeros_like(signal.sum(0))
    if len(times) == 2:
        apart = float(times[1] - times[0])
        return (signal[0] / signal[1]).log() / apart, signal.reciprocal().norm(dim=0) / apart, torch.zeros_like(signal[0])
    area, drop, beta = (part.to(signal) for part in _integrals(times))
    parts = [_fit_part(part, times, area, drop, beta, maximum) for part in signal.split(CHUNK, dim=1)]
    rate, leverage, squares = (torch.cat(column) for column in zip(*parts, strict=True))
    return rate, leverage, squares


def _fit_part(part: Tensor, times: Tensor, area: Tensor, drop: Tensor, beta: Tensor, maximum: float) -> tuple[Tensor, Tensor, Tensor]:
    y, x = area @ part, drop @ part
    numerator = (x * y + beta * x.square()).sum(0)
    denominator = (y.square() + beta * x * y).sum(0).clamp_min(torch.finfo(part.dtype).tiny)
    first = (numerator / denominator).clamp(LEAST, maximum)
    y = y * _correction(first, times.to(part), area)
    denominator = (y.square() + beta * x * y).sum(0).clamp_min(torch.finfo(part.dtype).tiny)
    rate = (x * y + beta * x.square()).sum(0) / denominator
    slope = drop.T @ (y + 2 * beta * x) + area.T @ x - rate * (area.T @ (2 * y + beta * x) + drop.T @ (beta * y))
    leverage = (slope / denominator).square().sum(0).sqrt()
    return rate, leverage, _left(rate.clamp(0, maximum), part, times.to(part)[:, None])


def _left(rate: Tensor, part: Tensor, times: Tensor) -> Tensor:
    """Return the squares that the least-squares decay next to a rate leaves: those of this rate are more than noise where it is not."""
    decay, height, rest, information = state(rate, part, times, None)
    pull = height * (rest * times * decay).sum(0)
    return (rest.square().sum(0) - pull.square() / information.clamp_min(TINY)).clamp_min(0)


def _correction(rate: Tensor, times: Tensor, area: Tensor) -> Tensor:
    """Return the ratio of the integral of a decay to what the rule makes of it."""
    decay = torch.exp(-times[:, None] * rate)
    return (decay[:-2] - decay[2:]) / (rate * (area @ decay))


def _integrals(times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the matrices that give the integral and the difference over each three echoes, and the weights β."""
    count = len(times) - 2
    area, drop = torch.zeros(count, len(times), dtype=times.dtype), torch.zeros(count, len(times), dtype=times.dtype)
    for i in range(count):
        h, k = times[i + 1] - times[i], times[i + 2] - times[i + 1]
        whole = h + k
        area[i, i] = whole * (2 * h - k) / (6 * h)
        area[i, i + 1] = whole**3 / (6 * h * k)
        area[i, i + 2] = whole * (2 * k - h) / (6 * k)
        drop[i, i], drop[i, i + 2] = 1, -1
    beta = (times[2:] - times[:-2]) / 6
    return area, drop, beta[:, None]
