"""What the networks begin with: two classical inversions that err differently, cut short, and their mean."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paradia.grid import Grid
from paradia.registry import load
from paradia.types import Callback

ITERATIONS = {"l1bayes": 7, "nltv": 24}
"""Of each, in every round of the first: fewer than alone, since the network mends what is not finished."""


def begin(field: Tensor, mask: Tensor, grid: Grid, noise: Tensor | None, callback: Callback | None = None) -> Tensor:
    """Invert a local field as the networks expect it, in training and after.

    `l1bayes` holds what noise hides, `nltv` follows a quiet field further, and what one gets wrong the other seldom gets wrong alike:
    from the mean of both a network comes closer on most volumes than from either.

    Parameters
    ----------
    field
        (x, y, z), ppm, in the window of its mask.
    mask
        Voxels where it holds.
    grid
        Of the window.
    noise
        Standard deviation of the field, ppm.
    callback
        Called as ``callback(iteration, relative_change)`` in the one and then in the other.

    Returns
    -------
    Tensor
        χ, ppm, zero outside the mask, not referenced.
    """
    starts = []
    for name, most in ITERATIONS.items():
        method = load("inversion", name).function  # stages know no other by import
        starts.append(method(field, mask, grid, noise, max_iter=most, tol=math.inf, callback=callback))
    return torch.stack(starts).mean(0)
