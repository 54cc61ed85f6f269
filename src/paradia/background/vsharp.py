"""Spherical mean value filtering with spheres that shrink towards the edge."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paradia.errors import MaskError
from paradia.fft import Window, irfftn, rfftn
from paradia.grid import Grid
from paradia.operators.smv import sphere_kernel
from paradia.types import Image, LocalField, Mask

CITE = "10.1016/j.neuroimage.2010.10.070"

OVERHANG = 1e-4
"""Share of a sphere that may lie outside the mask; above the rounding of a single-precision transform."""


def vsharp(
    total_field: Image,
    mask: Mask,
    grid: Grid,
    *,
    radius: float = 12.0,
    radius_min: float = 1.5,
    step: float = 2.0,
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
        Radius of the largest sphere, mm. Larger keeps more of the slowly varying local field.
    radius_min
        Radius of the smallest sphere, mm, and at least one and a half voxels; what lies closer to the edge is given up.
    step
        Difference between radii, mm.
    threshold
        Frequencies with :math:`|1 - S_R|` below it are set to zero.

    Returns
    -------
    LocalField
        Local field, ppm, and the mask where the smallest sphere fits.

    Raises
    ------
    GeometryError
        Shapes that do not fit the grid.
    MaskError
        The mask is empty, or nowhere deep enough for the smallest sphere.

    References
    ----------
    Schweser F, Deistung A, Lehr BW, Reichenbach JR. NeuroImage 2011;54:2789-2807. doi:10.1016/j.neuroimage.2010.10.070.
    Wu B, Li W, Guidon A, Liu C. Magn Reson Med 2012;67:137-147. doi:10.1002/mrm.23000.
    """
    window = Window.around(mask, grid, radius, total_field=total_field)
    shape = window.grid.shape
    field = window.take(total_field * mask)
    spectrum, mask_spectrum = rfftn(field), rfftn(window.mask.to(field))

    high_pass = torch.zeros_like(field)
    kept = torch.zeros_like(window.mask)
    largest: Tensor | None = None
    radii = _radii(radius, max(radius_min, 1.5 * max(grid.voxel_size)), step)
    for size in (r for r in radii if 2 * r < min(window.grid.extent) - max(grid.voxel_size)):
        sphere = sphere_kernel(window.grid, size, field.dtype).to(field.device)
        fits = (irfftn(mask_spectrum * sphere, shape) > 1 - OVERHANG) & window.mask & ~kept
        if fits.any():
            largest = sphere if largest is None else largest
            high_pass = torch.where(fits, field - irfftn(spectrum * sphere, shape), high_pass)
            kept = kept | fits
    if largest is None:
        raise MaskError(f"no sphere of radius {radius_min} mm fits into the mask. Give a larger mask or a smaller radius_min.")

    share = 1 - largest
    inverse = torch.where(share.abs() > threshold, 1 / share, 0.0)
    local = irfftn(rfftn(high_pass).mul_(inverse), shape)
    return LocalField(window.put(local * kept), window.put(kept))


def _radii(largest: float, smallest: float, step: float) -> list[float]:
    """List the radii from the largest to the smallest, both included."""
    count = max(math.ceil((largest - smallest) / step), 0)
    return [largest - i * step for i in range(count)] + [min(smallest, largest)]
