"""Images inside a mask: numbers there, zero elsewhere, precise enough, how deep a voxel lies, and which pieces there are."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, label
from torch import Tensor

from paradia.errors import NonFiniteError
from paradia.fft import bounding_box
from paradia.grid import Grid


def check_numbers(mask: Tensor, **images: Tensor | None) -> None:
    """Refuse what is not a number inside a mask.

    Parameters
    ----------
    mask
        Voxels that count.
    images
        What must hold numbers there, under the names to use in a message.

    Raises
    ------
    NonFiniteError
        An image is NaN or Inf inside the mask.
    """
    for name, image in images.items():
        broken = 0 if image is None else int((~torch.isfinite(image) & mask).sum())
        if broken:
            raise NonFiniteError(f"{name} is NaN or Inf in {broken} voxels inside the mask. Take those voxels out of the mask.")


def single(image: Tensor) -> Tensor:
    """Return an image in single precision at least: squares, weights and echo times in whole numbers or half precision would be others."""
    return image.to(torch.promote_types(image.dtype, torch.float32))


def within(image: Tensor, mask: Tensor) -> Tensor:
    """Return an image that is zero outside a mask; a product would let NaN through."""
    return torch.where(mask, image, 0.0)


def levelled(field: Tensor, mask: Tensor) -> Tensor:
    """Return a field less its median in the mask, zero outside: no source makes the centre frequency of a scan, or a turn too many.

    Left in a total field, half a ppm of it would be fitted by sources on the mask's edge and beyond, and spoil what lies there. In a local
    field, which background removal leaves off by little, it would count for strength and, cut off at the mask's edge, for noise.
    """
    inside = field[..., mask]
    middle = (inside.median(-1).values - inside.neg().median(-1).values) / 2  # between the two of an even number: odd in the field
    return within(field - middle[..., None, None, None], mask)


def depth(mask: Tensor, grid: Grid) -> Tensor:
    """Return how far each voxel of a mask lies from the nearest outside it, mm; beyond the volume all is outside.

    Parameters
    ----------
    mask
        (x, y, z).
    grid
        Its voxel size.

    Returns
    -------
    Tensor
        (x, y, z), float64, zero outside the mask.
    """
    found = torch.zeros(mask.shape, dtype=torch.float64)
    if not mask.any():
        return found.to(mask.device)
    box = bounding_box(mask)
    framed = np.pad(mask[box].cpu().numpy(), 1)
    found[box] = torch.from_numpy(distance_transform_edt(framed, sampling=grid.voxel_size)[1:-1, 1:-1, 1:-1])
    return found.to(mask.device)


def largest_pieces(region: Tensor, count: int) -> Tensor:
    """Keep the largest pieces of a region that hang together across faces."""
    pieces, found = label(region.cpu().numpy())
    if found == 0:
        return torch.zeros_like(region)
    labels = torch.from_numpy(pieces).to(region.device)
    sizes = torch.bincount(labels.flatten())[1:]
    return torch.isin(labels, sizes.argsort(descending=True, stable=True)[:count] + 1)
