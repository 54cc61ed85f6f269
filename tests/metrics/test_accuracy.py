"""Accuracy against hand-computed values and the laws each number obeys."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paradia.errors import MaskError
from paradia.metrics.accuracy import bias, correlation, nrmse, region_means, region_slope, slope, xsim

SHAPE = (9, 7, 8)


@pytest.fixture
def pair(generator):
    truth = torch.randn(SHAPE, generator=generator) * 0.05
    mask = torch.rand(SHAPE, generator=generator) > 0.3
    return truth + 0.02 * torch.randn(SHAPE, generator=generator), truth, mask


def test_nrmse_by_hand():
    truth = torch.tensor([1.0, 2.0, 3.0, 9.0]).reshape(1, 1, 4)
    estimate = torch.tensor([2.0, 2.0, 4.0, 0.0]).reshape(1, 1, 4)
    mask = torch.tensor([True, True, True, False]).reshape(1, 1, 4)
    assert nrmse(estimate, truth, mask, kind="plain") == pytest.approx(100 * math.sqrt(2 / 14))
    assert nrmse(estimate, truth, mask) == pytest.approx(100 * math.sqrt((2 / 3) / 2))
    # demeaned estimate (−2/3, −2/3, 4/3), truth (−1, 0, 1): slope 1, so detrending changes nothing
    assert nrmse(estimate, truth, mask, kind="detrended") == pytest.approx(100 * math.sqrt((2 / 3) / 2))


@given(scale=st.floats(0.1, 5), shift=st.floats(-1, 1))
@settings(max_examples=20, deadline=None)
def test_what_each_forgives(scale, shift):
    truth = torch.linspace(-1, 1, 504).reshape(SHAPE).sin().double()
    mask = torch.ones(SHAPE, dtype=torch.bool)
    assert nrmse(truth + shift, truth, mask) == pytest.approx(0, abs=1e-6)
    assert nrmse(scale * truth + shift, truth, mask, kind="detrended") == pytest.approx(0, abs=1e-6)
    assert nrmse(scale * truth + shift, truth, mask) == pytest.approx(100 * abs(scale - 1), abs=1e-6)
    assert slope(scale * truth + shift, truth, mask) == pytest.approx(scale)
    assert correlation(scale * truth + shift, truth, mask) == pytest.approx(1)
    assert bias(truth + shift, truth, mask) == pytest.approx(shift, abs=1e-9)


def test_correlation_is_pearsons(pair):
    estimate, truth, mask = pair
    expected = torch.corrcoef(torch.stack([estimate[mask], truth[mask]]))[0, 1]
    assert correlation(estimate, truth, mask) == pytest.approx(float(expected), abs=1e-6)


def test_only_the_mask_counts(pair):
    estimate, truth, mask = pair
    spoiled = torch.where(mask, estimate, 1e3)
    for measure in (nrmse, correlation, slope, bias):
        assert measure(spoiled, truth, mask) == measure(estimate, truth, mask)


@pytest.mark.parametrize("slices", [8, 3, 1])
def test_xsim_against_loops(slices, pair):
    estimate, truth, mask = (image[..., :slices] for image in pair)
    scores = []
    for i, j, k in mask.nonzero().tolist():
        window = tuple(slice(max(n - 2, 0), n + 3) for n in (i, j, k))
        a, b = estimate[window].double(), truth[window].double()
        covariance = ((a - a.mean()) * (b - b.mean())).mean()
        luminance = (2 * a.mean() * b.mean() + 1e-4) / (a.mean() ** 2 + b.mean() ** 2 + 1e-4)
        structure = (2 * covariance + 1e-6) / (a.var(correction=0) + b.var(correction=0) + 1e-6)
        scores.append(float(luminance * structure))
    assert xsim(estimate, truth, mask) == pytest.approx(sum(scores) / len(scores), abs=1e-9)
    assert xsim(truth, truth, mask) == pytest.approx(1)


@pytest.mark.parametrize("level", [0.1, 0.013, -0.7, 1 / 3])
def test_a_constant_tells_no_slope(level, pair):
    """Its mean is rounded, so that something of 10⁻¹⁷ is left of it: no number may rest on that."""
    estimate, truth, mask = (image if image.dtype == torch.bool else image.double() for image in pair)
    flat = torch.full_like(truth, level)
    for measure in (slope, correlation):
        assert math.isnan(measure(truth, flat, mask))
    assert math.isnan(correlation(flat, truth, mask))
    assert math.isnan(correlation(flat, flat, mask))
    assert nrmse(estimate, flat, mask) == math.inf
    assert math.isnan(nrmse(flat, flat, mask))
    for one, other in ((estimate, flat), (flat, flat)):  # a scale is fitted to nothing
        assert math.isnan(nrmse(one, other, mask, kind="detrended"))
    labels = 1 + torch.arange(SHAPE[0])[:, None, None].expand(SHAPE)
    assert math.isnan(region_slope(estimate, flat, labels, mask))


def test_xsim_takes_what_is_no_number_outside_the_mask_for_nothing(pair):
    estimate, truth, mask = pair
    cleared = xsim(estimate * mask, truth * mask, mask)
    assert xsim(torch.where(mask, estimate, math.nan), torch.where(mask, truth, math.inf), mask) == cleared
    estimate[tuple(mask.nonzero()[0].tolist())] = math.nan
    assert math.isnan(xsim(estimate, truth, mask))


def test_regions():
    labels = torch.tensor([0, 1, 1, 2, 2, 5]).reshape(1, 2, 3)
    image = torch.tensor([9.0, 1.0, 3.0, 4.0, 6.0, 7.0]).reshape(1, 2, 3)
    assert region_means(image, labels) == {1: 2.0, 2: 5.0, 5: 7.0}
    assert region_means(image, labels, labels != 5) == {1: 2.0, 2: 5.0}
    assert region_slope(0.8 * image + 3, image, labels) == pytest.approx(0.8)
    with pytest.raises(MaskError, match="two regions, got 1"):
        region_slope(image, image, (labels == 1).long())


def test_empty_mask_is_refused(pair):
    estimate, truth, mask = pair
    with pytest.raises(MaskError, match="nothing to compare"):
        nrmse(estimate, truth, torch.zeros_like(mask))
