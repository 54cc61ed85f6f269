"""How well a calcification, far more diamagnetic than anything around it, comes out."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from paradia.errors import MaskError
from paradia.metrics._filters import around
from paradia.types import Mask, Volume

CORE, RIM, FAR = 3, 7, 11
"""Voxels by which the three boxes exceed the calcification: what belongs to it, where it streaks, what it is told from."""

STEP, STEPS = 0.01, 350
"""Thresholds that are tried, ppm: 0, −0.01, … −3.5."""


class Calcification(NamedTuple):
    """What became of a calcification."""

    moment_deviation: float
    """Distance of its summed susceptibility from the true sum, ppm times voxels."""
    streak: float
    """Standard deviation around it of what the truth does not explain, over its mean susceptibility; NaN where it was not found."""


def calcification(estimate: Volume, truth: Volume, region: Mask) -> Calcification:
    """Return how far a reconstructed calcification is from the true one, and how much it streaks.

    The calcification is told from the map itself: what in the box around the true one lies below the highest threshold that
    nothing around the box lies below.

    Parameters
    ----------
    estimate, truth
        χ, ppm; a calcification is negative.
    region
        Where the calcification is.

    Raises
    ------
    MaskError
        The region is empty.

    References
    ----------
    QSM Challenge 2.0 Organization Committee. Magn Reson Med 2021;86(3):1241-1255. doi:10.1002/mrm.28754.
    """
    if not region.any():
        raise MaskError("the region of the calcification is empty. Give the label of one that the truth has.")
    core, rim, far = (_box(region, reach) for reach in (CORE, RIM, FAR))
    a, b = estimate.double(), truth.double()
    lowest = a[far & ~core].min() if (far & ~core).any() else a.new_zeros(())
    thresholds = -STEP * torch.arange(STEPS + 1, dtype=torch.float64, device=a.device)
    reached = thresholds[lowest >= thresholds]
    threshold = reached[0] if len(reached) else thresholds[-1]
    found = a[core & (a < threshold)]
    moment = b[region].sum()
    if found.numel() == 0:
        return Calcification(float(moment.abs()), math.nan)
    ring = rim & ~core
    streak = float(_unexplained(a[ring], b[ring]) / found.mean().abs()) if int(ring.sum()) > 1 else math.nan
    return Calcification(float((found.sum() - moment).abs()), streak)


def _box(region: Mask, reach: int) -> Mask:
    box = torch.zeros_like(region)
    box[around(region, reach)] = True
    return box


def _unexplained(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the standard deviation of what is left of a after a line in b."""
    a, b = a - a.mean(), b - b.mean()
    spread = b.dot(b)
    return (a - b * (a.dot(b) / spread if float(spread) else 0.0)).square().mean().sqrt()
