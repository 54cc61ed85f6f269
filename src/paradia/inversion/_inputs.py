"""What every inversion asks of its data and knobs before it starts."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.errors import GeometryError, InputError
from paradia.fft import Window
from paradia.grid import Grid
from paradia.sources.inside import check_numbers

MARGIN = 15.0
"""Distance between the mask and its periodic copies, mm; errors at the mask change by less than a percent beyond it."""

STRONGEST = 2 / 3
"""Largest :math:`|D|`."""


def framed(local_field: Tensor, mask: Tensor, grid: Grid, margin: float, **images: Tensor | None) -> Window:
    """Frame a mask; refuse a field without numbers inside it, and other images that do not fit the grid."""
    window = Window.around(mask, grid, margin, local_field=local_field, **images)
    check_numbers(mask, local_field=local_field)
    return window


def check_threshold(threshold: float) -> None:
    """Refuse a threshold on the dipole that it nowhere or everywhere exceeds."""
    if not 0 < threshold < STRONGEST:
        raise InputError(f"threshold must lie between 0 and 2/3, the largest strength of the dipole, got {threshold}. 0.1 to 0.2 is usual.")


def check_reach(reach: float) -> None:
    """Refuse a reach that is no length; a negative one means everywhere."""
    if not abs(reach) < float("inf"):
        raise InputError(f"reach must be a length in mm, or negative for no limit, got {reach}. A few millimetres are usual.")


def checked_echoes(magnitude: Tensor | None, mask: Tensor, grid: Grid) -> Tensor | None:
    """Return magnitudes of echoes without NaN and Inf, which may lie outside the mask alone."""
    if magnitude is None:
        return None
    if magnitude.ndim != 4 or not len(magnitude) or tuple(magnitude.shape[1:]) != grid.shape:
        raise GeometryError(f"magnitude has shape {tuple(magnitude.shape)}. Give echoes (echo, x, y, z) on the grid {grid.shape}.")
    check_numbers(mask, magnitude=magnitude)
    return torch.nan_to_num(magnitude, nan=0.0, posinf=0.0, neginf=0.0)
