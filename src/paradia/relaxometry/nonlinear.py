"""R2* by nonlinear least squares."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.relaxometry._decay import LARGEST, decay, noise_level, signals
from paradia.scan import Scan
from paradia.types import Decay, Echoes, Mask

CITE = "10.1002/mrm.1910060305"

CHUNK = 1 << 15
"""Voxels fitted at a time: few enough to stay in the processor's cache."""


def nonlinear(
    magnitude: Echoes,
    mask: Mask,
    scan: Scan,
    *,
    rician: bool = True,
    max_iter: int = 12,
    tol: float = 1e-4,
) -> Decay:
    r"""Fit :math:`\sqrt{A^2 e^{-2 R_2^* t} + \sigma^2}` to the magnitudes by damped Gauss–Newton steps.

    The noise raises the magnitude of weak echoes; with the floor :math:`\sigma` in the model it does not pass for slow decay.

    Parameters
    ----------
    magnitude
        Magnitudes, shape (echo, x, y, z), at least two echoes.
    mask
        Voxels to fit.
    scan
        Echo times.
    rician
        Model the noise floor; needs three echoes, from which its level is told.
    max_iter
        Steps at most.
    tol
        Relative change of R2* below which a voxel is done.

    Returns
    -------
    Decay
        R2* and its standard deviation, 1/s; with two echoes the deviation cannot be told and is zero.

    Raises
    ------
    InputError
        Fewer than two echoes.
    MetadataError, GeometryError, MaskError
        Echo times or shapes that do not fit, or an empty mask.

    References
    ----------
    Gudbjartsson H, Patz S. Magn Reson Med 1995;34:910, on the noise of magnitudes. DOI 10.1002/mrm.1910340618.
    """
    signal = signals(magnitude, mask, scan, least=2, method="nonlinear")
    scale = signal.amax()
    if scale == 0:
        return decay(signal[0] * 0, signal[0] * 0, mask)
    signal = signal / scale
    times = signal.new_tensor(scan.echo_times)[:, None]
    amplitude, rate = _in_chunks(signal, times, signal.new_zeros(()), max_iter, tol)
    sigma = noise_level(signal, amplitude * torch.exp(-rate * times))
    if rician and sigma > 0:
        amplitude, rate = _in_chunks(signal, times, sigma, max_iter, tol)
        sigma = noise_level(signal, _model(amplitude, rate, times, sigma)[0])
    return decay(rate, sigma * _deviation(amplitude, rate, times, sigma if rician else sigma * 0), mask)


def _in_chunks(signal: Tensor, times: Tensor, floor: Tensor, max_iter: int, tol: float) -> tuple[Tensor, Tensor]:
    fits = [_fit(part, times, floor, max_iter, tol) for part in signal.split(CHUNK, dim=1)]
    return torch.cat([a for a, _ in fits]), torch.cat([r for _, r in fits])


def _fit(signal: Tensor, times: Tensor, floor: Tensor, max_iter: int, tol: float) -> tuple[Tensor, Tensor]:
    """Fit amplitude and rate of each column, from the weighted log-linear fit on."""
    amplitude, rate = _log_linear(signal, times)
    damping = torch.full_like(rate, 1e-3)
    model, by_amplitude, by_rate = _model(amplitude, rate, times, floor)
    cost = (signal - model).square().sum(0)
    for _ in range(max_iter):
        left = signal - model
        aa, ar, rr = by_amplitude.square().sum(0), (by_amplitude * by_rate).sum(0), by_rate.square().sum(0)
        ga, gr = (by_amplitude * left).sum(0), (by_rate * left).sum(0)
        aa, rr = aa * (1 + damping), rr * (1 + damping)
        determinant = (aa * rr - ar.square()).clamp_min(1e-30)
        step = (aa * gr - ar * ga) / determinant
        new_amplitude = amplitude + (rr * ga - ar * gr) / determinant
        new_rate = (rate + step).clamp(0, LARGEST)
        trial = _model(new_amplitude, new_rate, times, floor)
        new_cost = (signal - trial[0]).square().sum(0)
        better = new_cost <= cost
        damping = torch.where(better, damping * 0.2, damping * 10)
        settled = ((new_rate - rate).abs() <= tol * rate.clamp_min(1.0)) | ~better & (damping > 1e3)
        amplitude, rate, cost = (
            torch.where(better, new, old) for new, old in ((new_amplitude, amplitude), (new_rate, rate), (new_cost, cost))
        )
        if settled.all():
            break
        model, by_amplitude, by_rate = _model(amplitude, rate, times, floor)
    return amplitude, rate


def _log_linear(signal: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a line to the logarithm, each echo weighted by its square: the start."""
    weight = signal.square()
    log = signal.clamp_min(1e-6).log()
    total = weight.sum(0).clamp_min(1e-12)
    mean_time, mean_log = (weight * times).sum(0) / total, (weight * log).sum(0) / total
    centred = times - mean_time
    slope = (weight * centred * (log - mean_log)).sum(0) / (weight * centred.square()).sum(0).clamp_min(1e-12)
    rate = (-slope).clamp(0, LARGEST)
    return (mean_log + rate * mean_time).exp(), rate


def _model(amplitude: Tensor, rate: Tensor, times: Tensor, floor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the magnitudes and their derivatives by amplitude and rate."""
    shape = torch.exp(-rate * times)
    bare = amplitude * shape
    seen = (bare.square() + floor.square()).sqrt() if floor > 0 else bare
    share = bare / seen.clamp_min(1e-12) if floor > 0 else 1.0
    return seen, share * shape, -share * bare * times


def _deviation(amplitude: Tensor, rate: Tensor, times: Tensor, floor: Tensor) -> Tensor:
    """Return the standard deviation of the rate for noise of one, from the Fisher information."""
    _, by_amplitude, by_rate = _model(amplitude, rate, times, floor)
    aa, ar, rr = by_amplitude.square().sum(0), (by_amplitude * by_rate).sum(0), by_rate.square().sum(0)
    return (aa / (aa * rr - ar.square()).clamp_min(1e-30)).sqrt()
