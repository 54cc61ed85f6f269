"""What all combinations refuse, said in the same words."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.errors import GeometryError, InputError, MetadataError, NonFiniteError
from paradia.grid import Grid
from paradia.scan import Scan


def check(coil_images: Tensor, grid: Grid | None = None, scan: Scan | None = None) -> None:
    """Refuse shapes that do not fit, images without signal, and values that are no numbers."""
    shape = tuple(coil_images.shape)
    if grid is not None and shape[-3:] != grid.shape:
        raise GeometryError(f"the coil images have shape {shape[-3:]} and the grid {grid.shape}. Give the grid of the images.")
    if scan is not None and len(scan.echo_times) != shape[0]:
        raise MetadataError(f"there are {shape[0]} echoes and {len(scan.echo_times)} echo times. Give one time for each echo.")
    for echo in coil_images:  # one at a time: coil images are large
        if torch.isfinite(torch.view_as_real(echo).sum()):
            continue
        broken = int((~torch.isfinite(torch.view_as_real(echo))).any(-1).sum())
        if broken:
            raise NonFiniteError(f"the coil images are NaN or Inf at {broken} places. Set those voxels to zero.")
    if not bool(coil_images[0].any()):
        raise InputError("the coil images of the first echo are zero everywhere. Convert them again.")
