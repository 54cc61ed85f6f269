"""Tikhonov-regularised division."""

from __future__ import annotations

from typing import Literal

import torch

from paradia.errors import InputError
from paradia.fft import half_mean, irfftn, rfftn
from paradia.grid import Grid
from paradia.inversion._inputs import framed
from paradia.operators.dipole import Dipole
from paradia.operators.laplacian import Laplacian
from paradia.sources.inside import within
from paradia.sources.knobs import check_positive
from paradia.types import Image, Mask

CITE = "10.1002/jmri.24365"

MARGIN = 20.0
"""Distance between the mask and its periodic copies, mm; the field is small that far from its source."""

ORDER = {"identity": 0, "gradient": 1, "laplacian": 2}
"""Power of the squared spectrum of the gradient in each penalty."""


def tikhonov(
    local_field: Image,
    mask: Mask,
    grid: Grid,
    *,
    weight: float = 0.01,
    penalty: Literal["identity", "gradient", "laplacian"] = "gradient",
) -> Image:
    r"""Find the smallest or smoothest χ that explains the field, in closed form.

    Minimises :math:`\|D\chi - f\|^2 + w\|d^n\nabla^n\chi\|^2`, which gives
    :math:`\hat\chi = D\hat f / (D^2 + w\,(d^2 L)^n)` with :math:`L` the squared spectrum of the gradient and :math:`d`, the
    geometric mean of the voxel's edges, to keep :math:`w` a plain number at any resolution.

    Parameters
    ----------
    local_field
        Field of the sources inside the mask, ppm.
    mask
        Voxels where it holds.
    grid
        Voxel size and direction of B0.
    weight
        :math:`w`, from about 0.001 (sharp, streaks and noise) to 0.1 (damped).
    penalty
        What is kept small: χ itself, its gradient (:math:`n = 1`), or its Laplacian (:math:`n = 2`).

    Returns
    -------
    Image
        χ, ppm, zero outside the mask, not referenced.

    Raises
    ------
    InputError
        There is no such penalty, or a knob out of range.
    GeometryError
        Shapes that do not fit the grid.
    MaskError
        The mask is empty.
    NonFiniteError
        The field is NaN or Inf in the mask.

    Notes
    -----
    The damping is undone on average: the result is divided by the mean of :math:`D^2/(D^2 + w\dots)` over all
    frequencies for ``identity``, the one penalty that damps them alike.

    References
    ----------
    Bilgic B, Chatnuntawech I, Fan AP, et al. J Magn Reson Imaging 2014;40:181-191. doi:10.1002/jmri.24365.
    """
    if penalty not in ORDER:
        raise InputError(f"the penalty must be identity, gradient or laplacian, got {penalty!r}.")
    check_positive(weight=weight)
    window = framed(local_field, mask, grid, MARGIN)
    dipole = Dipole(window.grid).to(local_field).kernel
    denominator = dipole.square().add_(_spectrum(window.grid, penalty, dipole), alpha=weight)
    denominator[0, 0, 0] = torch.inf  # the field does not know the mean of χ
    inverse = dipole / denominator
    if penalty == "identity":
        inverse /= half_mean(dipole * inverse, window.grid.shape[-1])
    chi = irfftn(rfftn(window.take(within(local_field, mask))).mul_(inverse), window.grid.shape)
    return window.put(chi.mul_(window.mask))


def _spectrum(grid: Grid, penalty: str, like: torch.Tensor) -> torch.Tensor:
    """Return the squared spectrum of the penalty's operator."""
    squared = -Laplacian(grid).to(like).kernel * grid.voxel_volume ** (2 / 3)
    return squared.pow_(ORDER[penalty])
