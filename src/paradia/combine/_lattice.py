"""Smooth maps of the coils on a coarse lattice, and the combination that they weigh.

What a coil sees of a voxel changes over centimetres. Maps of it are made on blocks of a few millimetres, which costs a hundredth of
the work and memory, and brought to the voxels by cubic B-splines, which are smooth themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, pad

from paradia.grid import Grid
from paradia.sources.knobs import check_positive
from paradia.types import Combined

FAR = 1e-3
"""Weight of the next wider Gaussian, which speaks only where the narrower one finds no signal."""

SLAB = 1 << 21
"""Voxels times coils that are worked on at a time."""

Block = tuple[int, int, int]


def lattice(grid: Grid, width: float) -> tuple[Block, tuple[float, float, float]]:
    """Return the voxels along a block for maps of a Gaussian width in mm, and the width in blocks along each axis.

    Raises
    ------
    InputError
        The width is no length.
    """
    check_positive(smoothing=width)
    x, y, z = (max(1, min(n, round(width / (2 * v)))) for n, v in zip(grid.shape, grid.voxel_size, strict=True))
    a, b, c = (width / (n * v) for n, v in zip((x, y, z), grid.voxel_size, strict=True))
    return (x, y, z), (a, b, c)


def pool(images: Tensor, block: tuple[int, ...]) -> Tensor:
    """Average over blocks of voxels; what reaches beyond the volume is zero."""
    if images.is_complex():
        return torch.complex(pool(images.real, block), pool(images.imag, block))
    extra = [(-n) % b for n, b in zip(images.shape[-3:], block, strict=True)]
    return avg_pool3d(pad(images, (0, extra[2], 0, extra[1], 0, extra[0]))[:, None], block)[:, 0]


def gauss(maps: Tensor, sigma: tuple[float, ...]) -> Tensor:
    """Convolve maps (map, x, y, z) with a Gaussian, widths in voxels of theirs, zero beyond the edge."""
    if maps.is_complex():
        return torch.complex(gauss(maps.real, sigma), gauss(maps.imag, sigma))
    for axis, width in enumerate(sigma, 1):
        # A matrix along each axis: the lattice is small, and the widest Gaussians span it.
        places = torch.arange(maps.shape[axis], dtype=torch.float64)
        matrix = torch.exp(-0.5 * ((places[:, None] - places) / width).square()) / (width * (2 * torch.pi) ** 0.5)
        maps = (maps.movedim(axis, -1) @ matrix.to(maps)).movedim(-1, axis)
    return maps


def length(images: Tensor) -> Tensor:
    """Return the root of the sum of squares over the first axis, of complex images; the linear-algebra routine is ten times slower."""
    return sum((part.real.square() + part.imag.square() for part in images[1:]), images[0].real.square() + images[0].imag.square()).sqrt()


def smooth(maps: Tensor, sigma: tuple[float, ...]) -> Tensor:
    """Average maps over their surroundings, from ever farther where there is nothing near."""
    total, weight = gauss(maps, sigma), FAR
    while max(3 * s / n for s, n in zip(sigma, maps.shape[1:], strict=True)) < 1:
        sigma = tuple(2 * s for s in sigma)
        total, weight = total + weight * gauss(maps, sigma), weight * FAR
    return total


def combined(coil_images: Tensor, maps: Tensor, block: Block, whiten: Tensor | None) -> Combined:
    r"""Weigh the coils by their maps, :math:`\sum_c \bar m_c S_c / \|m\|`, and give magnitude and phase.

    Parameters
    ----------
    coil_images
        Images (echo, coil, x, y, z).
    maps
        Maps of the (whitened) coils on the blocks (coil, x, y, z).
    block
        Voxels along a block.
    whiten
        Matrix that whitens the coils.
    """
    _, coils, rows, columns, depth = coil_images.shape
    step = max(1, SLAB // (coils * columns * depth))
    along = [_splines(n, b, m).to(maps.real) for n, b, m in zip((rows, columns, depth), block, maps.shape[1:], strict=True)]
    maps = maps / maps.abs().amax().clamp_min(torch.finfo(along[0].dtype).tiny)  # squares of small units would vanish
    maps = maps / length(maps).clamp_min(torch.finfo(along[0].dtype).tiny)
    magnitude = coil_images.real.new_empty(coil_images.shape[0], rows, columns, depth)
    phase = torch.empty_like(magnitude)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        weights = _expand(maps, along[0][start:stop], along[1], along[2])
        size = length(weights).clamp_min(1e-6)
        if whiten is not None:
            weights = (whiten.mH @ weights.flatten(1)).view_as(weights)
        for echo, images in enumerate(coil_images[:, :, start:stop]):
            signal = (weights.conj() * images).sum(0) / size
            magnitude[echo, start:stop], phase[echo, start:stop] = signal.abs(), signal.angle()
    return Combined(magnitude, phase)


def _expand(maps: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Evaluate maps at the voxels of a few rows."""
    used = x.any(0).nonzero().flatten()
    near = slice(int(used[0]), int(used[-1]) + 1)
    planes = torch.view_as_real(maps[:, near]).movedim(-1, 0)
    planes = torch.einsum("rcxyz,zk->rcxyk", planes, z.T)
    planes = torch.einsum("rcxyk,yj->rcxjk", planes, y.T)
    planes = torch.einsum("rcxjk,ix->rcijk", planes, x[:, near])
    return torch.complex(planes[0], planes[1])


def _splines(size: int, block: int, blocks: int) -> Tensor:
    """Return the cubic B-spline weight of every block (column) at every voxel (row); beyond the edge the last block goes on."""
    place = (torch.arange(size, dtype=torch.float64) + 0.5) / block - 0.5
    below = place.floor()
    t = place - below
    cubics = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    weights = torch.zeros(size, blocks, dtype=torch.float64)
    for shift, cubic in enumerate(cubics, -1):
        index = (below.long() + shift).clamp(0, blocks - 1)
        weights.scatter_add_(1, index[:, None], cubic[:, None] / 6)
    return weights
