"""Streaks: what frequencies that a field hardly shows add to the slopes of flat tissue."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paradia.fft import Window, half_counts, irfftn, rfftn, times
from paradia.operators.gradient import Gradient
from paradia.solvers._solution import Solution
from paradia.solvers.lsmr import lsmr
from paradia.sources.slopes import edges
from paradia.types import Callback

ROUGH = (0.60, 0.999)
"""Between these shares of the voxels, in order of a field's second derivative, the field loses its weight."""

STEEP = (0.50, 0.70)
"""Between these shares of the voxels, in order of the slopes of a guide, flatness loses its weight."""


def flatness(roughness: Tensor, mask: Tensor, shares: tuple[float, float]) -> Tensor:
    """Fall from one to zero between two quantiles of the roughness in the mask, and be zero outside it."""
    inside = roughness.detach()[mask]
    if not inside.numel():
        return torch.zeros_like(roughness)
    first, last = (_quantile(inside, share) for share in shares)
    return ((last - roughness.detach()) / (last - first).clamp_min(torch.finfo(inside.dtype).tiny)).clamp_(0, 1) * mask


def flat_slopes(slopes: Tensor, mask: Tensor) -> Tensor:
    """Return the flatness of the slopes of a guide on an axis of three before x, y, z.

    A slope lies between two voxels. It counts where both are in the mask: by its first voxel alone the map would lean to one side.
    """
    return torch.stack([flatness(slope, inside, STEEP) for slope, inside in zip(slopes, edges(mask), strict=True)])


def streaks(
    chi: Tensor, flat: Tensor, cone: Tensor, window: Window, *, max_iter: int, tol: float, callback: Callback | None = None
) -> Solution:
    r"""Find the image of some frequencies alone that explains most of the slopes of flat tissue.

    It is the :math:`\chi_S` for which :math:`\sum_i\|G_i\nabla_i(\chi - \chi_S)\|^2` is least.

    Parameters
    ----------
    chi
        :math:`\chi` in the window.
    flat
        :math:`G_i` on an axis of three before x, y, z: one where tissue is flat.
    cone
        Which frequencies of the half spectrum, where streaks live.
    window
        Around the mask.
    max_iter
        Most iterations to do.
    tol
        Stop when the gradient has fallen to this share.
    callback
        Called as ``callback(iteration, relative_gradient)``.

    Returns
    -------
    Solution
        With the streaks.
    """
    gradient = Gradient(window.grid, periodic=True)
    scale = half_counts(chi.shape[-1]).to(chi).sqrt() / math.sqrt(chi.numel())  # the norm of the half is that of the image
    cone = cone.clone()
    cone[0, 0, 0] = False  # a constant has no slope: what is found of it would be rounding
    up, down = cone / scale, cone * scale
    solution = lsmr(
        lambda spectrum: gradient(irfftn(times(spectrum, up), chi.shape)).mul_(flat),
        lambda slopes: rfftn(gradient.adjoint(flat * slopes)).mul_(down),
        gradient(chi).mul_(flat),
        max_iter=max_iter,
        tol=tol,
        callback=callback,
    )
    return solution._replace(x=irfftn(times(solution.x, up), chi.shape))


def _quantile(values: Tensor, share: float) -> Tensor:
    """Select, not sort: a quantile of any number of values."""
    return values.kthvalue(max(1, math.ceil(share * values.numel()))).values
