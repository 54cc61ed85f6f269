"""Two sources from two equations in a voxel, neither source negative."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.types import Sources

Number = float | Tensor


def solve(a: Number, b: Number, c: Number, right_pos: Tensor, right_neg: Tensor) -> tuple[Tensor, Tensor]:
    r"""Minimise :math:`\frac12(ap^2 + 2cpn + bn^2) - r_p p - r_n n` over :math:`p, n \ge 0`.

    Without the signs the minimum is that of a linear system. Where it has a negative source the least value lies on an axis:
    on that of the other source, or, when both are negative, on the axis that is lower.

    Parameters
    ----------
    a, b, c
        The matrix, positive definite: its diagonal, and what lies off it.
    right_pos, right_neg
        The right side.

    Returns
    -------
    Tensor
        :math:`p`.
    Tensor
        :math:`n`.
    """
    determinant = a * b - c * c
    p = (b * right_pos - c * right_neg) / determinant
    n = (a * right_neg - c * right_pos) / determinant
    only_p, only_n = right_pos.clamp_min(0) / a, right_neg.clamp_min(0) / b
    lower = only_p.square() * a >= only_n.square() * b  # the value on an axis is minus half of this
    no_n = (n < 0) & ((p >= 0) | lower)
    no_p = (p < 0) & ~no_n
    p = torch.where(no_n, only_p, p).masked_fill(no_p, 0.0)
    n = torch.where(no_p, only_n, n).masked_fill(no_n, 0.0)
    return p, n


def split(chi: Tensor, rate: Tensor, dr_pos: float, dr_neg: float, trust: float) -> tuple[Tensor, Tensor]:
    r"""Minimise :math:`(p - n - \chi)^2 + t\,(D^+p + D^-n - R)^2/\bar D^2` over :math:`p, n \ge 0`, :math:`\bar D` the mean of both."""
    mean = (dr_pos + dr_neg) / 2
    u, v, total = dr_pos / mean, dr_neg / mean, rate / mean
    return solve(1 + trust * u * u, 1 + trust * v * v, trust * u * v - 1, chi + trust * u * total, trust * v * total - chi)


def give(chi_pos: Tensor, chi_neg: Tensor, mask: Tensor) -> Sources:
    """Return both maps, zero outside the mask."""
    return Sources(torch.where(mask, chi_pos, 0.0), torch.where(mask, chi_neg, 0.0))
