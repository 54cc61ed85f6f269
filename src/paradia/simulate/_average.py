"""From the fine voxels on which a head is made to those of a scanner, which hold several of them."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.errors import GeometryError
from paradia.grid import Grid
from paradia.simulate.anatomy import Anatomy
from paradia.simulate.tissue import Maps

SEEN = 0.005
"""Echo time whose signal weighs the rates that share a voxel, s."""


def finer(grid: Grid, factor: int) -> Grid:
    """Return a finer grid over the same field of view."""
    shape, sizes = ([n * factor for n in grid.shape], [v / factor for v in grid.voxel_size])
    return grid if factor == 1 else Grid((shape[0], shape[1], shape[2]), (sizes[0], sizes[1], sizes[2]), grid.b0_dir)


def coarser(grid: Grid, factor: int) -> Grid:
    """Return the grid whose voxels hold several of this one's."""
    if factor == 1:
        return grid
    if any(n % factor for n in grid.shape):
        raise GeometryError(f"an anatomy of {grid.shape} voxels cannot be averaged by {factor}. Crop it to a multiple.")
    shape, sizes = ([n // factor for n in grid.shape], [v * factor for v in grid.voxel_size])
    return Grid((shape[0], shape[1], shape[2]), (sizes[0], sizes[1], sizes[2]), grid.b0_dir)


def mean(image: Tensor, factor: int) -> Tensor:
    """Average blocks of voxels."""
    return image if factor == 1 else torch.nn.functional.avg_pool3d(image[None], factor)[0]


def most(labels: Tensor, factor: int) -> Tensor:
    """Return the label that most voxels of each block have."""
    if factor == 1:
        return labels
    blocks = labels.unfold(0, factor, factor).unfold(1, factor, factor).unfold(2, factor, factor)
    return torch.stack([plane.flatten(-3).mode(-1).values for plane in blocks])


def repeated(mask: Tensor, factor: int) -> Tensor:
    """Give every fine voxel the value of the coarse one that holds it."""
    for axis in range(3):
        mask = mask.repeat_interleave(factor, axis) if factor > 1 else mask
    return mask


def averaged_anatomy(anatomy: Anatomy, factor: int) -> Anatomy:
    """Bring an anatomy to a coarser grid; its mask holds voxels of which more than half is brain."""
    if factor == 1:
        return anatomy
    fibres = anatomy.fibres
    if fibres is not None:  # a direction has no sign: all into one half space before averaging
        upward = torch.where(fibres[2:] < 0, -fibres, fibres)
        along = torch.stack([mean(part, factor) for part in upward])
        fibres = along / along.norm(dim=0).clamp(min=1e-6) * (along.norm(dim=0) > 0.25)
    mask = mean(anatomy.mask.float(), factor) > 0.5
    veins, detail = mean(anatomy.veins, factor), mean(anatomy.detail, factor)
    return Anatomy(most(anatomy.labels, factor), mask, veins, detail, fibres, coarser(anatomy.grid, factor))


def averaged_maps(maps: Maps, factor: int) -> Maps:
    """Average susceptibilities and density by volume, rates by the signal that is left at 5 ms, so that R2* = R2 + R2′ holds."""
    if factor == 1:
        return maps
    signal = maps.density * torch.exp(-SEEN * maps.r2star)
    seen = mean(signal, factor).clamp(min=1e-9)
    chi_pos, chi_neg, density = (mean(image, factor) for image in (maps.chi_pos, maps.chi_neg, maps.density))
    r1, r2, r2prime, fat = (mean(rate * signal, factor) / seen for rate in (maps.r1, maps.r2, maps.r2prime, maps.fat))
    return Maps(chi_pos, chi_neg, density, r1, r2, r2prime, r2 + r2prime, fat)
