"""The one thing all references do."""

from __future__ import annotations

from torch import Tensor

from paradia.errors import GeometryError, MaskError
from paradia.fft import check_boolean
from paradia.sources.inside import check_numbers, within


def shift(chi: Tensor, mask: Tensor, region: Tensor, what: str) -> Tensor:
    """Subtract the mean over a region, and keep χ zero outside the mask.

    Raises
    ------
    GeometryError
        Mask or region on another grid than χ.
    MaskError
        The region is empty inside the mask, or either is not boolean.
    NonFiniteError
        χ is NaN or Inf inside the mask.
    """
    check_shapes(chi, mask=mask)
    check_boolean(region=region)
    if region.shape != chi.shape[-3:]:
        raise GeometryError(f"the {what} has shape {tuple(region.shape)}, χ has {tuple(chi.shape[-3:])}. Resample it to χ.")
    inside = region & mask
    if not inside.any():
        raise MaskError(f"the {what} is empty inside the mask. Choose another reference.")
    check_numbers(mask, chi=chi)
    mean = chi[..., inside].double().mean(-1).to(chi.dtype)  # a million float32 summands lose the last digits
    return within(chi - mean[..., None, None, None], mask)


def check_shapes(chi: Tensor, mask: Tensor, **images: Tensor) -> None:
    """Refuse a mask of numbers, and images on another grid than χ."""
    check_boolean(mask=mask)
    for name, image in {"mask": mask, **images}.items():
        if image.shape != chi.shape[-3:]:
            raise GeometryError(f"{name} has shape {tuple(image.shape)}, χ has {tuple(chi.shape[-3:])}. Bring both to one space.")
