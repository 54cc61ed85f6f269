"""Spherical mean value filtering with one sphere."""

from __future__ import annotations

import torch

from paradia.background._spheres import check_threshold, least_radius, spheres
from paradia.fft import Window, irfftn, rfftn
from paradia.grid import Grid
from paradia.sources.inside import check_numbers, within
from paradia.types import Image, LocalField, Mask

CITE = "10.1016/j.neuroimage.2010.10.070"


def sharp(
    total_field: Image,
    mask: Mask,
    grid: Grid,
    *,
    radius: float = 6.0,
    threshold: float = 0.015,
) -> LocalField:
    r"""Subtract the mean over a sphere, and undo what this does to the local field.

    The background field is harmonic inside the mask and so equal to its mean over any sphere that fits:
    :math:`f - S_r f` is free of it. Dividing by :math:`1 - S_r` in the frequency domain restores the local field.

    Parameters
    ----------
    total_field
        Total field, ppm.
    mask
        Voxels where it holds.
    grid
        Voxel size.
    radius
        Radius of the sphere, mm, and at least one and a half voxels; the mask loses as much.
    threshold
        Frequencies with :math:`|1 - S_r|` below it are set to zero: waves longer than :math:`2\pi r/\sqrt{10\,t}`. A pure
        number; with another radius change it with the radius squared.

    Returns
    -------
    LocalField
        Local field, ppm, and the mask where the sphere fits.

    Raises
    ------
    InputError
        A knob out of range.
    GeometryError
        Shapes that do not fit the grid.
    MaskError
        The mask is empty, or nowhere deep enough for the sphere.
    NonFiniteError
        The field is NaN or Inf in the mask.

    Notes
    -----
    What is divided is cut off where the sphere no longer fits, as if the filtered field were zero outside. The result holds
    up to there, with an error that is largest beside that edge; closer to the mask's own edge there is no result.

    References
    ----------
    Schweser F, Deistung A, Lehr BW, Reichenbach JR. NeuroImage 2011;54:2789-2807. doi:10.1016/j.neuroimage.2010.10.070.
    """
    check_threshold(threshold)
    radius = least_radius(grid.voxel_size, radius)
    window = Window.around(mask, grid, radius, total_field=total_field)
    check_numbers(mask, total_field=total_field)
    share, fits = spheres(window, radius, total_field)
    shape = window.grid.shape
    field = window.take(within(total_field, mask))
    high_pass = irfftn(rfftn(field).mul_(share), shape).mul_(fits)
    inverse = torch.where(share.abs() > threshold, 1 / share, 0.0)
    local = irfftn(rfftn(high_pass).mul_(inverse), shape).mul_(fits)
    return LocalField(window.put(local), window.put(fits))
