"""How much each voxel counts."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.operators._base import SymmetricOperator
from paradia.types import Image, Mask, Volume

RARE = 10.0
"""A voxel that claims to be this many times surer than the median voxel is no surer than that: no scan is so uneven."""


class Weighting(SymmetricOperator):
    """Multiply by one over the noise, scaled to a mean of one in the mask, and by zero outside it.

    ::

        weighted = Weighting(mask, noise) @ field

    Parameters
    ----------
    mask
        Voxels that count.
    noise
        Standard deviation, any unit; voxels where it is zero or not finite are unknown and do not count. Without it, or where it is
        known nowhere, all count alike.
    limit
        Largest weight, so that a voxel of next to no noise does not count for all others.
    """

    weights: Tensor

    def __init__(self, mask: Mask, noise: Volume | None = None, limit: float = 3.0) -> None:
        super().__init__()
        weights = mask.to(torch.float32)
        if noise is not None:
            sure = certainty(noise, mask)
            weights = (sure / sure[mask].mean()).clamp_max(limit) if bool(sure.any()) else mask.to(noise)
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, x: Image) -> Image:
        """Weigh."""
        return self.weights * x


def known_noise(noise: Volume, mask: Mask) -> Mask:
    """Mark the voxels of a mask whose noise is known: positive and finite."""
    return mask & (noise > 0) & noise.isfinite()


def typical_noise(noise: Volume | None, mask: Mask) -> float:
    """Return the median of the noise where it is known, zero where it is known nowhere."""
    known = None if noise is None else noise[known_noise(noise, mask)]
    return 0.0 if known is None or not len(known) else float(known.median())


def certainty(noise: Volume, mask: Mask) -> Volume:
    """Return one over the noise, zero where it is unknown and outside the mask."""
    known = known_noise(noise, mask)
    sure = torch.where(known, 1 / noise, 0.0)
    return sure.clamp_max(RARE * sure[known].median()) if bool(known.any()) else sure
