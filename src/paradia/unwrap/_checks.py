"""What all unwrapping methods refuse, said in the same words."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.errors import GeometryError, MetadataError, NonFiniteError
from paradia.fft import check_mask
from paradia.scan import Scan


def check(phase: Tensor, mask: Tensor, magnitude: Tensor | None = None, scan: Scan | None = None) -> None:
    """Refuse shapes that do not fit, an empty mask, and phase inside the mask that is no number."""
    if phase.shape[1:] != mask.shape:
        raise GeometryError(
            f"phase and mask differ in shape: {tuple(phase.shape[1:])} and {tuple(mask.shape)}. Give a mask on the grid of the echoes."
        )
    if magnitude is not None and magnitude.shape != phase.shape:
        raise GeometryError(
            f"magnitude and phase differ in shape: {tuple(magnitude.shape)} and {tuple(phase.shape)}. Give both for every echo."
        )
    if scan is not None and len(scan.echo_times) != phase.shape[0]:
        raise MetadataError(
            f"the scan has {len(scan.echo_times)} echo times and the phase {phase.shape[0]} echoes. Give one time per echo."
        )
    check_mask(mask)
    broken = int((~torch.isfinite(phase) & mask).sum())
    if broken:
        raise NonFiniteError(f"the phase is NaN or Inf at {broken} places inside the mask. Take those voxels out of the mask.")
