"""Where edges of χ are to be expected, learnt from the χ so far."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.fft import Window
from paradia.operators.gradient import Gradient
from paradia.sources.slopes import edges

LEAST = 0.1
"""Least factor of the price, so that nothing is free."""


def expected(chi: Tensor, window: Window) -> Tensor:
    r"""Return factors on the price of each slope, with a mean of one between voxels of the mask.

    They are :math:`(1 + |\nabla_i\tilde\chi| / s)^{-3/2}` with χ smoothed over three voxels and :math:`s` its mean absolute slope:
    what is likely an edge costs less, what is likely flat more. This is what becomes of a Laplace prior when the scale at each
    voxel is itself unknown and learnt from its surroundings.

    Parameters
    ----------
    chi
        Susceptibility in the window.
    window
        Around the mask.
    """
    slopes = Gradient(window.grid, periodic=True)(smooth(chi * window.mask)).abs_()
    usual = mean_between(slopes, window.mask).clamp_min(torch.finfo(chi.dtype).tiny)
    steepness = slopes.div_(usual).add_(1)
    factors = steepness.sqrt().mul_(steepness).reciprocal_()
    return factors.div_(mean_between(factors, window.mask)).clamp_min_(LEAST)


def mean_between(slopes: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of what is told of each slope (axis, x, y, z), over those between two voxels of the mask; one where there are none.

    Slopes across the border of the mask would count on one side of it alone, as a slope stands at its first voxel.
    """
    inside = slopes[torch.stack(edges(mask))]
    return inside.mean() if inside.numel() else slopes.new_ones(())


def smooth(image: Tensor) -> Tensor:
    """Average over three voxels along each axis, the middle one counting twice."""
    for axis in range(3):
        image = image.roll(1, axis).add_(image.roll(-1, axis)).add_(image, alpha=2).div_(4)
    return image
