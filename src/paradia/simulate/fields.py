"""The fields of a head: of what the mask holds, of the world around it, and of both after shimming."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from paradia.errors import GeometryError
from paradia.fft import fast_shape
from paradia.grid import Grid
from paradia.operators._convolution import frequencies
from paradia.types import Mask, Volume

SLAB = 400_000
"""Complex numbers that are transformed at once: few enough for the cache."""

FITTED = 100_000
"""About this many voxels of the mask are enough to shim over."""

Margins = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

NOWHERE: Margins = ((0, 0), (0, 0), (0, 0))
"""Nothing beyond the grid."""


class Fields(NamedTuple):
    """Fields in ppm of B0, everywhere on the grid, and what they are the fields of."""

    local: Volume
    """Field of χ inside the mask."""
    background: Volume
    """Field of everything else: harmonic inside the mask."""
    total: Volume
    """Their sum, shimmed if that was asked for."""
    sources: Volume
    """χ whose fields these are: as given in the mask, with soft edges outside it, ppm."""


def fields(chi: Volume, mask: Mask, grid: Grid, *, shim: bool = True, neck: bool = True, flush: bool = False) -> Fields:
    r"""Compute :math:`f = D\chi` for what lies inside and outside a mask, in a doubled field of view.

    What fills most of the faces of the field of view (air, as a rule) has no end.  Tissue that reaches a face goes on: upwards
    and sideways for a quarter of the field of view, downwards (the far end of z is up) for a half, where it becomes
    shoulders as wide as the field of view.

    Parameters
    ----------
    chi
        Susceptibility, ppm, of the whole head and of the air around it, shape (x, y, z).
    mask
        The brain.
    grid
        Their geometry.
    shim
        Whether the second-order solid harmonics that fit the total field best over the mask are taken off it.
    neck
        Whether tissue goes on beyond the field of view; without, it ends there.
    flush
        Whether bone and air may touch the mask; without, what touches it is water.

    Returns
    -------
    Fields
        Not cropped to the mask.

    Raises
    ------
    GeometryError
        χ or mask do not have the grid's shape.

    Notes
    -----
    Outside the mask, edges are softened by the binomial 1 2 1, and whatever touches the mask is water unless `flush`.  Air and bone are
    a thousand times what the brain holds; sampled sharply, or cut off at the mask, they would ring into its middle, where their
    field has to be harmonic.  Where they are flush with the mask they are cut off: take voxels fine enough to be averaged.

    References
    ----------
    Marques JP, Bowtell R. Concepts Magn Reson B 2005;25B:65-78. doi:10.1002/cmr.b.20034.
    """
    for name, image in (("chi", chi), ("mask", mask)):
        if tuple(image.shape) != grid.shape:
            raise GeometryError(f"{name} has shape {tuple(image.shape)}, but the grid {grid.shape}. Bring both to one space.")
    around = _around(chi)
    water = mask if flush else _beside(mask)
    outside = torch.where(water, -around, chi - around)  # relative to what has no end; brain and next to it is water here
    margins = _margins(outside) if neck else NOWHERE
    soft = _soft(_continued(outside, margins, -around))
    inner = soft[tuple(slice(low, low + n) for (low, _), n in zip(margins, grid.shape, strict=True))]
    if flush:
        inner.masked_fill_(mask, -around)  # what softening has carried into the mask
    sources = torch.where(mask, chi, inner + around)
    local, background = isolated([(chi * mask, NOWHERE), (soft, margins)], grid)
    total = local + background
    if shim and bool(mask.any()):
        _unshimmed(total, mask, grid)
    return Fields(local, background, total, sources)


def isolated(images: Sequence[tuple[Tensor, Margins]], grid: Grid) -> list[Tensor]:
    """Convolve with the dipole in a doubled field of view, and crop.

    The same as `paradia.operators.dipole.Dipole` on a padded grid, but without a kernel in memory and without
    transforming zeros: each axis is padded only when its turn comes.

    Parameters
    ----------
    images
        Images, each with how many voxels it reaches beyond the grid at both ends of the axes, at most the grid's own
        number in sum.
    grid
        What is kept of the fields.

    Returns
    -------
    list
        A field for each image, on the grid.
    """
    wide = grid.with_shape(fast_shape([2 * n for n in grid.shape]))
    spectra = [_into(image, wide.shape) for image, _ in images]
    step = max(1, SLAB // (wide.shape[0] * (wide.shape[2] // 2 + 1)))
    for rows, kernel in _kernels(wide, step, images[0][0]):
        for spectrum in spectra:
            waves = torch.fft.fft(spectrum[:, rows], n=wide.shape[0], dim=0).mul_(kernel)
            kept = torch.fft.ifft(waves, dim=0)[: len(spectrum)]
            spectrum[:, rows] = kept
    return [_back(spectrum, wide.shape, margins, grid) for spectrum, (_, margins) in zip(spectra, images, strict=True)]


def _into(image: Tensor, wide: Sequence[int]) -> Tensor:
    """Transform along y and z, a few planes at a time."""
    spectrum = torch.empty((len(image), wide[1], wide[2] // 2 + 1), dtype=torch.complex64, device=image.device)
    step = max(1, SLAB // (wide[1] * wide[2]))
    for first in range(0, len(image), step):
        planes = torch.fft.rfft(image[first : first + step], n=wide[2], dim=2)
        spectrum[first : first + step] = torch.fft.fft(planes, n=wide[1], dim=1)
    return spectrum


def _back(spectrum: Tensor, wide: Sequence[int], margins: Margins, grid: Grid) -> Tensor:
    """Transform back along y and z what the grid keeps."""
    (x, _), (y, _), (z, _) = margins
    nx, ny, nz = grid.shape
    field = torch.empty(grid.shape, device=spectrum.device)
    step = max(1, SLAB // (wide[1] * wide[2]))
    for first in range(0, nx, step):
        last = min(first + step, nx)
        planes = torch.fft.ifft(spectrum[x + first : x + last], dim=1)[:, y : y + ny]
        field[first:last] = torch.fft.irfft(planes, n=wide[2], dim=2)[..., z : z + nz]
    return field


def _kernels(wide: Grid, step: int, like: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Sample the dipole a few y at a time; see `dipole_kernel` for what happens at the highest frequency of an even axis."""
    along, squared, mixed = [], [], []
    for axis, (k, b) in enumerate(zip(frequencies(wide), wide.b0_dir, strict=True)):
        last = wide.shape[axis] // 2
        even = wide.shape[axis] > 1 and wide.shape[axis] % 2 == 0
        highest = torch.arange(k.numel()).reshape(k.shape) == (last if even else -1)
        along.append((b * k).masked_fill(highest, 0.0).to(like))
        squared.append(k.square().to(like))
        mixed.append((last, float((b * k).square().flatten()[last])) if even else None)
    x, y, z = mixed
    for first in range(0, wide.shape[1], step):
        rows = slice(first, min(first + step, wide.shape[1]))
        kernel = (along[0] + (along[1][:, rows] + along[2])).square_()
        if x is not None:
            kernel[x[0]] += x[1]
        if y is not None and rows.start <= y[0] < rows.stop:
            kernel[:, y[0] - first] += y[1]
        if z is not None:
            kernel[..., z[0]] += z[1]
        kernel.div_((squared[0] + (squared[1][:, rows] + squared[2])).clamp_(min=1e-20)).neg_().add_(1 / 3)
        if first == 0:
            kernel[0, 0, 0] = 0.0
        yield rows, kernel


def _around(chi: Tensor) -> float:
    """Return what fills most of the faces of the field of view."""
    faces = [chi.select(axis, end).flatten() for axis in range(3) for end in (0, -1)]
    return float(torch.cat(faces).median())


def _beside(mask: Tensor) -> Tensor:
    """Return the mask and every voxel that touches it."""
    for axis in range(3):
        n = mask.shape[axis]
        wider = mask.clone()
        wider.narrow(axis, 1, n - 1).logical_or_(mask.narrow(axis, 0, n - 1))
        wider.narrow(axis, 0, n - 1).logical_or_(mask.narrow(axis, 1, n - 1))
        mask = wider
    return mask


def _margins(outside: Tensor) -> Margins:
    """Return how far tissue goes on at either end of each axis."""
    margins = []
    for axis, n in enumerate(outside.shape):
        reach = [bool((outside.select(axis, end).abs() > 1e-6).any()) for end in (0, -1)]
        margins.append((reach[0] * (n // 2 if axis == 2 else n // 4), reach[1] * (n // 4)))
    x, y, z = margins
    return x, y, z


def _continued(outside: Tensor, margins: Margins, water: float) -> Tensor:
    """Repeat the faces, widen what lies below into shoulders, and end it all gradually."""
    if not any(low or high for low, high in margins):
        return outside
    widths = [n for ends in reversed(margins) for n in ends]
    longer = torch.nn.functional.pad(outside[None, None], widths, mode="replicate")[0, 0]
    below = margins[2][0]
    if below and water < -1:
        x, y, z = (torch.linspace(-1, 1, n, device=outside.device) for n in (*longer.shape[:2], below))
        torso = x[:, None].square() + (y / 0.7).square() < 0.95
        depth = (-4 * z).clamp(0.0, 1.0)  # from half way down
        part = longer[..., :below]
        part += torso[..., None] * depth * (water - part)
    for axis, ends in enumerate(margins):
        for end, n in zip((0, -1), ends, strict=True):
            if n:
                rise = ((torch.arange(n, device=outside.device) - 2) / max(n / 2, 1)).clamp(0.0, 1.0)
                fade = rise.square() * (3 - 2 * rise)  # nothing at the far end, all from half way
                shape = [1, 1, 1]
                shape[axis] = n
                part = longer.narrow(axis, 0 if end == 0 else longer.shape[axis] - n, n)
                part *= (fade if end == 0 else fade.flip(0)).view(shape)
    return longer


def _soft(image: Tensor) -> Tensor:
    """Smooth with the binomial 1 2 1 along each axis, which leaves nothing at the highest frequency."""
    for axis in range(3):
        n = image.shape[axis]
        smooth = image * 0.5
        smooth.narrow(axis, 1, n - 1).add_(image.narrow(axis, 0, n - 1), alpha=0.25)
        smooth.narrow(axis, 0, n - 1).add_(image.narrow(axis, 1, n - 1), alpha=0.25)
        for end in (0, n - 1):  # what lies at a face goes on beyond it
            smooth.narrow(axis, end, 1).add_(image.narrow(axis, end, 1), alpha=0.25)
        image = smooth
    return image


def _unshimmed(field: Tensor, mask: Tensor, grid: Grid) -> None:
    """Take off, in place, the solid harmonics up to second order that fit best over the mask."""
    axes = [
        (torch.arange(n, dtype=torch.float32, device=field.device) - (n - 1) / 2) * (size / 100)
        for n, size in zip(grid.shape, grid.voxel_size, strict=True)
    ]
    inside = mask.nonzero()
    inside = inside[:: max(1, len(inside) // FITTED)]
    x, y, z = (axis[inside[:, n]].double() for n, axis in enumerate(axes))
    terms = torch.stack([torch.ones_like(x), x, y, x * y, x * x - y * y, 2 * z * z - x * x - y * y, z, x * z, y * z], 1)
    seen = field[inside[:, 0], inside[:, 1], inside[:, 2]].double()
    gram, right = (terms.T @ terms).cpu(), (terms.T @ seen).cpu()
    w = torch.linalg.lstsq(gram, right[:, None], driver="gelsd").solution[:, 0].tolist()
    x, y, z = axes[0][:, None], axes[1][None, :], axes[2]
    flat = w[0] + w[1] * x + w[2] * y + w[3] * x * y + w[4] * (x * x - y * y) - w[5] * (x * x + y * y)
    slope = w[6] + w[7] * x + w[8] * y
    field.sub_(flat[..., None]).addcmul_(slope[..., None], z, value=-1.0).sub_(2 * w[5] * z * z)
