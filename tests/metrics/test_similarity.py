"""Detail, structure and peak ratios against scipy, scikit-image and numbers by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_laplace
from skimage.metrics import structural_similarity

from paradia.errors import InputError, MaskError
from paradia.metrics.similarity import hfen, psnr, ssim

SHAPE = (19, 12, 15)


@pytest.fixture
def pair(generator):
    truth = torch.randn(SHAPE, generator=generator) * 0.05
    estimate = 0.8 * truth + 0.02 * torch.randn(SHAPE, generator=generator)
    mask = torch.rand(SHAPE, generator=generator) > 0.3
    return estimate, truth, mask


@pytest.mark.parametrize("cut", [(0, 0, 0), (9, 4, 7)])
def test_hfen_is_that_of_scipys_filter(pair, cut):
    estimate, truth, mask = pair
    mask = mask.clone()
    mask[: cut[0]], mask[:, : cut[1]], mask[..., cut[2] + 3 :] = False, False, False  # small masks are filtered in a box of their own
    a, b = (gaussian_laplace(image.double().numpy(), 1.5, truncate=5.0)[mask.numpy()] for image in (estimate, truth))
    expected = 100 * np.linalg.norm(a - b) / np.linalg.norm(b)
    assert hfen(estimate, truth, mask) == pytest.approx(expected, rel=1e-9)


def test_hfen_far_from_the_mask_does_not_count(generator):
    truth = torch.randn((40, 30, 33), generator=generator, dtype=torch.float64)
    mask = torch.zeros(truth.shape, dtype=torch.bool)
    mask[18:22, 12:17, 14:17] = True
    spoiled = truth.clone()
    spoiled[:9], spoiled[31:] = 1e3, -1e3
    assert hfen(spoiled, truth, mask) == 0
    assert hfen(1.25 * truth, truth, mask) == pytest.approx(25, rel=1e-9)
    assert hfen(truth + 3, truth, mask) == pytest.approx(0, abs=1e-2)  # a constant has no detail, but for the sampling of the kernel


def test_hfen_takes_what_is_no_number_outside_the_mask_for_nothing(pair):
    estimate, truth, mask = pair
    cleared = hfen(estimate * mask, truth * mask, mask)
    assert hfen(torch.where(mask, estimate, math.nan), torch.where(mask, truth, math.inf), mask) == cleared
    estimate[tuple(mask.nonzero()[0].tolist())] = math.nan
    assert math.isnan(hfen(estimate, truth, mask))


@pytest.mark.parametrize("first", [0, 9])
@pytest.mark.parametrize("peak", [None, 0.7])
def test_ssim_is_scikit_images(pair, peak, first):
    estimate, truth, mask = pair
    mask = mask.clone()
    mask[:first] = False
    a, b = (np.where(mask, image.double(), 0) for image in (estimate, truth))
    lowest = min(a[mask].min(), b[mask].min())
    top = peak or max(a[mask].max(), b[mask].max()) - lowest
    _, local = structural_similarity(a - lowest, b - lowest, data_range=top, full=True)
    assert ssim(estimate, truth, mask, peak=peak) == pytest.approx(local[mask].mean(), abs=1e-10)


def test_ssim_is_one_for_the_truth_and_grows_with_the_peak(pair):
    estimate, truth, mask = pair
    assert ssim(truth, truth, mask) == pytest.approx(1)
    scores = [ssim(estimate, truth, mask, peak=peak) for peak in (0.1, 1.0, 10.0)]
    assert scores == sorted(scores)
    assert ssim(estimate + 1, truth + 1, mask) == pytest.approx(ssim(estimate, truth, mask), abs=0.2)


def test_psnr_by_hand():
    truth = torch.zeros(2, 3, 4)
    mask = torch.ones(truth.shape, dtype=torch.bool)
    estimate = torch.full_like(truth, 0.01)
    assert psnr(estimate, truth, mask, peak=1.0) == pytest.approx(40)
    assert psnr(estimate, truth, mask, peak=0.1) == pytest.approx(20)
    assert psnr(truth, truth, mask, peak=1.0) == math.inf
    mask[0] = False
    estimate[0] = 9.0
    assert psnr(estimate, truth, mask, peak=1.0) == pytest.approx(40)


def test_what_cannot_be_compared_is_refused(pair):
    estimate, truth, mask = pair
    with pytest.raises(InputError, match="positive number in the unit of the maps, got 0"):
        psnr(estimate, truth, mask, peak=0.0)
    with pytest.raises(InputError, match="got nan"):
        ssim(estimate, truth, mask, peak=math.nan)
    for measure in (hfen, ssim):
        with pytest.raises(MaskError, match="nothing to compare"):
            measure(estimate, truth, torch.zeros_like(mask))


def test_ssim_does_not_see_what_is_outside_the_mask():
    generator = torch.Generator().manual_seed(4)
    a, b = torch.randn((2, 12, 11, 13), generator=generator)
    mask = torch.zeros(a.shape, dtype=torch.bool)
    mask[2:9, 3:9, 2:11] = True
    assert ssim(torch.where(mask, a, math.nan), torch.where(mask, b, math.inf), mask) == ssim(a, b, mask)
