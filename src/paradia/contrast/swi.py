"""Susceptibility-weighted imaging."""

from __future__ import annotations

import math

import torch

from paradia.contrast._filter import LowPass, check, clean, numbers
from paradia.contrast._projection import projection, slices
from paradia.errors import GeometryError
from paradia.grid import Grid
from paradia.sources.inside import single
from paradia.sources.knobs import check_not_negative
from paradia.types import Echoes, Mask, Weighted

CITE = "10.1002/mrm.20198"


def swi(
    magnitude: Echoes,
    phase: Echoes,
    grid: Grid,
    mask: Mask | None = None,
    *,
    width: float = 4.0,
    power: float = 4.0,
    slab: float = 10.0,
) -> Weighted:
    r"""Darken the magnitude where the high-passed phase is positive, as it is in veins.

    Each echo's phase :math:`\varphi` loses its slow part by division through its low-passed complex image, which wraps do not disturb.
    The magnitude is multiplied by :math:`g(\varphi)^p` with :math:`g = 1 - \varphi/\pi` for :math:`\varphi > 0` and 1 elsewhere; echoes
    are averaged.

    Parameters
    ----------
    magnitude
        Magnitude of every echo, any unit.
    phase
        Wrapped phase of every echo, rad.
    grid
        Voxel size; the projection runs along the axis nearest to B0.
    mask
        Voxels to show; the whole volume without.
    width
        What is much broader is filtered out of the phase, mm. The low-pass is a Hann window that ends at a wavelength of twice this; 4 is
        the customary 64 lines of 512 over 256 mm.
    power
        :math:`p`, how often the phase mask is multiplied in. From 3 to 5 contrast to noise is best.
    slab
        Thickness of the minimum-intensity projection, mm; the nearest odd number of slices is taken.

    Returns
    -------
    Weighted
        The weighted magnitude, zero outside the mask, and its projection.

    Raises
    ------
    GeometryError, MaskError, NonFiniteError, InputError
        Shapes do not fit, the mask is empty, an image is not finite, or a knob is out of its range.

    Notes
    -----
    The phase is an echo's own, so that late echoes give most of the contrast. Close to air the phase turns by more than the
    filter follows, and dark bands remain; `clearswi` on a local field has none.

    References
    ----------
    Haacke EM, Xu Y, Cheng YCN, Reichenbach JR. Magn Reson Med 2004;52:612-618. doi:10.1002/mrm.20198.
    Denk C, Rauscher A. J Magn Reson Imaging 2010;31:185-191. doi:10.1002/jmri.21995.
    """
    check(grid, mask, width, magnitude=magnitude, phase=phase)
    slices(grid, slab)
    if magnitude.shape != phase.shape:
        raise GeometryError(f"there are {len(magnitude)} magnitudes and {len(phase)} phases. Give one of each an echo.")
    check_not_negative(power=power)
    magnitude = single(magnitude)
    low_pass = LowPass(grid, width, magnitude)
    weighted = torch.zeros_like(magnitude[0])
    for brightness, angle in zip(*numbers(magnitude, phase), strict=True):
        fast = low_pass.without_slow_phase(brightness, angle)
        weighted.addcmul_(brightness, (1 - fast.clamp_min(0) / math.pi).pow_(power))
    weighted = clean(weighted / len(magnitude), mask)
    return Weighted(weighted, projection(weighted, grid, slab, mask))
