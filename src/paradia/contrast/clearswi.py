"""Susceptibility-weighted imaging of all echoes together."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paradia.contrast._filter import LowPass, check, clean, numbers
from paradia.contrast._projection import projection, slices
from paradia.errors import GeometryError, InputError, MetadataError
from paradia.grid import Grid
from paradia.scan import Scan
from paradia.sources.inside import single
from paradia.sources.knobs import check_not_negative, check_positive
from paradia.types import Echoes, Mask, Volume, Weighted

CITE = "10.1016/j.neuroimage.2021.118175"

LEAST = 1e-3
"""Mean positive field below which there is nothing to show but noise, ppm: where no structure is, none is made up."""


def clearswi(
    magnitude: Echoes,
    grid: Grid,
    scan: Scan,
    mask: Mask | None = None,
    phase: Echoes | None = None,
    unwrapped: Echoes | None = None,
    local_field: Volume | None = None,
    *,
    width: float = 6.0,
    strength: float = 4.0,
    sensitivity: float = 15.0,
    softplus: bool = True,
    slab: float = 10.0,
) -> Weighted:
    r"""Darken the combined magnitude of all echoes by their combined field, through a smooth mask that scales itself.

    The field :math:`f` is the local field where there is one, otherwise the high-passed phases over :math:`TE`, averaged with the least
    noise; the unwrapped ones if given, else the wrapped ones. The magnitudes are averaged with weights that give the best signal to
    noise, freed from coil sensitivities, and multiplied by :math:`\frac{1 + \tanh(1 - f/s)}{1 + \tanh 1}`, which is 1 without a field
    and falls to 0 beyond a few :math:`s`.

    Parameters
    ----------
    magnitude
        Magnitude of every echo, any unit.
    grid
        Voxel size; the projection runs along the axis nearest to B0.
    scan
        Echo times and field strength.
    mask
        Voxels to show; the whole volume without.
    phase
        Wrapped phase of every echo, rad.
    unwrapped
        Unwrapped phase of every echo, rad.
    local_field
        Local field, ppm. It is not filtered again.
    width
        What is much broader is filtered out of the phase, mm.
    strength
        How dark positive fields become: :math:`s` is the mean of the positive field times ten over this. From 1 to 10.
    sensitivity
        What is broader is taken for the coils' sensitivity and divided out of the magnitude, mm; 0 leaves it.
    softplus
        Whether to lower the magnitude by half its bright value, softly above zero, which spreads what is dark.
    slab
        Thickness of the minimum-intensity projection, mm; the nearest odd number of slices is taken.

    Returns
    -------
    Weighted
        The weighted magnitude, zero outside the mask, and its projection.

    Raises
    ------
    GeometryError, MaskError, NonFiniteError, MetadataError, InputError
        Shapes do not fit, the mask is empty, an image is not finite, echoes and echo times differ in number, a knob is out of
        its range, or there is neither phase nor local field.

    Notes
    -----
    The idea and the shape of both scalings are Eckstein's. Here phases are combined as fields by their noise, sensitivities are a weighted
    local mean, and neither needs a segmentation.

    References
    ----------
    Eckstein K, Bachrata B, Hangel G, et al. NeuroImage 2021;237:118175. doi:10.1016/j.neuroimage.2021.118175.
    """
    phases = phase if unwrapped is None else unwrapped
    if local_field is None and phases is None:
        raise InputError("clearswi needs the phase, the unwrapped phase or the local field. Give one of them.")
    source = {"local_field": local_field} if local_field is not None else {"phase": phases}
    check(grid, mask, width, magnitude=magnitude, **source)
    slices(grid, slab)
    check_positive(strength=strength)
    check_not_negative(sensitivity=sensitivity)
    if len(scan.echo_times) != len(magnitude):
        raise MetadataError(f"the scan has {len(scan.echo_times)} echo times and the magnitude {len(magnitude)} echoes. Give one each.")
    magnitude = single(magnitude)
    (known,) = numbers(magnitude)
    if local_field is None:
        assert phases is not None
        if phases.shape != magnitude.shape:
            raise GeometryError(f"there are {len(magnitude)} magnitudes and {len(phases)} phases. Give one of each an echo.")
        seen, angles = numbers(magnitude, phases)
        field = _field(seen, angles, scan, LowPass(grid, width, magnitude), mask, wrapped=unwrapped is None)
    else:
        (field,) = numbers(local_field)
    bright = clean(_combined(known, mask), mask)
    if sensitivity:
        bright = _even(bright, LowPass(grid, sensitivity, magnitude))
    if softplus:
        bright = _lowered(bright, mask)
    weighted = clean(bright * _darkness(field, strength, mask), mask)
    return Weighted(weighted, projection(weighted, grid, slab, mask))


def _field(magnitude: Tensor, phases: Tensor, scan: Scan, low_pass: LowPass, mask: Tensor | None, *, wrapped: bool) -> Tensor:
    """Return the fast part of the field in ppm, every echo counting by the noise it would give it."""
    total, weights = torch.zeros_like(magnitude[0]), torch.zeros_like(magnitude[0])
    for bright, phase, time in zip(magnitude, phases, scan.echo_times, strict=True):
        scale = scan.rad_per_ppm(time)
        fast = low_pass.without_slow_phase(bright, phase) if wrapped else low_pass.without_slow_part(phase, clean(bright.square(), mask))
        weight = (bright * scale).square()
        total.addcmul_(fast, weight, value=1 / scale)
        weights += weight
    return torch.where(weights > 0, total / weights, 0.0)


def _combined(magnitude: Tensor, mask: Tensor | None) -> Tensor:
    """Average echoes, each weighted by its mean: the linear combination of the best signal to noise, free of a noise floor's bias."""
    weights = (magnitude if mask is None else magnitude[:, mask]).reshape(len(magnitude), -1).mean(1)
    return torch.tensordot(weights / weights.sum().clamp_min(torch.finfo(magnitude.dtype).tiny), magnitude, dims=1)


def _even(bright: Tensor, low_pass: LowPass) -> Tensor:
    """Divide by the local mean of what is bright, and keep the unit."""
    level = low_pass.mean(bright, bright)
    inside = bright > 0
    scale = level[inside].mean() if bool(inside.any()) else level.new_ones(())
    return torch.where(level > 0.02 * scale, bright * scale / level.clamp_min(0.02 * scale), 0.0)


def _lowered(bright: Tensor, mask: Tensor | None) -> Tensor:
    """Subtract half the bright value, softly."""
    values = (bright if mask is None else bright[mask]).flatten()
    offset = 0.5 * values.kthvalue(max(round(0.8 * values.numel()), 1)).values
    if not offset > 0:
        return bright
    zero = bright.new_tensor(math.log1p(math.exp(-2)))
    return (torch.nn.functional.softplus(2 * (bright / offset - 1)) - zero) * (offset / 2)


def _darkness(field: Tensor, strength: float, mask: Tensor | None) -> Tensor:
    """Return the mask made from the field."""
    inside = field if mask is None else field[mask]
    positive = inside.clamp_min(0)
    mean = positive.sum() / (positive > 0).sum().clamp_min(1)
    scale = (10 / strength) * mean.clamp_min(LEAST)
    return (1 + torch.tanh(1 - field / scale)) / (1 + math.tanh(1))
