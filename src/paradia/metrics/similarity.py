"""How alike two maps look: their fine detail, their structure, and their distance from a stated peak."""

from __future__ import annotations

import math

import torch

from paradia.errors import InputError, MaskError
from paradia.metrics._filters import around, laplacian_of_gaussian, mirrored_mean, numbers
from paradia.metrics.accuracy import _ratio
from paradia.sources.inside import within
from paradia.types import Mask, Volume

SIGMA = 1.5
"""Width of the Gaussian of `hfen`, voxels."""

REACH = 8
"""Half the width of its kernel, voxels: five standard deviations and a half, rounded."""

SSIM_WINDOW = 7
SSIM_K = (0.01, 0.03)


def hfen(estimate: Volume, truth: Volume, mask: Mask) -> float:
    r"""Return the error of the fine detail in percent, the high-frequency error norm.

    :math:`100\,\|L(a - b)\| / \|L b\|` over the mask, with L the Laplacian of a Gaussian of 1.5 voxels. What lies outside the
    mask is filtered along: set both maps to zero there, unless both hold something.

    Parameters
    ----------
    estimate, truth
        Maps in the same unit.
    mask
        Voxels over which the norms are taken.

    Returns
    -------
    float
        Percent; 0 is perfect.

    References
    ----------
    Langkammer C, et al. Magn Reson Med 2018;79(3):1661-1673. doi:10.1002/mrm.26830.
    """
    _check(mask)
    box = around(mask, REACH)  # beyond, nothing reaches into the mask
    inside = mask[box]
    a, b = (numbers(image[box].double(), inside) for image in (estimate, truth))
    error, detail = (laplacian_of_gaussian(image, SIGMA, REACH)[inside] for image in (a - b, b))
    return 100 * _ratio(error.norm(), detail.norm())


def ssim(estimate: Volume, truth: Volume, mask: Mask, *, peak: float | None = None) -> float:
    r"""Return the structural similarity, averaged over the mask.

    Both maps are zero outside the mask and shifted by their common minimum in it, for the measure wants an image that is never
    negative. Means, variances and covariances are unbiased ones over cubes of 7 voxels, and :math:`c_1 = (0.01\,p)^2`,
    :math:`c_2 = (0.03\,p)^2` with the peak p.

    Parameters
    ----------
    estimate, truth
        Maps in the same unit.
    mask
        Voxels that count.
    peak
        p, in the unit of the maps; without one the range of both maps in the mask.

    Returns
    -------
    float
        1 is perfect. It says little by itself: a larger peak, or one outlier without it, brings everything closer to 1. For χ
        see `paradia.metrics.accuracy.xsim`.

    References
    ----------
    Wang Z, et al. IEEE Trans Image Process 2004;13(4):600-612. doi:10.1109/TIP.2003.819861.
    """
    _check(mask)
    box = around(mask, SSIM_WINDOW // 2)  # beyond, nothing reaches into the mask
    estimate, truth, mask = estimate[box], truth[box], mask[box]
    a, b = within(estimate.double(), mask), within(truth.double(), mask)
    lowest = torch.minimum(a[mask].min(), b[mask].min())
    a, b = a - lowest, b - lowest
    if peak is None:
        peak = float(torch.maximum(a[mask].max(), b[mask].max()))
    _check_peak(peak)
    c1, c2 = ((k * peak) ** 2 for k in SSIM_K)
    unbiased = SSIM_WINDOW**3 / (SSIM_WINDOW**3 - 1)
    mean_a, mean_b, square_a, square_b, product = (mirrored_mean(image, SSIM_WINDOW) for image in (a, b, a * a, b * b, a * b))
    var_a, var_b = unbiased * (square_a - mean_a**2), unbiased * (square_b - mean_b**2)
    covariance = unbiased * (product - mean_a * mean_b)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return float((luminance * (2 * covariance + c2) / (var_a + var_b + c2))[mask].mean())


def psnr(estimate: Volume, truth: Volume, mask: Mask, *, peak: float) -> float:
    r"""Return the ratio of a peak to the error, :math:`20 \log_{10}(p / \mathrm{RMSE})` over the mask.

    Parameters
    ----------
    estimate, truth
        Maps in the same unit.
    mask
        Voxels that count.
    peak
        p, in the unit of the maps. It has to be stated, because numbers with different peaks cannot be compared: papers on χ
        take 1 ppm, or the largest value of the truth.

    Returns
    -------
    float
        dB; infinite where there is no error.
    """
    _check(mask)
    _check_peak(peak)
    error = float((estimate[mask].double() - truth[mask].double()).square().mean().sqrt())
    return 20 * math.log10(peak / error) if error else math.inf


def _check(mask: Mask) -> None:
    if not mask.any():
        raise MaskError("the mask is empty: there is nothing to compare. Give another mask.")


def _check_peak(peak: float) -> None:
    if not (math.isfinite(peak) and peak > 0):
        raise InputError(f"the peak must be a positive number in the unit of the maps, got {peak:g}. Papers on χ take 1 ppm.")
