"""How deep a voxel lies inside a mask."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from paradia.grid import Grid


def depth(mask: Tensor, grid: Grid) -> Tensor:
    """Return the distance of each voxel to the nearest one outside the mask, mm, zero outside it.

    What lies beyond the volume counts as outside.
    """
    inside = np.pad(mask.cpu().numpy(), 1)
    distance = distance_transform_edt(inside, sampling=grid.voxel_size)[1:-1, 1:-1, 1:-1]
    return torch.from_numpy(np.ascontiguousarray(distance, dtype=np.float32)).to(mask.device)
