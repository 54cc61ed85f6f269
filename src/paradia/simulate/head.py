"""A head whose susceptibility, relaxation and fields are known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from jaxtyping import Integer
from scipy.ndimage import gaussian_filter
from torch import Tensor

from paradia.errors import InputError
from paradia.fft import crop, fast_shape, pad
from paradia.grid import Grid
from paradia.operators.dipole import Dipole
from paradia.simulate import _anatomy, _hardware, _tissue
from paradia.simulate._canvas import Canvas
from paradia.simulate._noise import texture
from paradia.simulate._shapes import Frame
from paradia.types import Mask, Volume

OUTSIDE = ("air", "muscle", "fat", "bone", "marrow")
"""Tissues from the skull outwards."""

SOFTNESS = 0.8
"""Width of the edges of the skull and of what lies outside it, in voxels; what it holds keeps its own.

Air and bone are a thousand times what the brain holds. Sampled with sharp edges they would ring at the highest frequencies,
into the middle of the brain, where the field of what lies outside has to be harmonic.
"""


class Head(NamedTuple):
    """The truth about a simulated head."""

    chi: Volume
    """Susceptibility relative to water, ppm, outside the brain too."""
    mask: Mask
    """The brain: everything under the surface of the pia."""
    labels: Integer[Tensor, "x y z"]
    """Tissue that fills most of each voxel."""
    names: Mapping[int, str]
    """Name of each label."""
    magnitude0: Volume
    """Signal at echo time zero; the brain's largest is near 1."""
    r2star: Volume
    """Transverse relaxation rate R2*, 1/s."""
    local_field: Volume
    """Field of the susceptibility inside the mask, ppm, defined everywhere."""
    total_field: Volume
    """Field of everything after second-order shimming over the brain, ppm."""
    offset: Volume
    """Phase at echo time zero from the receiver, rad, not wrapped."""
    grid: Grid
    """Where it all lives."""
    b0: float
    """Field strength that the relaxation belongs to, T."""

    def region(self, name: str) -> Mask:
        """Return the voxels of the brain that one tissue fills."""
        return (self.labels == _tissue.LABELS[name]) & self.mask


def head(
    grid: Grid,
    *,
    seed: int = 0,
    b0: float = 3.0,
    scale: float = 1.0,
    texture_strength: float = 1.0,
    sinuses: bool = True,
    calcification: bool = False,
    shim: bool = True,
    bias: float = 0.4,
) -> Head:
    r"""Simulate an adult head with folded cortex, iron-rich nuclei, veins, air cavities and a shimmed field.

    The shapes are smooth and live in millimetres: the same head appears on any grid, its edges shared between voxels as
    partial volume.  The total field is that of every tissue, :math:`f = D\chi`, on a doubled field of view in which the
    neck continues, less the second-order solid harmonics that fit it best over the brain.

    Parameters
    ----------
    grid
        Where to sample; the middle of the grid is the middle of the head, x to the right, y forward, z up. The
        direction of B0 turns the field, not the anatomy.
    seed
        Draws sulci, veins, texture, size and receiver phase.
    b0
        Field strength, T; sets relaxation and contrast.
    scale
        Size of the head; 1 is an adult's, whose brain measures 134 × 166 × 130 mm.
    texture_strength
        Factor on the variation of χ and R2* within each tissue; 0 makes them homogeneous.
    sinuses
        Whether there is air beside the brain: frontal, ethmoid, sphenoid, maxillary and mastoid cells, ear canals.
    calcification
        Whether the pineal gland and the choroid plexus are calcified.
    shim
        Whether the field is shimmed over the brain.
    bias
        Strength of the receive coils' brighter rim, from 0 (none) to 1.

    Returns
    -------
    Head
        Maps on the grid, single precision.

    Raises
    ------
    InputError
        The scale is not positive.

    Notes
    -----
    χ of each tissue is that of the realistic in-silico head of the 2019 reconstruction challenge; T1, T2* and proton
    densities are usual values at 3 T.  White matter is isotropic here.

    References
    ----------
    Marques JP, et al. Magn Reson Med 2021;86:526-542. doi:10.1002/mrm.28716.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise InputError(f"the scale of the head must be positive, got {scale}. An adult's is 1.")
    generator = torch.Generator().manual_seed(seed)
    frame = _frame(grid, scale, generator)
    canvas = Canvas(frame, b0, tr=0.05, flip=15.0)
    mask = _anatomy.head(canvas, generator, sinuses=sinuses, calcification=calcification)
    if texture_strength:
        canvas.chi += texture_strength * canvas.spread * texture(frame, generator)
        canvas.r2star *= 1 + 0.06 * texture_strength * texture(frame, generator, (4.0, 12.0))
    skull = torch.isin(canvas.labels, torch.tensor([_tissue.LABELS[name] for name in OUTSIDE]))
    chi, local_field, total_field = _fields(canvas.chi, mask, skull & ~mask, grid)
    if shim and bool(mask.any()):
        total_field = total_field - _shim(total_field, mask, frame)
    magnitude0 = canvas.weight / 0.08 * _hardware.sensitivity(frame, bias)
    names = MappingProxyType(_tissue.NAMES)
    offset = _hardware.offset(frame, generator)
    return Head(chi, mask, canvas.labels, names, magnitude0, canvas.r2star, local_field, total_field, offset, grid, float(b0))


def _frame(grid: Grid, scale: float, generator: torch.Generator) -> Frame:
    """Give each voxel its place in the head; every head is a little larger or smaller and off centre."""
    jitter = torch.rand(6, generator=generator).mul(2).sub(1)
    axes = []
    for axis, (n, size, centre) in enumerate(zip(grid.shape, grid.voxel_size, _anatomy.CENTRE, strict=True)):
        place = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * size / scale
        axes.append((place / (1 + 0.03 * float(jitter[axis])) + centre + float(jitter[3 + axis])).to(torch.float32))
    x, y, z = axes
    return Frame(x, y, z)


def _fields(chi: Tensor, mask: Tensor, skull: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Convolve with the dipole, the brain alone and everything; beyond the field of view the tissue goes on for a while.

    Returns
    -------
    Tensor
        The susceptibility whose fields these are: softened where it is not the brain's.
    Tensor
        Field of the brain.
    Tensor
        Field of everything.
    """
    shape = fast_shape(grid.shape, grid.shape)
    dipole = Dipole(grid.with_shape(shape))
    local_field = crop(dipole(pad(chi * mask, shape)), grid.shape).clone()
    margin = [(m - n) // 4 for n, m in zip(grid.shape, shape, strict=True)]
    widths = [m for m in reversed(margin) for _ in range(2)]
    water = -_tissue.TISSUES[0].chi  # all is relative to air here, which has no end
    around = torch.nn.functional.pad((chi * ~mask + water)[None, None], widths, mode="replicate")[0, 0]
    soft = torch.from_numpy(gaussian_filter(pad(around, shape).numpy(), SOFTNESS, mode="constant"))
    brain = soft[tuple(slice(m, m + n) for m, n in zip(margin, grid.shape, strict=True))]
    brain.copy_(torch.where(skull, brain, chi * ~mask + water))
    sources = torch.where(mask, chi, brain - water)
    return sources, local_field, local_field + crop(dipole(torch.roll(soft, [-m for m in margin], (0, 1, 2))), grid.shape)


def _shim(field: Tensor, mask: Tensor, frame: Frame) -> Tensor:
    """Fit the solid harmonics up to second order over the mask."""
    x, y, z = (axis / 100 for axis in frame.at((slice(None),) * 3))
    one = torch.ones_like(field)
    terms = [one, x * one, y * one, z * one, x * y * one, x * z * one, y * z * one, (x * x - y * y) * one, 2 * z * z - x * x - y * y]
    inside = torch.stack([term[mask] for term in terms], 1).double()
    gram, right = inside.T @ inside, inside.T @ field[mask].double()
    weights = torch.linalg.lstsq(gram, right[:, None], driver="gelsd").solution[:, 0]
    return torch.stack([float(w) * term for w, term in zip(weights, terms, strict=True)]).sum(0)
