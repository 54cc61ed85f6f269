"""Unwrapping through the Laplacian."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.fft import bounding_box
from paradia.grid import Grid
from paradia.sources.knobs import check_not_negative
from paradia.types import Echoes, Mask
from paradia.unwrap._checks import check

CITE = "10.1364/OL.28.001194"


def laplacian(phase: Echoes, mask: Mask, grid: Grid, *, padding: int = 8) -> Echoes:
    r"""Unwrap by inverting the Laplacian of the phase, which wraps do not disturb.

    The Laplacian is taken of the complex signal, :math:`\nabla^2\varphi = \Im(e^{-i\varphi}\nabla^2 e^{i\varphi})`, and inverted with
    mirrored borders.

    Parameters
    ----------
    phase
        Wrapped phase of every echo, rad.
    mask
        Voxels to unwrap.
    grid
        Voxel sizes.
    padding
        Voxels around the mask that take part, at least 0.

    Returns
    -------
    Echoes
        Unwrapped phase, rad, of mean zero inside the mask, zero outside it.

    Raises
    ------
    GeometryError, MaskError, NonFiniteError
        Shapes do not fit, the mask is empty, or the phase inside it is not finite.
    InputError
        The padding is negative.

    Notes
    -----
    The result is **not congruent** to the phase modulo 2π: harmonic parts are lost, steep ones are smoothed. It never fails badly, and
    suits what removes a harmonic background afterwards; for fitting echoes use an exact method.

    References
    ----------
    Schofield MA, Zhu Y. Fast phase unwrapping algorithm for interferometric applications. Opt Lett 2003;28:1194.
    https://doi.org/10.1364/OL.28.001194
    """
    check(phase, mask)
    check_not_negative(padding=padding)
    box = bounding_box(mask, padding)
    inside = mask[box]
    result = torch.zeros_like(phase)
    cosines = [_cosines(n).to(phase) for n in inside.shape]
    inverse = _inverse(inside.shape, grid).to(phase)
    for echo in range(phase.shape[0]):
        wrapped = torch.nan_to_num(phase[echo][box], posinf=0.0, neginf=0.0)
        smooth = _solve(_laplacian_of(wrapped, grid), cosines, inverse)
        smooth = smooth - smooth[inside].mean()
        result[echo][box] = torch.where(inside, smooth, 0)
    return result


def _laplacian_of(phase: Tensor, grid: Grid) -> Tensor:
    """Return the divergence of the wrapped steps, which is the Laplacian where no step exceeds half a turn."""
    total = torch.zeros_like(phase)
    for axis, size in enumerate(grid.voxel_size):
        n = phase.shape[axis]
        if n < 2:
            continue
        step = torch.sin(phase.narrow(axis, 1, n - 1) - phase.narrow(axis, 0, n - 1)) / size**2
        total.narrow(axis, 0, n - 1).add_(step)
        total.narrow(axis, 1, n - 1).sub_(step)
    return total


def _cosines(n: int) -> Tensor:
    """Return the orthonormal cosine transform of a length as a matrix: at these lengths as quick as a fast one, on any device."""
    place, order = torch.arange(n, dtype=torch.float64) + 0.5, torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(torch.pi / n * order[:, None] * place) * (2 / n) ** 0.5
    matrix[0] *= 0.5**0.5
    return matrix


def _inverse(shape: tuple[int, ...], grid: Grid) -> Tensor:
    """Return the inverse of the Laplacian with mirrored borders, order by order of the cosines, in float64."""
    total = torch.zeros((), dtype=torch.float64)
    for axis, (n, size) in enumerate(zip(shape, grid.voxel_size, strict=True)):
        wave = (2 * torch.cos(torch.pi * torch.arange(n, dtype=torch.float64) / n) - 2) / size**2
        total = total + wave.view([-1 if a == axis else 1 for a in range(3)])
    return torch.where(total < -1e-12, 1 / total.clamp_max(-1e-12), 0)


def _solve(source: Tensor, cosines: list[Tensor], inverse: Tensor) -> Tensor:
    """Transform, divide, transform back; each product moves its axis to the end, so that three restore the order."""
    for matrix in cosines:
        source = torch.tensordot(source, matrix, dims=([0], [1]))
    source = source * inverse
    for matrix in cosines:
        source = torch.tensordot(source, matrix, dims=([0], [0]))
    return source
