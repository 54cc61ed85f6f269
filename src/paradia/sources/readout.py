"""Echoes of which every other one is read backwards."""

from __future__ import annotations

import torch
from torch import Tensor


def to_and_fro(times: Tensor) -> tuple[Tensor, Tensor]:
    """Tell what alternates from echo to echo from what is constant or grows with time.

    Echoes count alike: then one small matrix serves every voxel.

    Parameters
    ----------
    times
        Echo times, three or more, in any unit.

    Returns
    -------
    Tensor
        Signs of what alternates, one an echo, the first positive.
    Tensor
        Weights of the echoes whose sum is what alternates.
    """
    sign = times.new_tensor([1.0, -1.0]).repeat(len(times))[: len(times)]
    design = torch.stack([torch.ones_like(sign), times / times.max(), sign], 1)
    return sign, torch.linalg.pinv(design.double())[2].to(times)
