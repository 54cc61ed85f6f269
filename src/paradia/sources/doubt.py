"""How far a map can be trusted: its noise, and what no sources on the grid could make of a field."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import max_pool3d

from paradia.operators.weighting import known_noise


def doubt(field: Tensor, mask: Tensor, noise: Tensor | None, model_error: float, floor: float = 0.001) -> Tensor:
    """Return the standard deviation of a field in ppm, zero outside the mask.

    Parameters
    ----------
    field
        ppm.
    mask
        Voxels where it holds.
    noise
        Its noise, ppm; where it is zero it is unknown, and the field is not believed. Judged from the field's roughness where it is
        not given, or known nowhere.
    model_error
        Share of `bend` that counts as error.
    floor
        What every field holds beside noise, ppm.
    """
    variance = believed(field, mask, noise).square()
    variance = (model_error * bend(field, mask, variance)).square_().add_(variance).add_(floor**2)
    return torch.where(mask, variance.sqrt_(), 0.0)


def believed(field: Tensor, mask: Tensor, noise: Tensor | None) -> Tensor:
    """Return the noise of a field, infinite where it is unknown: zero or no number.

    Parameters
    ----------
    field
        ppm.
    mask
        Voxels where it holds.
    noise
        Its noise, ppm; judged from the field's roughness where it is not given, or known nowhere.
    """
    return _known(roughness, field, mask, noise)


def believed_rate(rate: Tensor, mask: Tensor, noise: Tensor | None) -> Tensor:
    """Do as `believed` for a map of rates, whose noise is judged by its `grain`."""
    return _known(grain, rate, mask, noise)


def _known(judge: Callable[[Tensor, Tensor], Tensor], image: Tensor, mask: Tensor, noise: Tensor | None) -> Tensor:
    if noise is None or not bool(known_noise(noise, mask).any()):
        return judge(image, mask).expand(image.shape)
    return torch.where(noise > 0, noise, torch.inf)


def roughness(field: Tensor, mask: Tensor) -> Tensor:
    """Return the noise of a field if it is white: from the mixed third differences, in which what is smooth vanishes."""
    cells, whole = field, mask
    for axis in range(3):
        n = cells.shape[axis] - 1
        cells = cells.diff(dim=axis)
        whole = whole.narrow(axis, 0, n) & whole.narrow(axis, 1, n)
    inside = cells[whole]
    if not inside.numel():
        return field.new_zeros(())
    return inside.abs().median() / (0.6745 * math.sqrt(8))


def grain(image: Tensor, mask: Tensor) -> Tensor:
    """Return the noise of a map if it is white: from its second differences along the axis on which they are least.

    It takes three voxels in a row, where `roughness` takes cubes of eight; zero where the mask has none.
    """
    levels = []
    for axis in range(3):
        n = mask.shape[axis] - 2
        if n < 1:
            continue
        before, here, after = (image.detach().narrow(axis, start, n) for start in range(3))
        whole = mask.narrow(axis, 0, n) & mask.narrow(axis, 1, n) & mask.narrow(axis, 2, n)
        bent = (here - 0.5 * (before + after))[whole]
        if bent.numel():
            levels.append(bent.abs().median() / (0.6745 * math.sqrt(1.5)))
    return torch.stack(levels).min() if levels else image.new_zeros(())


def bend(field: Tensor, mask: Tensor, variance: Tensor) -> Tensor:
    """Return the largest second difference along an axis in the neighbourhood of each voxel, beyond what noise of a variance makes of it.

    Where it is large, sources lie closer than the grid can tell, and sources on the grid make a field that differs from theirs by
    a share of it. Voxels of unknown noise, whose field may be anything, bend nothing.
    """
    largest = torch.zeros_like(field)
    for axis in range(3):
        n = field.shape[axis] - 2
        if n < 1:
            continue
        before, here, after = (field.narrow(axis, start, n) for start in range(3))
        whole = mask.narrow(axis, 0, n) & mask.narrow(axis, 1, n) & mask.narrow(axis, 2, n)
        loud = variance.narrow(axis, 0, n) + variance.narrow(axis, 2, n) + 4 * variance.narrow(axis, 1, n)
        squared = (before + after).sub_(here, alpha=2).square_().sub_(loud).clamp_min_(0.0)
        bent = torch.where(whole, squared, 0.0).sqrt_()
        middle = largest.narrow(axis, 1, n)
        middle.copy_(torch.maximum(middle, bent))
    return max_pool3d(largest[None], 3, 1, 1)[0]
