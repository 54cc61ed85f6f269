"""The one thing all references do."""

from __future__ import annotations

from torch import Tensor

from paradia.errors import GeometryError, MaskError


def shift(chi: Tensor, mask: Tensor, region: Tensor, what: str) -> Tensor:
    """Subtract the mean over a region, and keep χ zero outside the mask.

    Raises
    ------
    MaskError
        The region is empty inside the mask.
    """
    if region.shape != chi.shape[-3:]:
        raise GeometryError(f"the {what} has shape {tuple(region.shape)}, χ has {tuple(chi.shape[-3:])}. Resample it to χ.")
    inside = region & mask
    if not inside.any():
        raise MaskError(f"the {what} is empty inside the mask. Choose another reference.")
    mean = chi[..., inside].double().mean(-1).to(chi.dtype)  # a million float32 summands lose the last digits
    return (chi - mean[..., None, None, None]) * mask
