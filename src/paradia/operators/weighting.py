"""How much each voxel counts."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.operators._base import SymmetricOperator
from paradia.types import Image, Mask, Volume


class Weighting(SymmetricOperator):
    """Multiply by one over the noise, scaled to a mean of one in the mask, and by zero outside it.

    ::

        weighted = Weighting(mask, noise) @ field

    Parameters
    ----------
    mask
        Voxels that count.
    noise
        Standard deviation, any unit; voxels where it is zero are unknown and do not count. Without it all count alike.
    limit
        Largest weight, so that a voxel of next to no noise does not count for all others.
    """

    weights: Tensor

    def __init__(self, mask: Mask, noise: Volume | None = None, limit: float = 3.0) -> None:
        super().__init__()
        if noise is None:
            weights = mask.to(torch.float32)
        else:
            known = mask & (noise > 0) & noise.isfinite()
            weights = torch.where(known, 1 / noise, 0.0)
            weights = (weights / weights[mask].mean().clamp_min(torch.finfo(noise.dtype).tiny)).clamp_max(limit)
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, x: Image) -> Image:
        """Weigh."""
        return self.weights * x
