"""How near an estimate is to the truth, over a mask."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from paradia.errors import MaskError
from paradia.metrics._filters import around, numbers
from paradia.sources.around import mean_around
from paradia.types import Mask, Volume

ROUNDING = 1e-12
"""Spread of values beside their size that is none."""

XSIM_WINDOW = 5
XSIM_C1 = 0.01**2
XSIM_C2 = 0.001**2


def nrmse(estimate: Volume, truth: Volume, mask: Mask, *, kind: Literal["plain", "demeaned", "detrended"] = "demeaned") -> float:
    r"""Return the error as a percentage of the truth's norm: :math:`100\,\|a - b\| / \|b\|` over the mask.

    Parameters
    ----------
    estimate, truth
        Maps in the same unit.
    mask
        Voxels that count.
    kind
        ``plain`` compares as they are; ``demeaned`` takes both means away first, because χ has no natural zero;
        ``detrended`` fits estimate = slope · truth + intercept as well and undoes it, which forgives a wrong scale. Noise
        lowers the slope, so a detrended error above 100 is possible.

    Returns
    -------
    float
        Percent; 0 is perfect, 100 is what an empty map scores when compared plainly or demeaned.
    """
    a, b = _inside(estimate, truth, mask)
    if kind != "plain":
        a, b = _centred(a), _centred(b)
    if kind == "detrended":
        a = a / (a.dot(b) / b.dot(b))
    return 100 * _ratio((a - b).norm(), b.norm())


def correlation(estimate: Volume, truth: Volume, mask: Mask) -> float:
    """Return Pearson's correlation over the mask, between −1 and 1."""
    a, b = _inside(estimate, truth, mask)
    a, b = _centred(a), _centred(b)
    return _ratio(a.dot(b), a.norm() * b.norm())


def slope(estimate: Volume, truth: Volume, mask: Mask) -> float:
    """Return the slope of the regression estimate = slope · truth + intercept: 1 is right, below 1 is an underestimate."""
    a, b = _inside(estimate, truth, mask)
    b = _centred(b)
    return _ratio(a.dot(b), b.dot(b))


def bias(estimate: Volume, truth: Volume, mask: Mask) -> float:
    """Return the mean of estimate − truth over the mask, in the unit of the maps."""
    a, b = _inside(estimate, truth, mask)
    return float((a - b).mean())


def xsim(estimate: Volume, truth: Volume, mask: Mask) -> float:
    r"""Return the structural similarity made for susceptibility, for maps in ppm.

    The mean over the mask of :math:`\frac{(2\mu_a\mu_b + c_1)(2\sigma_{ab} + c_2)}{(\mu_a^2 + \mu_b^2 + c_1)(\sigma_a^2 +
    \sigma_b^2 + c_2)}` with :math:`c_1 = 10^{-4}`, :math:`c_2 = 10^{-6}` ppm² and local means over 5×5×5 voxels, fewer at the
    edge of the volume. It feels the zero of χ: reference both maps alike.

    Returns
    -------
    float
        1 is perfect.

    References
    ----------
    Milovic C, et al. Magn Reson Med 2025;93(1):411-421. doi:10.1002/mrm.30271.
    """
    _inside(estimate, truth, mask)
    box = around(mask, XSIM_WINDOW // 2)  # beyond, nothing reaches into the mask
    a, b = (numbers(image[box].double(), mask[box]) for image in (estimate, truth))
    mean_a, mean_b, square_a, square_b, product = (mean_around(image, XSIM_WINDOW) for image in (a, b, a * a, b * b, a * b))
    var_a, var_b, covariance = square_a - mean_a**2, square_b - mean_b**2, product - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + XSIM_C1) / (mean_a**2 + mean_b**2 + XSIM_C1)
    structure = (2 * covariance + XSIM_C2) / (var_a + var_b + XSIM_C2)
    return float((luminance * structure)[mask[box]].mean())


def region_means(image: Volume, labels: Int[Tensor, "x y z"], mask: Mask | None = None) -> dict[int, float]:
    """Return the mean of a map in every region.

    Parameters
    ----------
    image
        Any map.
    labels
        Region of each voxel; zero belongs to none.
    mask
        Voxels that count; all where absent.

    Returns
    -------
    dict
        Mean by label, for the labels that have a voxel.
    """
    counts = labels > 0 if mask is None else (labels > 0) & mask
    names, where = labels[counts].unique(return_inverse=True)
    sums = torch.zeros(len(names), dtype=torch.float64, device=image.device).index_add_(0, where, image[counts].double())
    return dict(zip(names.tolist(), (sums / where.bincount(minlength=len(names))).tolist(), strict=True))


def region_slope(estimate: Volume, truth: Volume, labels: Int[Tensor, "x y z"], mask: Mask | None = None) -> float:
    """Return the slope of the regression of region means on true region means; 1 is right.

    Raises
    ------
    MaskError
        There are fewer than two regions.
    """
    a = torch.tensor(list(region_means(estimate, labels, mask).values()), dtype=torch.float64)
    b = torch.tensor(list(region_means(truth, labels, mask).values()), dtype=torch.float64)
    if len(b) < 2:
        raise MaskError(f"a slope over regions needs two regions, got {len(b)}. Check the labels against the mask.")
    b = _centred(b)
    return _ratio(a.dot(b), b.dot(b))


def _inside(estimate: Tensor, truth: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return both maps in the mask, in double precision."""
    if not mask.any():
        raise MaskError("the mask is empty: there is nothing to compare. Give another mask.")
    return estimate[mask].double(), truth[mask].double()


def _centred(values: Tensor) -> Tensor:
    """Take away the mean; where all values are alike nothing is left, not even what rounding would leave."""
    rest = values - values.mean()
    return torch.zeros_like(rest) if float(rest.abs().max()) <= ROUNDING * float(values.abs().max()) else rest


def _ratio(above: Tensor, below: Tensor) -> float:
    """Divide, giving NaN for 0/0 and infinity for other divisions by zero rather than an exception."""
    if float(below):
        return float(above) / float(below)
    return math.copysign(math.inf, float(above)) if abs(float(above)) > 0 else math.nan
