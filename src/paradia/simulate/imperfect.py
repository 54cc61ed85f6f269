"""What real data do that the model of a method does not know, each with a strength.

Strength 1 is what careful work at 3 T has to live with; 0 is none.  The functions take and give plain tensors, so that a
training iterator can spoil fields without simulating echoes; `paradia.simulate.acquire.scan` spoils the echoes themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from paradia.errors import InputError
from paradia.grid import Grid
from paradia.simulate import _smooth
from paradia.simulate.anatomy import Anatomy
from paradia.simulate.tissue import LABELS
from paradia.types import Mask, Volume

WHITE_MATTER = ("white_matter", "corpus_callosum", "internal_capsule", "optic_radiation")
"""Tissues whose microstructure shifts the frequency."""

LARGEST_SHIFT = 0.010
"""Frequency shift of white matter that is no susceptibility, at most, ppm."""

LEFTOVER = 0.005
"""Root mean square over the mask of what background removal leaves or takes, ppm."""

FLOW = 0.05
"""Apparent field of flowing venous blood, ppm."""

EDGE = 1.2
"""Standard deviation of the error of a mask's surface, mm."""

STRONGEST = 5.0
"""Beyond this strength nothing looks like a scan any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """How strong each imperfection is, from 0, none, over 1, usual, to 5.

    Parameters
    ----------
    background
        Smooth field that background removal leaves behind: 5 ppb.
    frequency
        Frequency shift of white matter that is no susceptibility: up to 10 ppb, with the fibres' angle to B0.
    noise
        Variation of the noise in space: more in the middle of the head.
    dropout
        Signal lost where the field is steep: dephasing as in voxels half as thick again.
    flow
        Venous blood that moves: phase that grows with the echo time, and veins displaced by up to a voxel.
    motion
        Head moving between echoes: 0.1 mm and 0.05 rad.
    mask
        Mask eroded and dilated: 1.2 mm, with holes.
    gibbs
        Ringing: a sixth of k-space filled with zeros along every axis.
    mismatch
        Field displaced against the magnitude: 0.3 mm.

    Raises
    ------
    InputError
        A strength that is negative, not finite or above 5.
    """

    background: float = 0.0
    frequency: float = 0.0
    noise: float = 0.0
    dropout: float = 0.0
    flow: float = 0.0
    motion: float = 0.0
    mask: float = 0.0
    gibbs: float = 0.0
    mismatch: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            strength = getattr(self, field.name)
            if not (math.isfinite(strength) and 0 <= strength <= STRONGEST):
                raise InputError(f"the strength of {field.name} errors must lie between 0 and {STRONGEST:g}, got {strength}. 1 is usual.")

    @classmethod
    def none(cls) -> Errors:
        """Return no errors at all."""
        return cls()

    @classmethod
    def training(cls, strength: float = 1.0) -> Errors:
        """Return every error at one strength.

        Parameters
        ----------
        strength
            From 0 to 5.
        """
        return cls(**{field.name: strength for field in fields(cls)})


def frequency_shift(anatomy: Anatomy, strength: float, generator: torch.Generator) -> Volume:
    r"""Draw the frequency shift of white matter that no susceptibility makes: microstructure, exchange, orientation.

    .. math:: \Delta f = 10\,\mathrm{ppb}\; s\; w\; \mathrm{clip}(a + b\,(\tfrac{3}{2}\sin^2\theta - 1) + c\,n)

    with w the share of white matter, θ the angle between fibres and B0, n a smooth random field, and a, b, c drawn anew each time, of
    either sign: what remains in vivo depends on echo times and on the reference.

    Parameters
    ----------
    anatomy
        Labels, and fibres where they are known; where not, the angle is a smooth random one.
    strength
        s of the formula.
    generator
        Draws the shift.

    Returns
    -------
    Tensor
        ppm, zero outside the mask.

    References
    ----------
    Wharton S, Bowtell R. Proc Natl Acad Sci USA 2012;109:18559-18564. doi:10.1073/pnas.1211075109.
    Luo J, et al. NeuroImage 2010;52:1085-1099. doi:10.1016/j.neuroimage.2010.01.050.
    """
    grid, mask = anatomy.grid, anatomy.mask
    if strength == 0:
        return torch.zeros(grid.shape, device=mask.device)
    white = torch.zeros_like(mask)
    for name in WHITE_MATTER:
        white |= anatomy.labels == LABELS[name]
    share = _smooth.blurred((white & mask).float(), grid.voxel_size, 0.5 * min(grid.voxel_size))
    noise = _smooth.random(grid.shape, grid.voxel_size, 20.0, generator, mask.device)
    if anatomy.fibres is None:
        drawn = [_smooth.random(grid.shape, grid.voxel_size, 15.0, generator, mask.device) for _ in range(3)]
        along, length = drawn[0].square(), drawn[0].square() + drawn[1].square() + drawn[2].square()
        sine2 = 1 - along / (length + 0.3)  # no angle jumps where all three pass zero
    else:
        b0_dir = anatomy.fibres.new_tensor(grid.b0_dir)
        known = anatomy.fibres.square().sum(0).clamp_max(1)
        sine2 = 1 - torch.einsum("aijk,a->ijk", anatomy.fibres, b0_dir).square()
        sine2 = torch.lerp(torch.full_like(sine2, 2 / 3), sine2, known)
    a, b, c = (torch.rand(3, generator=generator) * 2 - 1).mul(torch.tensor([0.5, 0.6, 0.2])).tolist()
    pattern = (a + b * (1.5 * sine2 - 1) + c * noise).clamp(-1, 1)
    return strength * LARGEST_SHIFT * share * pattern * mask


def residual_background(mask: Mask, grid: Grid, strength: float, generator: torch.Generator) -> Volume:
    """Draw what background removal leaves behind or takes too much of: mostly harmonic in the mask, and strongest at its edge.

    Parameters
    ----------
    mask
        The brain.
    grid
        Its geometry.
    strength
        1 for a root mean square of 5 ppb over the mask.
    generator
        Draws the field.

    Returns
    -------
    Tensor
        ppm, everywhere.

    Notes
    -----
    Twelve sources of either sign lie outside the mask, each with the potential of a charge; a tenth of the power is a smooth random field
    that obeys no equation, as masks and shims leave it.
    """
    if strength == 0 or not bool(mask.any()):
        return torch.zeros(grid.shape, device=mask.device)
    axes = [torch.arange(n, dtype=torch.float32, device=mask.device) * size for n, size in zip(grid.shape, grid.voxel_size, strict=True)]
    field = torch.zeros(grid.shape, device=mask.device)
    for place in _outside(mask, grid, 12, generator):
        x, y, z = (axis - p for axis, p in zip(axes, place, strict=True))
        squares = x.square()[:, None, None] + (y.square()[:, None] + z.square())
        field += squares.clamp_min_(min(grid.voxel_size) ** 2).rsqrt_() * float(torch.randn((), generator=generator))
    field = _smooth.standard(field, mask)
    other = _smooth.standard(_smooth.random(grid.shape, grid.voxel_size, 30.0, generator, mask.device), mask)
    return strength * LEFTOVER * _smooth.standard(0.95 * field + 0.3 * other, mask)


def _outside(mask: Tensor, grid: Grid, count: int, generator: torch.Generator) -> list[list[float]]:
    """Draw points in mm just outside the mask: along random directions from its middle, beyond the last voxel met."""
    inside = mask.nonzero()
    sizes = torch.tensor(grid.voxel_size)
    middle = inside.float().mean(0).cpu() * sizes
    reach = float((torch.tensor(grid.shape) * sizes).norm())
    steps = torch.arange(0.0, reach, min(grid.voxel_size))
    places = []
    for _ in range(count):
        direction = torch.nn.functional.normalize(torch.randn(3, generator=generator), dim=0)
        ray = ((middle + steps[:, None] * direction) / sizes).round().long()
        there = ((ray >= 0) & (ray < torch.tensor(grid.shape))).all(1)
        hit = torch.zeros(len(steps), dtype=torch.bool)
        hit[there] = mask[tuple(ray[there].to(mask.device).T)].cpu()
        edge = float(steps[hit].max()) if bool(hit.any()) else 0.0
        gap = 6 + 20 * float(torch.rand((), generator=generator))
        places.append((middle + (edge + gap) * direction).tolist())
    return places


def rough_mask(mask: Mask, strength: float, generator: torch.Generator, *, voxel_size: Sequence[float] = (1.0, 1.0, 1.0)) -> Mask:
    """Draw an imperfect mask: its surface moved in and out by a smooth random distance, eroded or dilated as a whole, with a few holes.

    Parameters
    ----------
    mask
        The brain.
    strength
        1 for a surface wrong by 1.2 mm, standard deviation.
    generator
        Draws the errors.
    voxel_size
        Edge lengths, mm.

    Returns
    -------
    Tensor
        Another mask, never empty where the given one is not.
    """
    if strength == 0 or not bool(mask.any()):
        return mask.clone()
    width = 2.0 * max(1.0, strength) * EDGE
    shift = 0.7 * float(torch.randn((), generator=generator)) + 0.7 * _smooth.random(mask.shape, voxel_size, 15.0, generator, mask.device)
    inwards = (strength * EDGE * shift).clamp(-2 * width, 2 * width)  # mm
    depth = _smooth.blurred(mask.float(), voxel_size, width)  # the normal distribution of the distance to a flat surface
    level = 0.5 * (1 + torch.erf(inwards / (width * math.sqrt(2))))
    kept = torch.where(inwards > 0, mask & (depth > level), mask | (depth > level))
    holes = _smooth.random(mask.shape, voxel_size, 7.0, generator, mask.device) > 3.4 - 0.2 * min(strength, 3.0)
    kept &= ~holes
    return kept if bool(kept.any()) else mask.clone()


def noise_map(grid: Grid, strength: float, generator: torch.Generator, device: torch.device | str = "cpu") -> Volume:
    """Draw how the noise varies in space: largest in the middle, where coils are far and unfolding is worst.

    Parameters
    ----------
    grid
        Where.
    strength
        1 for about half as much again in the middle as at the rim.
    generator
        Draws the map.
    device
        Where to compute.

    Returns
    -------
    Tensor
        Factor on the standard deviation, mean 1.
    """
    if strength == 0:
        return torch.ones(grid.shape, device=device)
    axes = [
        ((torch.arange(n, device=device) - (n - 1) / 2) * size / 60.0).square() for n, size in zip(grid.shape, grid.voxel_size, strict=True)
    ]
    hump = torch.exp(-0.5 * (axes[0][:, None, None] + axes[1][:, None] + axes[2]))
    factor = torch.exp(strength * (0.4 * hump + 0.1 * _smooth.random(grid.shape, grid.voxel_size, 35.0, generator, device)))
    return factor / factor.mean()


def flow(veins: Volume, grid: Grid, strength: float, generator: torch.Generator) -> Volume:
    """Draw the apparent field of venous blood that moves along a readout gradient: phase that grows with the echo time.

    Parameters
    ----------
    veins
        Share of each voxel that is venous blood.
    grid
        Its geometry.
    strength
        1 for 50 ppb, standard deviation, in a voxel full of blood.
    generator
        Draws directions and speeds.

    Returns
    -------
    Tensor
        ppm, zero where there are no veins.
    """
    if strength == 0:
        return torch.zeros_like(veins)
    return strength * FLOW * veins * _smooth.random(grid.shape, grid.voxel_size, 25.0, generator, veins.device)


def motion(echoes: int, strength: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw a head that drifts from echo to echo.

    Parameters
    ----------
    echoes
        How many.
    strength
        1 for steps of 0.1 mm and 0.05 rad.
    generator
        Draws the steps.

    Returns
    -------
    Tensor
        Place of each echo, mm along the axes, (echo, 3), the first at zero.
    Tensor
        Phase of each echo, rad, the first zero.
    """
    steps = torch.randn((echoes, 4), generator=generator) * torch.tensor([0.1, 0.1, 0.1, 0.05]) * strength
    steps[0] = 0
    walk = steps.cumsum(0)
    return walk[:, :3], walk[:, 3]
