"""What the networks begin with: two classical inversions that err differently, cut short, and their mean."""

from __future__ import annotations

import math

from torch import Tensor

from paradia.grid import Grid
from paradia.registry import load
from paradia.types import Callback

SHORT, RENEWED = 7, 24
"""Iterations of `l1bayes`, in each round, and of `nltv`, all in which it renews its prices: what is not finished the network mends."""


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
    l1bayes, nltv = load("inversion", "l1bayes").function, load("inversion", "nltv").function  # stages know no other by import
    held: Tensor = l1bayes(field, mask, grid, noise, max_iter=SHORT, tol=math.inf, callback=callback)
    followed: Tensor = nltv(field, mask, grid, noise, max_iter=RENEWED, tol=math.inf, callback=callback)
    return (held + followed) / 2
