"""Images inside a mask: numbers there, and zero elsewhere, whatever was there."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.errors import NonFiniteError


def check_numbers(mask: Tensor, **images: Tensor | None) -> None:
    """Refuse what is not a number inside a mask.

    Parameters
    ----------
    mask
        Voxels that count.
    images
        What must hold numbers there, under the names to use in a message.

    Raises
    ------
    NonFiniteError
        An image is NaN or Inf inside the mask.
    """
    for name, image in images.items():
        broken = 0 if image is None else int((~torch.isfinite(image) & mask).sum())
        if broken:
            raise NonFiniteError(f"{name} is NaN or Inf in {broken} voxels inside the mask. Take those voxels out of the mask.")


def within(image: Tensor, mask: Tensor) -> Tensor:
    """Return an image that is zero outside a mask; a product would let NaN through."""
    return torch.where(mask, image, 0.0)
