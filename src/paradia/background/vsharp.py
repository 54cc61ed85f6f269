"""Spherical mean value filtering with spheres that shrink towards the edge."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paradia.background._spheres import check_threshold, least_radius
from paradia.errors import MaskError
from paradia.fft import Window, irfftn, rfftn, times
from paradia.grid import Grid
from paradia.operators.smv import even_spectrum, reach, sphere
from paradia.sources.inside import check_numbers, depth, within
from paradia.sources.knobs import check_not_negative, check_positive
from paradia.types import Image, LocalField, Mask

CITE = "10.1016/j.neuroimage.2010.10.070"

ROUNDING = 1e-6
"""Distance, mm, that tells a sphere which ends at a voxel from one that ends before it."""


def vsharp(
    total_field: Image,
    mask: Mask,
    grid: Grid,
    *,
    radius: float = 12.0,
    radius_min: float = 1.5,
    step: float = 1.0,
    threshold: float = 0.05,
) -> LocalField:
    r"""Subtract the mean over a sphere, the largest that fits, and undo what this does to the local field.

    The background field is harmonic inside the mask and so equal to its mean over any sphere that fits:
    :math:`f - S_r f` is free of it. Dividing by :math:`1 - S_R` in the frequency domain, :math:`R` the largest radius,
    restores the local field; frequencies with :math:`|1 - S_R|` below a threshold are given up.

    Parameters
    ----------
    total_field
        Total field, ppm.
    mask
        Voxels where it holds.
    grid
        Voxel size.
    radius
        Radius of the largest sphere, mm, and at least that of the smallest. Larger keeps more of the slowly varying local field.
    radius_min
        Radius of the smallest sphere, mm, and at least one and a half voxels; what lies closer to the edge is given up.
    step
        Difference between radii, mm, above zero.
    threshold
        Frequencies with :math:`|1 - S_R|` below it are set to zero.

    Returns
    -------
    LocalField
        Local field, ppm, and the mask where the smallest sphere fits.

    Raises
    ------
    InputError
        A knob out of range.
    GeometryError
        Shapes that do not fit the grid.
    MaskError
        The mask is empty, or nowhere deep enough for the smallest sphere.
    NonFiniteError
        The field is NaN or Inf in the mask.

    References
    ----------
    Schweser F, Deistung A, Lehr BW, Reichenbach JR. NeuroImage 2011;54:2789-2807. doi:10.1016/j.neuroimage.2010.10.070.
    Wu B, Li W, Guidon A, Liu C. Magn Reson Med 2012;67:137-147. doi:10.1002/mrm.23000.
    """
    check_positive(step=step)
    check_not_negative(radius=radius)
    check_threshold(threshold)
    least = least_radius(grid.voxel_size, radius_min, "radius_min")
    radius = max(radius, least)
    window = Window.around(mask, grid, radius, total_field=total_field)
    check_numbers(mask, total_field=total_field)
    shape = window.grid.shape
    field, deep = window.take(within(total_field, mask)), depth(window.mask, window.grid)
    spectrum = rfftn(field)

    high_pass = torch.zeros_like(field)
    kept = torch.zeros_like(window.mask)
    largest: Tensor | None = None
    for size in _radii(radius, least, step):
        ball = sphere(grid.voxel_size, size)
        fits = deep > reach(ball, grid.voxel_size) + ROUNDING
        if not fits.any():
            break
        kept = fits if largest is None else kept
        largest = even_spectrum(ball, window.grid).to(field)
        high_pass = torch.where(fits, field - irfftn(times(spectrum, largest), shape), high_pass)
    if largest is None:
        raise MaskError(f"no sphere of radius {radius_min} mm fits into the mask. Give a larger mask or a smaller radius_min.")

    share = 1 - largest
    inverse = torch.where(share.abs() > threshold, 1 / share, 0.0)
    local = irfftn(rfftn(high_pass).mul_(inverse), shape)
    return LocalField(window.put(local * kept), window.put(kept))


def _radii(largest: float, smallest: float, step: float) -> list[float]:
    """List the radii from the smallest to the largest, both included; the largest is no smaller."""
    count = max(math.ceil((largest - smallest) / step), 0)
    return [smallest] + [largest - i * step for i in reversed(range(count))]
