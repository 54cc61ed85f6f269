"""The phase that is there before any echo: smooth offset, and its alternation between readout directions."""

from __future__ import annotations

import math
import warnings
from typing import Literal, get_args

import torch
from torch import Tensor

from paradia.errors import InputError, ParadiaWarning
from paradia.fieldmap._echoes import Prepared, line, wrap
from paradia.fieldmap._smooth import local_mean, polynomial
from paradia.grid import Grid
from paradia.sources.readout import to_and_fro

DEGREE = 4
"""Of the polynomial that carries most of a receiver's phase."""

ALTERNATION = 0.15
"""Rise across the head of the phase between readout directions, rad, above which a readout counts as bipolar."""

Offset = Literal["smooth", "voxel", "none"]
KINDS = get_args(Offset)


def remove_offset(prepared: Prepared, grid: Grid, kind: Offset, width: float, bipolar: bool | None) -> tuple[Prepared, Tensor]:
    """Take the offset, and the alternation of bipolar readouts, out of the phase.

    Returns
    -------
    Prepared
        The same with phases that are proportional to echo time.
    Tensor
        The offset, rad, not wrapped.

    Raises
    ------
    InputError
        The width is not positive, or no such kind of offset.
    """
    if kind not in KINDS:
        raise InputError(f"offset is one of {', '.join(KINDS)}, got {kind!r}.")
    if kind == "smooth" and not 0 < width < math.inf:
        raise InputError(f"smoothing must be positive, got {width} mm. 3 to 15 are usual; offset = voxel smoothes nothing.")
    none = torch.zeros_like(prepared.phase[0])
    if prepared.phase.shape[0] < 2:
        return prepared, none
    prepared = _without_alternation(prepared, bipolar)
    if kind == "none":
        return prepared, none
    _, intercept, certainty = line(prepared)
    offset = intercept if kind == "voxel" else _smooth(intercept, certainty * prepared.mask, grid, width)
    return prepared._replace(phase=(prepared.phase - offset) * prepared.mask), offset * prepared.mask


def _smooth(intercept: Tensor, certainty: Tensor, grid: Grid, width: float) -> Tensor:
    """Smooth the voxels' intercepts without letting badly unwrapped ones in.

    Bias matters more than noise here: an offset wrong by a hundredth of a radian is a field wrong by more than its noise. The
    polynomial takes what curves, and the local mean follows what is left of the receiver's phase.
    """
    trend = polynomial(intercept, certainty, DEGREE)
    left = wrap(intercept - trend)
    believable = certainty * (left.abs() < 1.5)
    mean = local_mean(torch.polar(torch.ones_like(left), left), believable, grid.with_shape(left.shape), width)
    return trend + mean.angle()


def _without_alternation(prepared: Prepared, bipolar: bool | None) -> Prepared:
    """Remove what changes sign from echo to echo when every other one is read backwards: a ramp along the readout."""
    phase, weight, mask, times = prepared
    echoes = phase.shape[0]
    if bipolar is False or echoes < 3:
        if bipolar:
            warnings.warn(f"a bipolar readout cannot be corrected with {echoes} echoes; three are needed.", ParadiaWarning, stacklevel=2)
        return prepared
    told = weight.amin(0) * mask
    if not told.any():
        if bipolar:
            warnings.warn("a bipolar readout cannot be corrected where no voxel has signal in all echoes.", ParadiaWarning, stacklevel=2)
        return prepared
    sign, pick = to_and_fro(times.flatten())
    alternation = torch.tensordot(pick, phase, dims=1)
    ramp = polynomial(alternation, told, 1)
    ramp = ramp - ramp[mask].mean()  # what is the same everywhere is no sign of a readout, and may be noise of the alignment
    rise = float(ramp[mask].amax() - ramp[mask].amin())
    if bipolar is None and rise < ALTERNATION:
        return prepared
    return prepared._replace(phase=(phase - sign[:, None, None, None] * ramp) * mask)
