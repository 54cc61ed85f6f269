"""What every separation asks of its data before it starts: shapes, numbers and units."""

from __future__ import annotations

import math
import warnings

from torch import Tensor

from paradia.errors import GeometryError, InputError, ParadiaWarning
from paradia.fft import check_mask
from paradia.grid import Grid
from paradia.sources.inside import check_numbers

SLOW = 0.5
"""A map of rates whose upper percent begins below this, 1/s, can only be in 1/ms: the fastest tissue reaches 30 1/s and more."""

STRONG = 1.0
"""A map of χ or field whose median size is beyond this, ppm, is in ppb or Hz."""

WRONG = 0.2
"""Share of the sum of the rates that may be negative before it is said."""


def check_images(mask: Tensor, grid: Grid, **images: Tensor | None) -> None:
    """Refuse images that do not fit the grid, an empty mask, and what is not a number inside it.

    Raises
    ------
    GeometryError, MaskError, NonFiniteError
        In this order.
    """
    for name, image in {"mask": mask, **images}.items():
        if image is not None and tuple(image.shape[-3:]) != grid.shape:
            raise GeometryError(f"{name} has shape {tuple(image.shape)}, but the grid {grid.shape}. Bring both to one space.")
    check_mask(mask)
    check_numbers(mask, **images)


def check_ppm(mask: Tensor, **images: Tensor | None) -> None:
    """Refuse χ and fields that cannot be in ppm.

    Raises
    ------
    InputError
        Half of the mask is beyond 1 ppm.
    """
    for name, image in images.items():
        if image is not None:
            middle = float(_inside(image, mask).abs().median())
            if middle > STRONG:
                raise InputError(f"{name} must be in ppm, but half of the mask is beyond {middle:.3g}. ppb or Hz? Divide accordingly.")


def rates(name: str, image: Tensor, mask: Tensor) -> Tensor:
    """Return a map of rates without its negative values, which noise makes where the rate is small.

    Raises
    ------
    InputError
        Rates in 1/ms, or negative in more than half of the mask.

    Warns
    -----
    ParadiaWarning
        The negative values are more than noise makes.
    """
    inside = _inside(image, mask)
    top = float(inside.abs().kthvalue(max(1, math.ceil(0.99 * inside.numel()))).values)
    if 0 < top < SLOW:
        raise InputError(f"{name} must be in 1/s, but 99 % of the mask is below {top:.2g}: that can only be 1/ms. Multiply it by 1000.")
    below = float((inside < 0).double().mean())
    if below > 0.5:
        raise InputError(
            f"{name} is negative in {below:.0%} of the mask, and a rate is not. "
            "Check that R2 was taken from R2* and not the other way round."
        )
    lost, kept = float(-inside.clamp_max(0).double().sum()), float(inside.clamp_min(0).double().sum())
    if lost > WRONG * kept:
        warnings.warn(
            f"{name} is negative in {below:.0%} of the mask, by {lost / kept:.0%} of all that is positive: more than noise makes. "
            "Check units and registration of R2* and R2. Negative rates count as zero.",
            ParadiaWarning,
            stacklevel=3,
        )
    return image.clamp_min(0)


def _inside(image: Tensor, mask: Tensor) -> Tensor:
    """Return the voxels of a mask, of the first of several images."""
    return image.detach().reshape(-1, *mask.shape)[0][mask]
