"""The batched fit of a decay that the nonlinear methods share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from paradia.relaxometry._checks import CHUNK, give, measured, noise_level, signals
from paradia.scan import Scan
from paradia.types import Callback, Decay

TINY = 1e-30


def fit(
    magnitude: Tensor,
    mask: Tensor,
    scan: Scan,
    factor: Tensor | None,
    *,
    rician: bool,
    maximum: float,
    max_iter: int,
    tol: float,
    callback: Callback | None,
) -> Decay:
    """Fit height and rate of a decay, times a known factor of every echo and voxel of the mask, by least squares.

    An echo without a signal in a voxel was not measured there, and is left out.
    """
    signal = signals(magnitude, mask)
    there = signal > 0
    if not bool(there.all()):
        factor = there.to(signal) if factor is None else factor * there
    times = torch.tensor(scan.echo_times, dtype=signal.dtype, device=signal.device)[:, None]
    rate, information, squares = _fit(signal, times, factor, maximum, max_iter, tol, callback)
    sigma = noise_level(squares, *measured(signal, 2), mask)
    if rician:
        debiased = (signal.square() - sigma.square()).clamp_min(0).sqrt()
        rate, information, squares = _fit(debiased, times, factor, maximum, max_iter, tol, callback)
    known = there.sum(0) > 1
    noise = torch.where(known, sigma / information.clamp_min(TINY).sqrt(), torch.inf)
    return Decay(*give(rate * known, noise, mask, maximum))


def _fit(
    signal: Tensor, times: Tensor, factor: Tensor | None, maximum: float, max_iter: int, tol: float, callback: Callback | None
) -> tuple[Tensor, Tensor, Tensor]:
    signals = signal.split(CHUNK, dim=1)
    factors: Sequence[Tensor | None] = [None] * len(signals) if factor is None else factor.split(CHUNK, dim=1)
    parts = [_fit_part(s, times, f, maximum, max_iter, tol, callback) for s, f in zip(signals, factors, strict=True)]
    rate, information, squares = (torch.cat(column) for column in zip(*parts, strict=True))
    return rate, information, squares


def _fit_part(
    signal: Tensor, times: Tensor, factor: Tensor | None, maximum: float, max_iter: int, tol: float, callback: Callback | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Variable projection: the best height belongs to every rate, and only the rate is stepped."""
    rate = _logarithmic(signal, times, factor).clamp(0, maximum)
    bound = 1 / float(times[-1])
    for iteration in range(1, max_iter + 1):
        decay, height, rest, information = state(rate, signal, times, factor)
        step = -(rest * times * decay).sum(0) * height / information.clamp_min(TINY)
        step = torch.where(height > 0, step, 0).clamp(-bound, bound)
        new = (rate + step).clamp(0, maximum)
        change = float((new - rate).abs().max()) * float(times[-1])
        rate = new
        if callback is not None:
            callback(iteration, change)
        if change < tol:
            break
    _, _, rest, information = state(rate, signal, times, factor)
    return rate, information, rest.square().sum(0)


def state(rate: Tensor, signal: Tensor, times: Tensor, factor: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the decay with a rate, its best height, what is left of the signal, and the information on the rate.

    Parameters
    ----------
    rate
        1/s, shape (voxel,).
    signal
        Shape (echo, voxel).
    times
        Echo times, s, shape (echo, 1).
    factor
        By what each echo is weakened besides, shape (echo, voxel).
    """
    decay = torch.exp(-times * rate)
    if factor is not None:
        decay = decay * factor
    norm = decay.square().sum(0).clamp_min(TINY)
    height = (decay * signal).sum(0) / norm
    lean = times * decay
    projected = lean.square().sum(0) - (lean * decay).sum(0).square() / norm
    return decay, height, signal - height * decay, height.square() * projected


def _logarithmic(signal: Tensor, times: Tensor, factor: Tensor | None) -> Tensor:
    """Return the rate of a line through the logarithm, weighted by the squared signal."""
    weight = signal.square()
    total = weight.sum(0).clamp_min(TINY)
    value = torch.log(signal.clamp_min(1e-12 * float(signal.max()) + TINY))
    if factor is not None:  # where it is zero the weight is too
        value = value - torch.log(factor.clamp_min(0.05))
    centre = (weight * times).sum(0) / total
    lever = times - centre
    return -(weight * lever * value).sum(0) / (weight * lever.square()).sum(0).clamp_min(TINY)
