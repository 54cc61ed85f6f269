"""R2* by a fit of the decay itself."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.relaxometry._checks import CHUNK, check, give, noise_level
from paradia.scan import Scan
from paradia.types import Callback, Decay, Echoes, Mask

CITE = "10.1002/mrm.23306"

TINY = 1e-30


def nonlinear(
    magnitude: Echoes,
    mask: Mask,
    scan: Scan,
    *,
    rician: bool = False,
    maximum: float = 500.0,
    max_iter: int = 30,
    tol: float = 1e-4,
    callback: Callback | None = None,
) -> Decay:
    r"""Fit a mono-exponential decay by least squares.

    Minimises :math:`\sum_n (S_0 e^{-R_2^* TE_n} - m_n)^2` in every voxel. The height :math:`S_0` is eliminated in closed form, and the rate
    found by damped Newton-type steps from a weighted logarithmic fit.

    Parameters
    ----------
    magnitude
        Magnitude of every echo, any unit.
    mask
        Voxels to fit.
    scan
        Echo times; at least two.
    rician
        Whether to fit again with the mean that noise gives a magnitude, about :math:`\sqrt{S^2+\sigma^2}`; for weak late echoes.
    maximum
        Largest rate given, 1/s.
    max_iter
        Most steps.
    tol
        Step, relative to the reciprocal of the last echo time, at which a voxel is done.
    callback
        Called after every step of a chunk of voxels.

    Returns
    -------
    Decay
        R2* and its standard deviation, 1/s, zero outside the mask.

    Raises
    ------
    MetadataError
        Fewer than two echoes, or not as many as echo times.
    GeometryError, MaskError, NonFiniteError, InputError
        Shapes do not fit, the mask is empty, the magnitude inside it is not finite, or the maximum is not positive.

    References
    ----------
    Hernando D, et al. R2* mapping in the presence of macroscopic B0 field variations. Magn Reson Med 2012;68:830.
    https://doi.org/10.1002/mrm.23306
    """
    check("nonlinear", magnitude, mask, scan, 2, maximum)
    signal = magnitude[:, mask]
    times = torch.tensor(scan.echo_times, dtype=signal.dtype, device=signal.device)[:, None]
    rate, information, squares = _fit(signal, times, maximum, max_iter, tol, callback)
    sigma = noise_level(squares, signal.shape[0] - 2, signal[0], mask)
    if rician:
        debiased = (signal.square() - sigma.square()).clamp_min(0).sqrt()
        rate, information, squares = _fit(debiased, times, maximum, max_iter, tol, callback)
    return give(rate, sigma / information.clamp_min(TINY).sqrt(), mask, maximum)


def _fit(
    signal: Tensor, times: Tensor, maximum: float, max_iter: int, tol: float, callback: Callback | None
) -> tuple[Tensor, Tensor, Tensor]:
    parts = [_fit_part(part, times, maximum, max_iter, tol, callback) for part in signal.split(CHUNK, dim=1)]
    rate, information, squares = (torch.cat(column) for column in zip(*parts, strict=True))
    return rate, information, squares


def _fit_part(
    signal: Tensor, times: Tensor, maximum: float, max_iter: int, tol: float, callback: Callback | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Variable projection: the best height belongs to every rate, and only the rate is stepped."""
    rate = _logarithmic(signal, times).clamp(0, maximum)
    bound = 1 / float(times[-1])
    for iteration in range(1, max_iter + 1):
        decay, height, rest, information = _state(rate, signal, times)
        step = -(rest * times * decay).sum(0) * height / information.clamp_min(TINY)
        step = torch.where(height > 0, step, 0).clamp(-bound, bound)
        new = (rate + step).clamp(0, maximum)
        change = float((new - rate).abs().max()) * float(times[-1])
        rate = new
        if callback is not None:
            callback(iteration, change)
        if change < tol:
            break
    _, _, rest, information = _state(rate, signal, times)
    return rate, information, rest.square().sum(0)


def _state(rate: Tensor, signal: Tensor, times: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the decay, its best height, what is left, and the information on the rate."""
    decay = torch.exp(-times * rate)
    norm = decay.square().sum(0).clamp_min(TINY)
    height = (decay * signal).sum(0) / norm
    lean = times * decay
    projected = lean.square().sum(0) - (lean * decay).sum(0).square() / norm
    return decay, height, signal - height * decay, height.square() * projected


def _logarithmic(signal: Tensor, times: Tensor) -> Tensor:
    """Return the rate of a line through the logarithm, weighted by the squared signal."""
    weight = signal.square()
    total = weight.sum(0).clamp_min(TINY)
    value = torch.log(signal.clamp_min(1e-12 * float(signal.max()) + TINY))
    centre = (weight * times).sum(0) / total
    lever = times - centre
    return -(weight * lever * value).sum(0) / (weight * lever.square()).sum(0).clamp_min(TINY)
