"""Coils combined by the direction in which their signal points, with the smooth phase of a virtual coil."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from paradia.combine._checks import check
from paradia.combine._lattice import Block, combined, gauss, lattice, length, smooth
from paradia.combine._whitening import mix, whitener
from paradia.grid import Grid
from paradia.types import CoilImages, CoilNoise, Combined

CITE = "10.1002/mrm.24932"

POWER_STEPS = 4
"""Power iterations in a block, whose first eigenvalue is far above the others."""

WIDER = ((8.0, 8.0, 4.0, 4.0, 2.0, 2.0, 1.0, 1.0), (), (2.0, 2.0, 2.0, 2.0, 1.0, 1.0))
"""Widths, relative to that of the maps, over which neighbouring phases are brought together: rows to try until no pole is left."""

Average = Callable[[Tensor, tuple[float, ...]], Tensor]

TRUSTED = 0.3
"""Trust of the blocks among which poles are looked for."""

FINAL_STEPS = 3
"""Power iterations that make the smooth maps point along the signal."""


def adaptive(
    coil_images: CoilImages,
    grid: Grid,
    coil_noise: CoilNoise | None = None,
    *,
    smoothing: float = 8.0,
    prewhiten: bool = True,
) -> Combined:
    r"""Combine the coils along the first eigenvector of their local covariance, its phase that of a smooth virtual coil.

    In each block the first eigenvector :math:`w` of :math:`\sum_x S(x)S(x)^H` weighs the coils with the least noise; one echo is
    enough. Its own phase is free. It is chosen by smoothing the vectors over their neighbours and projecting them back,
    :math:`v \leftarrow G * (w\,w^H v)`, from wide to narrow: that carries one phase through the whole head without seams, where any one
    coil, or fixed sum of coils, has places it does not see.

    Parameters
    ----------
    coil_images
        Complex images, shape (echo, coil, x, y, z).
    grid
        Their geometry.
    coil_noise
        Covariance of the noise of the coils, told from the air around the head when not given.
    smoothing
        Width of the Gaussian that smooths the maps of the coils, mm; 4 to 15.
    prewhiten
        Whether to make the noise of the coils independent and alike before they are combined.

    Returns
    -------
    Combined
        Magnitude, in units of the noise where it was whitened, and wrapped phase, rad, with a smooth offset that is the same for
        all echoes.

    Raises
    ------
    GeometryError, InputError, NonFiniteError
        Shapes that do not fit, no signal, a covariance that is none, a smoothing that is no length, or values that are no numbers.

    Notes
    -----
    The maps are made from the first echo and serve for all, so that phase differences between echoes are those of the object.

    The virtual coil is chosen in another way than published: not by aligning coils at one voxel, but by the smoothest phase that the
    maps allow. Points around which it would wind are counted, and another way is tried while there are any. Of six
    simulated arrays whose phases turn by 20 to 70 rad/m, as at 3 T and at 7 T and beyond, five were left without.

    References
    ----------
    Walsh DO, Gmitro AF, Marcellin MW. Adaptive reconstruction of phased array MR imagery. Magn Reson Med 2000;43:682.

    Parker DL, Payne A, Todd N, Hadley JR. Phase reconstruction from multiple coil data using a virtual reference coil. Magn Reson Med
    2014;72:563. https://doi.org/10.1002/mrm.24932
    """
    check(coil_images, grid)
    block, sigma = lattice(grid, smoothing)
    whiten = whitener(coil_images, coil_noise, prewhiten)
    direction, power = _directions(coil_images[0], block, whiten)
    return combined(coil_images, _maps(direction, power, sigma), block, whiten)


def _directions(images: Tensor, block: Block, whiten: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the first eigenvector of each block's covariance (coil, blocks) and its eigenvalue in some unit (blocks)."""
    directions, powers, sizes = [], [], []
    for rows in images.split(block[0], 1):
        samples = _blocks(mix(whiten, rows), block)
        size = samples.abs().amax((1, 2), keepdim=True).clamp_min(torch.finfo(samples.real.dtype).tiny)
        samples = samples / size  # their eighth powers would overflow
        strongest = samples.abs().square().sum(2).argmax(1)
        start = samples.gather(1, strongest[:, None, None].expand(-1, 1, samples.shape[2]))
        vector = samples @ start.mH
        for _ in range(POWER_STEPS):
            vector = samples @ (samples.mH @ vector)
            norm = torch.linalg.vector_norm(vector, dim=1, keepdim=True)
            vector = vector / norm.clamp_min(torch.finfo(norm.dtype).tiny)
        power = (samples.mH @ vector).abs().square().sum((1, 2))
        count = [-(-n // b) for n, b in zip(rows.shape[2:], block[1:], strict=True)]
        directions.append(vector[..., 0].T.reshape(-1, 1, *count))
        powers.append(power.reshape(1, *count))
        sizes.append(size.reshape(1, *count))
    largest = torch.cat(sizes)
    return torch.cat(directions, 1), torch.cat(powers) * (largest / largest.amax()).square()


def _blocks(images: Tensor, block: Block) -> Tensor:
    """Cut rows one block thick into blocks: (block, coil, voxel)."""
    coils, rows = images.shape[:2]
    (_, height, depth) = block
    tall, deep = (-(-n // b) for n, b in zip(images.shape[2:], (height, depth), strict=True))
    padded = images.new_zeros(coils, rows, tall * height, deep * depth)
    padded[:, :, : images.shape[2], : images.shape[3]] = images
    cut = padded.view(coils, rows, tall, height, deep, depth).permute(2, 4, 0, 1, 3, 5)
    return cut.reshape(tall * deep, coils, rows * height * depth)


def _maps(direction: Tensor, power: Tensor, sigma: tuple[float, ...]) -> Tensor:
    """Choose the phase of each direction so that neighbours agree, and smooth."""
    flat = (direction * power).flatten(1)
    _, vectors = torch.linalg.eigh(flat @ direction.flatten(1).mH)
    leading = vectors[:, -1]
    leading = leading * leading[leading.abs().argmax()].conj().sgn()  # an eigenvector's own phase is anything; this one is a coil's
    # Blocks count alike wherever there is signal, or the brightest would decide for all.
    trust = power / (power + 0.05 * power.flatten().sort().values[int(0.9 * (power.numel() - 1))])
    found: list[tuple[float, Tensor]] = []
    for widths in WIDER:
        maps = _aligned(direction, power, trust, leading.view(-1, 1, 1, 1).expand_as(direction), sigma, widths)
        found.append((_poles(direction, trust, maps), maps))
        if found[-1][0] == 0:
            break
    return min(found, key=lambda pair: pair[0])[1]


def _aligned(direction: Tensor, power: Tensor, trust: Tensor, maps: Tensor, sigma: tuple[float, ...], widths: tuple[float, ...]) -> Tensor:
    for width in widths:
        maps = _project(direction, trust, maps, tuple(width * s for s in sigma), gauss)
        total = gauss(trust[None], tuple(width * s for s in sigma))
        maps = maps / total.clamp_min(torch.finfo(total.dtype).tiny)
    for _ in range(FINAL_STEPS):
        maps = _project(direction, power, maps, sigma, smooth)
        maps = maps / length(maps).clamp_min(torch.finfo(power.dtype).tiny)
    return maps


def _poles(direction: Tensor, trust: Tensor, maps: Tensor) -> float:
    """Count the squares of four blocks with signal around which the chosen phase winds.

    The steps of the phase around a square add up to what its four directions enclose, whatever phase they have, and whole turns.
    """
    phased = direction * (direction.conj() * maps).sum(0).sgn()
    count = 0.0
    steps = [(phased.narrow(a, 0, n - 1).conj() * phased.narrow(a, 1, n - 1)).sum(0).angle() for a, n in enumerate(maps.shape[1:], 1)]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        n, m = trust.shape[a], trust.shape[b]
        if min(n, m) < 2:
            continue
        trip = steps[a].narrow(b, 0, m - 1) + steps[b].narrow(a, 1, n - 1) - steps[a].narrow(b, 1, m - 1) - steps[b].narrow(a, 0, n - 1)
        corners = [trust.narrow(a, i, n - 1).narrow(b, j, m - 1) for i in (0, 1) for j in (0, 1)]
        signal = torch.stack(corners).amin(0) > TRUSTED
        count += float(((trip / (2 * torch.pi)).round().abs() * signal).sum())
    return count


def _project(direction: Tensor, weight: Tensor, maps: Tensor, sigma: tuple[float, ...], average: Average) -> Tensor:
    """Project maps on the directions of the blocks and average them over their surroundings."""
    amount = weight * (direction.conj() * maps).sum(0)
    return average(direction * amount, sigma)
