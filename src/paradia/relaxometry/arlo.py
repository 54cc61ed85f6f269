"""R2* by auto-regression on linear operations (ARLO)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from paradia.relaxometry._decay import LARGEST, decay, noise_level, signals
from paradia.scan import Scan
from paradia.types import Decay, Echoes, Mask

CITE = "10.1002/mrm.25137"


def arlo(magnitude: Echoes, mask: Mask, scan: Scan) -> Decay:
    r"""Fit R2* in closed form, from what the signal loses between echoes and its integral between them.

    An exponential obeys :math:`S_0 - S_2 = R_2^* \int S\,dt`; Simpson's rule gives the integral over each three neighbouring
    echoes, and the ratio over all of them is taken so that noise on both sides is weighed.

    Parameters
    ----------
    magnitude
        Magnitudes, shape (echo, x, y, z), at least three echoes at any spacing.
    mask
        Voxels to fit.
    scan
        Echo times.

    Returns
    -------
    Decay
        R2* and its standard deviation, 1/s.

    Raises
    ------
    InputError
        Fewer than three echoes.
    MetadataError, GeometryError, MaskError
        Echo times or shapes that do not fit, or an empty mask.

    Notes
    -----
    Simpson's rule reads fast decays a little too low (0.5 % where the signal falls by 1/e from echo to echo). For equally spaced
    echoes the bias is known in closed form and taken out here, which the paper does not.

    References
    ----------
    Pei M, Nguyen TD, Thimmappa ND, et al. Magn Reson Med 2015;73:843. DOI 10.1002/mrm.25137.
    """
    signal = signals(magnitude, mask, scan, least=3, method="arlo")
    times = scan.echo_times
    with torch.enable_grad():  # the derivatives by each echo are the noise's way into the rate
        leaf = signal.detach().requires_grad_()
        rate = _rate(leaf, times)
        (slopes,) = torch.autograd.grad(rate.sum(), leaf)
    rate = rate.detach()
    at = signal.new_tensor(times)[:, None]
    shape = torch.exp(-rate.clamp(0, LARGEST) * at)
    amplitude = (signal * shape).sum(0) / shape.square().sum(0)
    sigma = noise_level(signal, amplitude * shape)
    return decay(rate, sigma * slopes.square().sum(0).sqrt(), mask)


def _rate(signal: Tensor, times: tuple[float, ...]) -> Tensor:
    """Return R2* of each column."""
    above = below = torch.zeros_like(signal[0])
    for first, (t0, t1, t2) in enumerate(zip(times, times[1:], times[2:], strict=False)):
        h0, h1 = t1 - t0, t2 - t1
        span = h0 + h1
        w0, w1, w2 = span / 6 * (2 - h1 / h0), span**3 / (6 * h0 * h1), span / 6 * (2 - h0 / h1)
        s0, s1, s2 = signal[first : first + 3]
        integral, loss, beta = w0 * s0 + w1 * s1 + w2 * s2, s0 - s2, span / 6
        above = above + loss * (integral + beta * loss)
        below = below + integral * (integral + beta * loss)
    rate = above / below.where(below > 0, torch.ones_like(below))
    spacings = [b - a for a, b in pairwise(times)]
    if max(spacings) - min(spacings) < 0.01 * min(spacings):
        rate = _without_simpsons_bias(rate, sum(spacings) / len(spacings))
    return rate


def _without_simpsons_bias(rate: Tensor, spacing: float) -> Tensor:
    """Solve 3(1 − q²) = ρ(1 + 4q + q²) for the true ratio q of neighbouring echoes, ρ being rate times spacing."""
    rho = (rate * spacing).clamp(-2.9, 2.9)  # beyond ±3 no exponential fits
    ratio = ((9 + 3 * rho.square()).sqrt() - 2 * rho) / (3 + rho)
    return -ratio.log() / spacing
