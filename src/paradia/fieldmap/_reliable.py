"""Where a fit can be believed."""

from __future__ import annotations

import torch
from scipy.ndimage import binary_fill_holes
from torch import Tensor


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
    believed = mask & (noise <= limit * noise[mask].median())
    filled = binary_fill_holes(believed.cpu().numpy())
    return torch.from_numpy(filled).to(mask.device) & mask
