"""What a learned method refuses and warns of before it begins."""

from __future__ import annotations

import json
import warnings

import torch
from torch import Tensor

from paradia.errors import GeometryError, InputError, NonFiniteError, ParadiaWarning
from paradia.grid import Grid
from paradia.nets.features import spread
from paradia.nets.unet import UNet3d

TOTAL_LIMIT, LOCAL_LIMIT = 5.0, 0.3
"""Largest spread of a total and of a local field that can be ppm: heads reach a tenth of it, in Hz they go beyond."""

SLACK = 1.02
"""How far a voxel may lie outside the range of the training before it is said."""


def check_field(field: Tensor, mask: Tensor, name: str, limit: float) -> None:
    """Refuse a field that cannot be in ppm.

    Parameters
    ----------
    field
        (..., x, y, z).
    mask
        Voxels that count.
    name
        What to call it in a message.
    limit
        Largest robust standard deviation in the mask, ppm.

    Raises
    ------
    GeometryError
        Field and mask have different shapes.
    NonFiniteError
        It holds NaN or Inf in the mask.
    InputError
        It varies by more than the limit.
    """
    if field.shape[-3:] != mask.shape:
        raise GeometryError(f"{name} has shape {tuple(field.shape)}, but the mask {tuple(mask.shape)}. Bring both to one space.")
    if not mask.any():
        return  # said by whoever frames it
    for image in field.reshape(-1, *mask.shape):
        if not torch.isfinite(image[mask]).all():
            raise NonFiniteError(f"the {name} holds NaN or Inf in the mask. Leave those voxels out of the mask.")
        found = float(spread(image, mask))
        if found > limit:
            raise InputError(
                f"the {name} has a standard deviation of {found:.3g} in the mask, and a head's in ppm stays below {limit:g}: it seems to "
                "be in another unit. Divide Hz by 42.577 times the field strength in tesla, and rad by 2π times the echo time first."
            )


def check_voxels(grid: Grid, *nets: UNet3d) -> None:
    """Warn of voxels that a network was not trained with.

    Parameters
    ----------
    grid
        Of the image.
    nets
        Networks with their weights.
    """
    for net in nets:
        if "voxel_size" not in net.about:
            continue
        least, most = json.loads(net.about["voxel_size"])
        if min(grid.voxel_size) < least / SLACK or max(grid.voxel_size) > most * SLACK:
            size = " × ".join(f"{edge:.3g}" for edge in grid.voxel_size)
            warnings.warn(
                f"voxels of {size} mm: the network {net.about.get('task', '')} was trained with edges from {least:.2g} to {most:.2g} mm, "
                "and beyond these its answer is less certain. Compare it with a classical method.",
                ParadiaWarning,
                stacklevel=3,
            )
            return
