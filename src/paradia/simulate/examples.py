"""Simulated volumes to learn from: as a pipeline would see them, and the truth."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from paradia.errors import InputError
from paradia.fft import fast_shape
from paradia.grid import Grid
from paradia.scan import Scan, usual_relaxivity
from paradia.simulate._average import averaged_anatomy, averaged_maps, finer, mean, repeated
from paradia.simulate.anatomical import AGES, anatomical
from paradia.simulate.anatomy import Anatomy
from paradia.simulate.fields import fields
from paradia.simulate.imperfect import frequency_shift, residual_background, rough_mask
from paradia.simulate.lesions import KINDS, draw
from paradia.simulate.procedural import procedural
from paradia.simulate.randomised import randomised
from paradia.simulate.tissue import LABELS, Maps, maps, relaxed

HEAD = (176.0, 212.0, 176.0)
"""Field of view that holds a head from the vertex to the foramen magnum, mm."""

SLAB = (45.0, 90.0)
"""Range of the height of a slab through the middle of a head, mm."""

FINEST = 1.4
"""Smallest edge in the plane of voxels that are averages of finer ones, mm: of smaller ones there would be too many."""

MOST = 4
"""Lesions of one kind in a head, at most."""

STRETCH = (0.8, 1.1)
"""Range of the size of a randomised head along each axis against a natural one."""

CAREFUL = (1.0, 5.0)
"""Range of what a careful mask leaves out at the edge of a brain, mm."""

CONSTANT = 1e-3
"""Standard deviation of the constant that a background removal leaves, ppm."""

OUTSIDE = torch.tensor([LABELS[name] for name in ("air", "muscle", "fat", "bone", "marrow")])
"""Tissues that no brain mask holds."""


@dataclass(frozen=True)
class Recipe:
    """What the volumes are like; each draws its own within these ranges."""

    voxel_size: tuple[float, float] = (0.9, 2.0)
    """Smallest and largest edge in the plane, mm."""
    thickness: tuple[float, float] = (1.0, 1.8)
    """Slice thickness over the edge in the plane."""
    thickest: float = 3.0
    """No slice is thicker, mm."""
    tilt: float = 30.0
    """Largest angle between B0 and the third axis, degrees."""
    b0: tuple[float, ...] = (1.5, 3.0, 3.0, 7.0)
    """Field strengths to choose from, T."""
    snr: tuple[float, float] = (30.0, 200.0)
    """Range of the signal-to-noise ratio of the first echo."""
    procedural: float = 0.3
    """Share of volumes of random shapes instead of heads."""
    procedural_side: int = 112
    """Edge of those, voxels."""
    slabs: float = 0.1
    """Share of heads of which only a slab through the middle is scanned."""
    randomised: float = 0.5
    """Share of heads of strange shape whose tissues are made of anything."""
    averaged: float = 0.0
    """Share of volumes, among those of voxels of 1.4 mm or more, made twice as fine and averaged: several times as slow."""
    eroded: float = 0.0
    """Share of masks that leave out the rim, `CAREFUL` of it: what is there is background then."""
    flush: float = 0.0
    """Share of averaged volumes in which bone and air may touch the mask."""
    lesions: float = 0.5
    """Share of heads with lesions: up to `MOST` of each kind."""
    errors: float = 1.0
    """Strength of what no model holds: frequency shifts that are no susceptibility, backgrounds left over, rough masks."""
    dr_spread: float = 0.25
    """Relative range of Dr around 137 Hz/ppm at 3 T."""
    age: tuple[float, float] = (18.0, 80.0)
    """Range of the ages of heads, years: sets iron, ventricles and sulci."""

    def __post_init__(self) -> None:
        for name, (low, high) in (("voxel_size", self.voxel_size), ("thickness", self.thickness), ("snr", self.snr)):
            if not 0 < low <= high:
                raise InputError(f"{name} must be a range of positive numbers, the smaller first, got {(low, high)}.")
        for name in ("procedural", "slabs", "randomised", "averaged", "eroded", "flush", "lesions"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is a share between 0 and 1, got {getattr(self, name)}.")
        if not AGES[0] <= self.age[0] <= self.age[1] <= AGES[1]:
            raise InputError(f"age must be a range between {AGES[0]:g} and {AGES[1]:g} years, the smaller first, got {self.age}.")
        if not self.b0:
            raise InputError("b0 must name at least one field strength in tesla.")


class Example(NamedTuple):
    """A volume as a pipeline would see it, and the truth. All maps (x, y, z)."""

    grid: Grid
    mask: Tensor
    """The brain as a mask step found it, rough at its edge."""
    total_field: Tensor
    """With noise, ppm."""
    noise: Tensor
    """Standard deviation of the field, ppm."""
    local_field: Tensor
    """Of what the mask holds, without noise, but with shifts that are no susceptibility, ppm."""
    leftover: Tensor
    """Smooth field that a background removal would leave, ppm: add it to the local field where none is run."""
    chi_pos: Tensor
    chi_neg: Tensor
    r2star: Tensor
    """With noise, 1/s."""
    r2prime: Tensor
    """With noise, 1/s."""
    r2star_noise: Tensor
    """Its standard deviation, 1/s."""
    r2prime_noise: Tensor
    r2: Tensor
    """Truth, 1/s."""
    magnitude: Tensor
    """Of the first echo, without noise."""
    b0: float
    dr_pos: float
    """Hz/ppm, true."""
    dr_neg: float


def example(recipe: Recipe, seed: int, device: str | torch.device = "cpu") -> Example:
    """Simulate one volume of a recipe.

    Parameters
    ----------
    recipe
        What it is like.
    seed
        Draws everything.
    device
        Where to compute what is large.

    Returns
    -------
    Example
        Field of the whole volume, computed on twice its field of view, tissue going on beyond it.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float | int, high: float | int) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    b0 = recipe.b0[int(torch.randint(len(recipe.b0), (), generator=generator))]
    dr_pos = usual_relaxivity(b0) * uniform(1 - recipe.dr_spread, 1 + recipe.dr_spread)
    dr_neg = usual_relaxivity(b0) * uniform(1 - recipe.dr_spread, 1 + recipe.dr_spread)
    shapes = uniform(0, 1) < recipe.procedural
    grid = _grid(recipe, shapes, uniform)
    factor = 2 if grid.voxel_size[0] >= FINEST and uniform(0, 1) < recipe.averaged else 1
    fine, sources = _made(recipe, seed, finer(grid, factor), shapes, (b0, dr_pos, dr_neg), uniform)
    fine = Anatomy._make(part.to(device) if isinstance(part, Tensor) else part for part in fine)
    sources = Maps(*(part.to(device) for part in sources))
    anatomy, mask, sources = _voxels(recipe, fine, sources, factor, generator, uniform)
    tissue = averaged_maps(sources, factor)
    flush = factor > 1 and bool(recipe.flush) and uniform(0, 1) < recipe.flush
    found = fields(sources.chi_pos - sources.chi_neg, repeated(mask, factor), fine.grid, flush=flush)
    local, total = mean(found.local, factor), mean(found.total, factor)
    shift = torch.zeros_like(local)
    leftover = torch.zeros_like(local)
    if recipe.errors:
        shift = frequency_shift(anatomy, recipe.errors * uniform(0, 1), generator) * mask
        leftover = residual_background(mask, grid, recipe.errors * max(uniform(-0.5, 1), 0.0), generator)
        leftover += recipe.errors * CONSTANT * float(torch.randn((), generator=generator))
    magnitude, noise, rate_noise = _noise(tissue, mask, b0, uniform(*map(math.log, recipe.snr)), uniform)
    draws = [torch.randn(grid.shape, generator=generator).to(device) for _ in range(3)]
    rate = tissue.r2star + rate_noise * draws[1]
    # R2 comes from another scan, with noise of its own
    prime_noise = torch.hypot(rate_noise, uniform(0.02, 0.1) * tissue.r2)
    prime = tissue.r2prime + prime_noise * draws[2]
    return Example(
        grid=grid,
        mask=mask,
        total_field=(total + shift + noise * draws[0]) * mask,
        noise=noise * mask,
        local_field=(local + shift) * mask,
        leftover=leftover * mask,
        chi_pos=tissue.chi_pos * mask,
        chi_neg=tissue.chi_neg * mask,
        r2star=rate * mask,
        r2prime=prime * mask,
        r2star_noise=rate_noise * mask,
        r2prime_noise=prime_noise * mask,
        r2=tissue.r2 * mask,
        magnitude=magnitude,
        b0=b0,
        dr_pos=dr_pos,
        dr_neg=dr_neg,
    )


def _grid(recipe: Recipe, shapes: bool, uniform) -> Grid:
    """Draw voxel size, slice thickness and the direction of B0."""
    edge = math.exp(uniform(*map(math.log, recipe.voxel_size)))
    thick = min(edge * (uniform(*recipe.thickness) if uniform(0, 1) < 0.5 else 1.0), max(recipe.thickest, edge))
    size = (edge, edge, thick)
    tilt, turn = math.radians(recipe.tilt) * uniform(0, 1) ** 2, uniform(0, 2 * math.pi)
    b0_dir = (math.sin(tilt) * math.cos(turn), math.sin(tilt) * math.sin(turn), math.cos(tilt))
    if shapes:
        side = recipe.procedural_side
        return Grid((side, side, side), size, b0_dir)
    height = uniform(*SLAB) if uniform(0, 1) < recipe.slabs else HEAD[2]
    x, y, z = fast_shape([math.ceil(extent / s) for extent, s in zip((*HEAD[:2], height), size, strict=True)])
    return Grid((x, y, z), size, b0_dir)


def _made(recipe: Recipe, seed: int, grid: Grid, shapes: bool, scan: tuple[float, float, float], uniform) -> tuple[Anatomy, Maps]:
    """Make random shapes or a head, with what fills them."""
    b0, dr_pos, dr_neg = scan
    if shapes:
        anatomy, tissue = procedural(grid, seed=seed, b0=b0)
        return anatomy, relaxed(tissue, anatomy, dr_pos, dr_neg)
    age = uniform(*recipe.age)
    strange = uniform(0, 1) < recipe.randomised
    anatomy = _stretched(grid, seed, age, uniform) if strange else anatomical(grid, seed=seed, age=age)
    tissue = maps(anatomy, b0=b0, seed=seed, age=age, dr_pos=dr_pos, dr_neg=dr_neg, texture=uniform(0.7, 2.0))
    if uniform(0, 1) < recipe.lesions:
        kinds = [kind for kind in KINDS for _ in range(int(uniform(0, MOST + 1)))]
        tissue, anatomy, _ = draw(tissue, anatomy, seed=seed, kinds=tuple(kinds))
    if strange:
        tissue = randomised(tissue, anatomy, seed=seed, dr_pos=dr_pos, dr_neg=dr_neg)
    return anatomy, tissue


def _voxels(recipe: Recipe, fine: Anatomy, sources: Maps, factor: int, generator: torch.Generator, uniform) -> tuple[Anatomy, Tensor, Maps]:
    """Average an anatomy onto the scanner's voxels, find the mask there, rough at its edge, and return the sources that it holds."""
    anatomy = averaged_anatomy(fine, factor)
    mask = anatomy.mask
    if recipe.errors:
        rough = rough_mask(mask, recipe.errors * uniform(0, 1), generator, voxel_size=anatomy.grid.voxel_size)
        # no mask step keeps what gives no signal, and its χ would drown all other sources
        mask = rough & (mask | ~_silent(anatomy))
    if recipe.eroded and uniform(0, 1) < recipe.eroded:
        mask = _within(mask, uniform(*CAREFUL), anatomy.grid)
    if factor > 1:  # what gives no signal in a voxel of the brain is taken for water, as all that touches the brain
        dark = repeated(mask, factor) & ~fine.mask & _silent(fine)
        sources = sources._replace(chi_pos=sources.chi_pos.masked_fill(dark, 0.0), chi_neg=sources.chi_neg.masked_fill(dark, 0.0))
    return anatomy, mask, sources


def _within(mask: Tensor, away: float, grid: Grid) -> Tensor:
    """Keep what lies further from the edge than that, mm; all where nothing does."""
    depth = distance_transform_edt(np.pad(mask.cpu().numpy(), 1), sampling=grid.voxel_size)[1:-1, 1:-1, 1:-1]
    kept = torch.from_numpy(depth > away).to(mask.device)
    return kept if kept.any() else mask


def _silent(anatomy: Anatomy) -> Tensor:
    return torch.isin(anatomy.labels, OUTSIDE.to(anatomy.labels.device))


def _stretched(grid: Grid, seed: int, age: float, uniform) -> Anatomy:
    """Draw a head that is further from the bank than people are, wider or narrower along each axis."""
    x, y, z = (size / uniform(*STRETCH) for size in grid.voxel_size)
    anatomy = anatomical(replace(grid, voxel_size=(x, y, z)), seed=seed, age=age, strength=uniform(1.0, 2.0))
    return anatomy._replace(grid=grid)


def _noise(tissue: Maps, mask: Tensor, b0: float, log_snr: float, uniform) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first echo's magnitude and the Cramér-Rao bounds of field (ppm) and R2* (1/s) for a drawn train of echoes."""
    count, first = int(uniform(3, 9)), uniform(0.002, 0.007) * (3 / b0) ** 0.5
    spacing = uniform(0.003, 0.008) * (3 / b0) ** 0.5
    times = torch.tensor([first + spacing * n for n in range(count)])
    scan = Scan(tuple(times.tolist()), b0)
    start = tissue.density * (1 - torch.exp(-uniform(0.02, 0.05) * tissue.r1)).clamp_min(0)
    start = start / start[mask].max().clamp_min(1e-6)
    echoes = start * torch.exp(-times.to(start)[:, None, None, None] * tissue.r2star)
    weights = (echoes * math.exp(log_snr)).square().clamp_min(1e-3)
    seconds = times.to(start)[:, None, None, None]
    mean = (weights * seconds).sum(0) / weights.sum(0)
    deviation = (weights * (seconds - mean).square()).sum(0).rsqrt()  # of the slope over time of phase, and of log magnitude
    return echoes[0], (deviation / scan.rad_per_ppm(1.0)).clamp_max(0.3) * mask, deviation.clamp_max(100.0) * mask
