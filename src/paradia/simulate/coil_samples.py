"""What coils deliver: samples of k-space, with the noise that they share."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Complex
from torch import Tensor

from paradia.errors import GeometryError, InputError
from paradia.fft import to_kspace
from paradia.simulate._loops import helmet, inductance, potential
from paradia.simulate.coils import HELMET, check_array
from paradia.types import CoilImages, CoilNoise

FILLED = 0.75
"""Size of the conducting head relative to the helmet."""

LOADED = 4.0
"""Losses in the head relative to those in a loop and its amplifier: loops this large are dominated by the head."""

LEAK = 0.3
"""What amplifiers of low impedance leave of the coupling between loops."""

AnyMaps: TypeAlias = Complex[Tensor, "_ _ _ _"]
AnyCovariance: TypeAlias = Complex[Tensor, "_ _"]


def noise_covariance(
    n: int = 16, *, seed: int = 0, radius: tuple[float, float, float] = HELMET, loaded: float = LOADED, leak: float = LEAK
) -> CoilNoise:
    r"""Compute the covariance of the noise of loops around a head.

    Currents that diffuse in the head are seen by all loops, :math:`R_{ij} \propto \int E_i\cdot E_j\,dV`; each loop and its amplifier add
    losses of their own; and a part of what one loop carries leaks into the others through their mutual inductance,
    :math:`\Sigma = C R C^H` with :math:`C = 1 + i\,\ell\,k_{ij}`.

    Parameters
    ----------
    n, seed, radius
        The loops, as given to `sensitivities`.
    loaded
        Losses in the head relative to those of a loop alone; infinite for loops without any.
    leak
        ℓ of the formula: what low-impedance amplifiers leave of the coupling, from 0 to 1.

    Returns
    -------
    Tensor
        Covariance (coil, coil), the mean of n nᴴ over noise samples n. The mean of its diagonal is 2: real and imaginary parts have
        variance 1.

    Raises
    ------
    InputError
        There is no loop, the helmet has no size, the losses are not positive, or the leak is not a share.

    Notes
    -----
    The electric field is taken as :math:`-\partial A/\partial t`: loops that face the middle of a sphere raise no charges on it, and a
    head is nearly one.

    References
    ----------
    Roemer PB, et al. The NMR phased array. Magn Reson Med 1990;16:192-225. doi:10.1002/mrm.1910160203.
    """
    check_array(n, radius)
    if not loaded > 0:
        raise InputError(f"the losses in the head must be positive, got {loaded}. Relative to those of a loop they are about 4.")
    if not 0 <= leak <= 1:
        raise InputError(f"the leak is a share from 0 to 1, got {leak}.")
    loops = helmet(n, radius, seed)
    axes = [np.linspace(-r, r, 23) for r in FILLED * np.asarray(radius)]
    inside = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    inside = inside[((inside / (FILLED * np.asarray(radius))) ** 2).sum(1) <= 1]
    electric = potential(inside, loops).reshape(n, -1)
    head = electric @ electric.T
    own = head.diagonal().mean() / loaded if math.isfinite(loaded) else 1e-6 * head.diagonal().mean()
    flux = inductance(loops)
    coupling = flux / np.sqrt(np.outer(flux.diagonal(), flux.diagonal()))
    mixing = np.eye(n) + 1j * leak * (coupling - np.eye(n))
    generator = np.random.default_rng([seed, n, 1])
    gain = np.exp(0.1 * generator.standard_normal(n) + 2j * math.pi * np.random.default_rng([seed, n]).random(n))
    root = gain[:, None] * mixing
    sigma = root @ (head + own * np.eye(n)) @ root.conj().T
    return torch.from_numpy(2 * sigma / sigma.diagonal().real.mean()).to(torch.complex64)


def scaled(covariance: AnyCovariance, coils: AnyMaps, noise: float) -> CoilNoise:
    """Scale a covariance so that the best combination of the coils has a given noise in the middle of the image.

    Parameters
    ----------
    covariance
        Covariance of the coils.
    coils
        Their sensitivities.
    noise
        Wanted standard deviation of the real and of the imaginary part of the combined image, where its signal keeps its size; zero for
        no noise.

    Raises
    ------
    InputError
        The covariance is of other coils, or the noise is negative.
    """
    if covariance.shape[0] != coils.shape[0]:
        raise InputError(f"the covariance is of {covariance.shape[0]} coils, the sensitivities of {coils.shape[0]}. Give the same coils.")
    if not (noise >= 0 and math.isfinite(noise)):
        raise InputError(f"the noise must be a standard deviation of zero or more, got {noise}.")
    x, y, z = (size // 2 for size in coils.shape[1:])
    middle = coils[:, x, y, z].to(torch.complex128)
    weight = torch.linalg.solve(covariance.to(torch.complex128), middle)
    return covariance * float(2 * noise**2 * (middle.conj() @ weight).real)


def kspace(
    images: AnyMaps, coils: AnyMaps, covariance: AnyCovariance | None = None, generator: torch.Generator | None = None
) -> CoilImages:
    """Sample what every coil receives of complex images, with the noise that the coils share.

    Parameters
    ----------
    images
        Complex echoes (echo, x, y, z).
    coils
        Sensitivities (coil, x, y, z).
    covariance
        Covariance of the noise of the samples; `paradia.fft.to_kspace` is unitary, so the voxels of fully sampled images have it too.
        None for no noise.
    generator
        Draws the noise.

    Returns
    -------
    Tensor
        Samples (echo, coil, kx, ky, kz), the zero frequency at index n // 2 of each axis.

    Raises
    ------
    GeometryError
        Images and sensitivities lie on different grids.
    InputError
        The covariance is of other coils or is no covariance, or there is nothing to draw the noise from.
    """
    if images.shape[1:] != coils.shape[1:]:
        raise GeometryError(f"the images have shape {tuple(images.shape[1:])}, the sensitivities {tuple(coils.shape[1:])}. Use one grid.")
    root = None
    if covariance is not None:
        if covariance.shape[0] != coils.shape[0]:
            raise InputError(f"the covariance is of {covariance.shape[0]} coils, the sensitivities of {coils.shape[0]}. Give the same.")
        if generator is None:
            raise InputError("noise needs a generator to be drawn from. Give torch.Generator().manual_seed(...), or no covariance.")
        root = _root(covariance)
    samples = torch.empty((len(images), *coils.shape), dtype=torch.complex64)
    for echo, image in enumerate(images):
        for coil, sensitivity in enumerate(coils):  # one volume at a time keeps the memory at that of the result
            samples[echo, coil] = to_kspace(image * sensitivity)
        if root is not None:
            white = torch.randn(coils.shape, dtype=torch.complex64, generator=generator)
            samples[echo] += (root @ white.flatten(1)).view(coils.shape)
    return samples


def noise_samples(covariance: CoilNoise, count: int, generator: torch.Generator) -> Complex[Tensor, "coil sample"]:
    """Draw what the coils deliver when nothing is excited, for the calibration of the noise.

    Parameters
    ----------
    covariance
        Covariance of the coils.
    count
        How many samples of each coil.
    generator
        Draws them.
    """
    return _root(covariance) @ torch.randn((covariance.shape[0], count), dtype=torch.complex64, generator=generator)


def _root(covariance: Tensor) -> Tensor:
    """Return the lower factor of a covariance; of none at all, zero."""
    if not covariance.abs().any():
        return covariance
    factor, failed = torch.linalg.cholesky_ex(covariance.to(torch.complex128))
    if bool(failed):
        raise InputError("the noise covariance is not positive definite. Take that of noise_covariance, or add a diagonal to it.")
    return factor.to(torch.complex64)
