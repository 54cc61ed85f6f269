"""Coils combined after the phase that each adds has been taken out (MCPC-3D-S)."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.combine._checks import check
from paradia.combine._lattice import SLAB, combined, lattice, pool, smooth
from paradia.combine._whitening import mix, whitener
from paradia.errors import InputError, MetadataError
from paradia.grid import Grid
from paradia.scan import Scan
from paradia.solvers.continuation import continue_phase
from paradia.solvers.pieces import medians
from paradia.types import CoilImages, CoilNoise, Combined

CITE = "10.1002/mrm.26963"

SIGNAL = 0.02
"""Part of the bright signal (of its square) below which a voxel does not take part in the maps of the coils."""

TERMS = ("phase", "linearity", "magnitude")
"""How the steps of the phase difference are weighed."""


def mcpc3ds(
    coil_images: CoilImages,
    grid: Grid,
    scan: Scan,
    coil_noise: CoilNoise | None = None,
    *,
    smoothing: float = 8.0,
    bipolar: bool = False,
    prewhiten: bool = True,
) -> Combined:
    r"""Combine the coils after taking out the phase each has at echo time zero, which two echoes tell.

    The phase difference of two echoes, free of all that the coils add, is :math:`\theta = \arg\sum_c \bar S_{1c}S_{2c}`. Unwrapped and
    continued back to echo time zero it leaves the offset of each coil,
    :math:`\varphi_{0c} = \varphi_{1c} - \theta\,t_1/(t_2 - t_1)`, which is smoothed as a complex map and taken out.

    Parameters
    ----------
    coil_images
        Complex images, shape (echo, coil, x, y, z); at least two echoes.
    grid
        Their geometry.
    scan
        Echo times.
    coil_noise
        Covariance of the noise of the coils, told from the air around the head when not given.
    smoothing
        Width of the Gaussian that smooths the maps of the coils, mm; 4 to 15.
    bipolar
        Whether every other echo was read backwards: the first and the third echo are taken then.
    prewhiten
        Whether to make the noise of the coils independent and alike before they are combined.

    Returns
    -------
    Combined
        Magnitude, in units of the noise where it was whitened, and wrapped phase, rad, without an offset at echo time zero.

    Raises
    ------
    MetadataError
        Too few echoes.
    GeometryError, InputError, NonFiniteError
        Shapes that do not fit, no signal in an echo that tells the offset, a covariance that is none, a smoothing that is no length, or
        values that are no numbers.

    Notes
    -----
    Differs from the publication in one point: coils are weighed by the smoothed map itself, magnitude and phase, where the
    published sum weighs by the noisy magnitude of each voxel. That is the combination of the least noise, and its magnitude has no
    noise floor that grows with the number of coils.

    The phase difference must not turn by more than half a turn from voxel to voxel. What bipolar readouts add to every other
    echo is the same for all coils; it stays in the phase, and ``fieldmap`` takes it out. One coil is allowed: its phase offset is
    taken out.

    References
    ----------
    Eckstein K, Dymerska B, Bachrata B, et al. Computationally efficient combination of multi-channel phase data from multi-echo
    acquisitions (ASPIRE). Magn Reson Med 2018;79:2996, where it is the general method. https://doi.org/10.1002/mrm.26963
    """
    check(coil_images, grid, scan)
    second = 2 if bipolar else 1
    if len(scan.echo_times) <= second:
        raise MetadataError(
            f"mcpc3ds needs {second + 1} echoes{' of a bipolar readout' if bipolar else ''}, and there "
            f"{'is one' if len(scan.echo_times) == 1 else f'are {len(scan.echo_times)}'}. Take combine adaptive, which needs one."
        )
    block, sigma = lattice(grid, smoothing)
    whiten = whitener(coil_images, coil_noise, prewhiten)
    first, later = scan.echo_times[0], scan.echo_times[second]
    product = _product(coil_images[0], coil_images[second], whiten)
    if not product.any():
        raise InputError(
            f"echoes 1 and {second + 1} have signal at no place in common, so that they tell no offset. Leave the empty echo out."
        )
    common = _at_first_echo(product, first / (later - first))
    maps = torch.cat([pool((coil * common.conj())[None], block) for coil in coil_images[0]])
    return combined(coil_images, smooth(mix(whiten, maps), sigma), block, whiten)


def _product(first: Tensor, later: Tensor, whiten: Tensor | None) -> Tensor:
    """Return the Hermitian inner product of two echoes over the whitened coils."""
    rows = max(1, SLAB // first[:, 0].numel())
    parts = [(mix(whiten, a).conj() * mix(whiten, b)).sum(0) for a, b in zip(first.split(rows, 1), later.split(rows, 1), strict=True)]
    return torch.cat(parts)


def _at_first_echo(product: Tensor, scale: float) -> Tensor:
    """Return the complex signal that the first echo would have without offsets, zero where there is no signal."""
    strength = product.abs()
    ordered = strength.flatten()[:: max(1, strength.numel() // 100_000)].sort().values
    mask = strength > SIGNAL * ordered[int(0.95 * (ordered.numel() - 1))]
    turns = torch.where(mask, product.angle() / (2 * torch.pi), 0)
    magnitude = strength.sqrt()
    whole, piece = continue_phase(turns, magnitude, mask, terms=TERMS)
    value = turns[mask] + whole
    # The field of a shimmed head turns its middle by less than half a turn between two echoes.
    theta = torch.zeros_like(turns)
    theta[mask] = value - medians(value, piece).round()
    return torch.polar(torch.where(mask, magnitude, 0), 2 * torch.pi * scale * theta)
