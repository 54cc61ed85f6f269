"""Where a fit can be believed."""

from __future__ import annotations

import math

import torch
from scipy.ndimage import binary_fill_holes
from torch import Tensor

from paradia.errors import InputError


def check_limit(limit: float) -> None:
    """Refuse a limit of the noise that no voxel meets."""
    if not limit > 0:
        raise InputError(f"noise_limit must be positive, got {limit}. 3 to 10 are usual, infinite leaves nothing out.")


def reliable(mask: Tensor, noise: Tensor, limit: float) -> Tensor:
    """Peel off the mask what the echoes do not tell.

    Beside air the signal dephases within a few milliseconds and the field that is fitted there may be anything; a background
    removal spreads such a voxel over half the brain. Voxels as noisy inside the brain, in a vein or a bleeding, stay: a hole
    would cost their surroundings more.

    Parameters
    ----------
    mask
        Voxels that were fitted.
    noise
        Standard deviation of the field, raised where the echoes contradict each other.
    limit
        Multiple of the median noise up to which a voxel is believed.

    Returns
    -------
    Tensor
        The mask, less the noisy voxels that reach its edge.
    """
    if math.isinf(limit):
        return mask.clone()
    believed = mask & (noise <= limit * noise[mask].median())
    flat = believed.reshape([n for n in believed.shape if n > 1])  # in a single slice a hole is open to no third axis
    filled = torch.from_numpy(binary_fill_holes(flat.cpu().numpy()) if flat.ndim else flat.cpu().numpy())
    return filled.to(mask.device).view(mask.shape) & mask
