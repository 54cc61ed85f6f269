"""Where in the head a voxel is, for references that are found and not given."""

from __future__ import annotations

import torch
from scipy.ndimage import binary_opening, label
from torch import Tensor

from paradia.grid import Grid


def from_centre(mask: Tensor, grid: Grid) -> Tensor:
    """Distance of each voxel from the centre of mass of the mask, mm."""
    places = mask.nonzero().float()
    centre = places.mean(0)
    axes = [(torch.arange(n, device=mask.device) - c) * v for n, c, v in zip(grid.shape, centre, grid.voxel_size, strict=True)]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    return (x.square() + y.square() + z.square()).sqrt()


def largest_pieces(region: Tensor, count: int, *, opened: bool = False) -> Tensor:
    """Keep the largest connected pieces of a region."""
    array = region.cpu().numpy()
    pieces, found = label(binary_opening(array) if opened else array)
    if found == 0:
        return torch.zeros_like(region)
    labels = torch.from_numpy(pieces).to(region.device)
    sizes = torch.bincount(labels.flatten())[1:]
    return torch.isin(labels, sizes.argsort(descending=True, stable=True)[:count] + 1)
