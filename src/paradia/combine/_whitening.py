"""The noise of the coils: its covariance, given or told from the air, and the matrix that makes it white."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from paradia.combine._lattice import length, pool
from paradia.errors import InputError, ParadiaWarning

BLOCK = 4
"""Edge of the blocks that are told apart as air or signal, voxels."""

ABOVE = 1.5
"""Power of a block, relative to the darkest, up to which it counts as air: noise alone varies less over a block."""

CONTRAST = 0.3
"""Power of air relative to that of the bright blocks, of which noise is a part too, at most; else there is no air in the image."""

ALIKE = 0.8
"""Correlation of neighbouring voxels above which they are no noise, even of an image that was interpolated."""

SAMPLES = 100_000
"""Voxels of air that a covariance is told from; more would not make it better."""

ENOUGH = 20
"""Voxels of air for each coil that a covariance needs: its error is then a quarter of a standard deviation."""


def whitener(coil_images: Tensor, coil_noise: Tensor | None, prewhiten: bool) -> Tensor | None:
    r"""Return the matrix that makes the noise of the coils independent, with real and imaginary parts of variance one.

    :math:`W = \sqrt2\,L^{-1}` of the covariance :math:`\Sigma = L L^H`.

    Parameters
    ----------
    coil_images
        Images (echo, coil, x, y, z).
    coil_noise
        Covariance of the coils; told from the air around the head when not given.
    prewhiten
        Whether to whiten at all.

    Returns
    -------
    Tensor or None
        Matrix (coil, coil); none where nothing is to be done or nothing can be told.
    """
    coils = coil_images.shape[1]
    if not prewhiten:
        return None
    if coil_noise is None:
        coil_noise = _from_air(coil_images[0])
        if coil_noise is None:
            warnings.warn(
                "no air is seen around the head that would tell the noise of the coils; they are combined as if it were the same in all. "
                "Give coil_noise, or set prewhiten to false.",
                ParadiaWarning,
                stacklevel=3,
            )
            return None
    elif coil_noise.shape[0] != coils:
        raise InputError(f"the noise covariance is of {coil_noise.shape[0]} coils, the images of {coils}. Give both of the same coils.")
    covariance = coil_noise.to(torch.complex128)
    even = 0.5 * (covariance + covariance.mH)
    if not torch.isfinite(torch.view_as_real(even)).all() or (even - covariance).abs().max() > 1e-3 * even.abs().max():
        raise InputError("the noise covariance is not Hermitian. Give the mean of n nᴴ over noise samples n, one number a coil.")
    factor, failed = torch.linalg.cholesky_ex(even)
    if bool(failed):
        raise InputError("the noise covariance is not positive definite. Estimate it from more noise samples than there are coils.")
    identity = torch.eye(coils, dtype=factor.dtype, device=factor.device)
    return (math.sqrt(2) * torch.linalg.solve_triangular(factor, identity, upper=False)).to(coil_images)


def mix(matrix: Tensor | None, images: Tensor) -> Tensor:
    """Apply a matrix to the coils, the first axis."""
    return images if matrix is None else (matrix @ images.flatten(1)).view_as(images)


def _from_air(images: Tensor) -> Tensor | None:
    """Estimate the covariance from whole blocks without signal; none where there are too few."""
    block = tuple(min(BLOCK, n) for n in images.shape[1:])
    x, y, z = (n - n % b for n, b in zip(images.shape[1:], block, strict=True))
    images = images[:, :x, :y, :z].contiguous()
    power = length(images).square()
    level = pool(power[None], block)[0]
    blank = pool((power == 0).to(level)[None], block)[0] > 0  # set to zero by the scanner: no noise is left to tell of
    known = level[~blank].flatten()
    if known.numel() < 8:
        return None
    ordered = known.sort().values
    darkest, bright = ordered[ordered.numel() // 20], ordered[(9 * ordered.numel()) // 10]
    if darkest > CONTRAST * bright:
        return None
    air = (level <= ABOVE * darkest) & ~blank
    for axis, size in enumerate(block):
        air = air.repeat_interleave(size, axis)
    flat, places = images.flatten(1), air.flatten().nonzero().squeeze(1)
    if places.numel() < ENOUGH * images.shape[0]:
        return None
    places = places[:: max(1, places.numel() // SAMPLES)]
    noise = flat.index_select(1, places)
    if _likeness(flat, air, places, noise) > ALIKE:
        return None
    return noise @ noise.mH / noise.shape[1]


def _likeness(flat: Tensor, air: Tensor, places: Tensor, noise: Tensor) -> float:
    """Return how alike voxels of the air and their neighbours are, 0 to 1, along the axis where they are least."""
    least = 1.0
    for axis, n in enumerate(air.shape):
        stride = air.stride(axis)
        inside = (places // stride % n < n - 1).nonzero().squeeze(1)
        inside = inside[air.flatten().take(places[inside] + stride)]
        if inside.numel() < ENOUGH:
            continue
        one, other = noise.index_select(1, inside), flat.index_select(1, places[inside] + stride)
        product = (one.conj() * other).sum().abs() / (length(one).square().sum() * length(other).square().sum()).sqrt()
        least = min(least, float(product))
    return least
