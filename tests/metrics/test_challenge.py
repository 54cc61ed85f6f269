"""The challenge's numbers against the leaderboard's own scorer, and against cases one can work out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from qsm_ci.qsm_eval import score_arrays
from scipy.ndimage import gaussian_filter

from paradia.errors import MaskError
from paradia.metrics.calcification import calcification
from paradia.metrics.challenge import deep_grey_linearity, score
from paradia.metrics.separation import angle_variation, leak, mspe, mspe_by_angle

SHAPE = (44, 37, 41)
KINDS = {"field": "field", "relaxation": "relaxation", "chi": "chi", "paramagnetic": "chisep", "diamagnetic": "chisep"}


def phantom(seed: int, calcified: bool = True):
    """Blobs with every label, χ that differs between them, a noisy and shrunken estimate with gaps."""
    random = np.random.default_rng(seed)
    smooth = [gaussian_filter(random.standard_normal(SHAPE), 3) for _ in range(16)]
    labels = np.argmax(smooth, 0) + 1
    labels[labels == 12] = 8
    if not calcified:
        labels[labels == 16] = 9
    else:
        labels[labels == 16] = 8
        labels[20:24, 15:18, 19:22] = 16
    mask = gaussian_filter(random.standard_normal(SHAPE), 4) > -0.03
    mask[18:26, 13:20, 17:24] = True
    mask[:, :3], mask[:, 30:] = False, False  # the mask reaches two faces of the volume only in part
    truth = random.uniform(-0.1, 0.15, 17)[labels] + 0.01 * random.standard_normal(SHAPE)
    truth[labels == 16] = -2.0
    estimate = 0.85 * truth + 0.03 * random.standard_normal(SHAPE) + 0.01
    estimate[:3] = 0
    estimate[5, 5, :4], estimate[6, 6, 6] = np.nan, np.inf
    return estimate, truth, mask, labels, random


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("seed", "labelled", "calcified"), [(0, True, True), (1, True, False), (2, False, True)])
def test_every_number_is_that_of_the_leaderboards_scorer(kind, seed, labelled, calcified):
    estimate, truth, mask, labels, random = phantom(seed, calcified)
    sources = KINDS[kind] == "chisep"
    if sources:
        estimate, truth = np.abs(estimate), np.abs(truth)
    bundles = np.where(labels == 8, 1 + np.indices(SHAPE)[0] // 10, 0) if sources and seed == 0 else None
    angle = random.uniform(0, 90, SHAPE) if sources and labelled else None
    expected, _ = score_arrays(
        estimate,
        truth,
        mask.astype(np.uint8),
        KINDS[kind],
        seg=labels if labelled else None,
        component="dia" if kind == "diamagnetic" else "para",
        wm_rois=bundles,
        theta=angle,
    )
    profile = expected.pop("mspe_theta", [])
    expected |= {f"mspe_theta_{place}": value for place, value in enumerate(profile)}
    if kind != "diamagnetic" and not (kind == "paramagnetic" and labelled):
        expected.pop("mspe", None)

    def tensor(values):
        return None if values is None else torch.from_numpy(np.ascontiguousarray(values))

    found = score(
        tensor(estimate),
        tensor(truth),
        tensor(mask),
        kind=kind,
        labels=tensor(labels) if labelled else None,
        bundles=tensor(bundles),
        angle=tensor(angle),
    )
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6, abs=1e-6, nan_ok=True), name
    if labelled and kind in ("chi", "diamagnetic"):
        assert math.isnan(found["calc_streak"]) != calcified


def test_single_precision_scores_the_same():
    estimate, truth, mask, labels, _ = phantom(3)
    double = score(*map(torch.from_numpy, (estimate, truth, mask)), labels=torch.from_numpy(labels))
    single = score(
        torch.from_numpy(estimate).float(), torch.from_numpy(truth).float(), torch.from_numpy(mask), labels=torch.from_numpy(labels).int()
    )
    for name, value in double.items():
        assert single[name] == pytest.approx(value, rel=1e-4), name


def test_what_was_left_out_counts_as_wrong():
    truth = torch.linspace(-1, 1, 11 * 9 * 8).reshape(11, 9, 8).sin()
    mask = torch.ones(truth.shape, dtype=torch.bool)
    half = torch.where(torch.arange(11)[:, None, None] < 5, torch.nan, truth)
    numbers = score(half, truth, mask)
    assert numbers["coverage"] == pytest.approx(6 / 11, abs=0.01)
    assert numbers["nrmse"] > 50
    assert score(truth, truth, mask)["nrmse"] == 0
    with pytest.raises(MaskError, match="nothing to score"):
        score(truth, truth, ~mask)


def test_a_calcification_by_hand():
    truth = torch.zeros(30, 27, 31)
    region = torch.zeros(truth.shape, dtype=torch.bool)
    region[14:17, 12:14, 15:17] = True
    truth[region] = -2.0
    assert calcification(truth, truth, region) == (0.0, 0.0)
    weak = 0.5 * truth
    weak[2, 2, 2] = -9.0  # far away
    assert calcification(weak, truth, region).moment_deviation == pytest.approx(12.0)
    grown = truth.clone()
    grown[17, 12:14, 15:17] = -0.5  # inside the box, below what is around
    assert calcification(grown, truth, region).moment_deviation == pytest.approx(2.0)
    noisy = truth.clone()
    noisy[8, 12, 15], noisy[9, 12, 15] = 1.0, -1.0  # in the rim: −1 is the threshold
    shells = (17 * 16 * 16 - 9 * 8 * 8, 2.0)
    assert calcification(noisy, truth, region).streak == pytest.approx(math.sqrt(2 / shells[0]) / shells[1])
    lost = calcification(torch.zeros_like(truth), truth, region)
    assert lost.moment_deviation == 24
    assert math.isnan(lost.streak)
    with pytest.raises(MaskError, match="calcification is empty"):
        calcification(truth, truth, ~(truth < 5))


def test_leak_and_regions_by_hand():
    estimate = torch.cat([torch.full((60,), 0.02), torch.full((40,), 0.5), torch.full((100,), -0.04)]).reshape(10, 4, 5)
    truth = torch.cat([torch.full((60,), 0.04), torch.full((40,), 0.1), torch.full((100,), -0.05)]).reshape(10, 4, 5)
    labels = torch.cat([torch.full((60,), 1), torch.full((40,), 2), torch.full((100,), 3)]).reshape(10, 4, 5)
    mask = torch.ones(labels.shape, dtype=torch.bool)
    assert leak(estimate, labels == 3) == pytest.approx(0.04)
    assert math.isnan(leak(estimate, labels == 9))
    assert mspe(estimate, truth, labels, mask) == pytest.approx(100 * (0.25 + 0.04) / 2)  # 40 voxels are too few
    assert mspe(estimate, truth, labels, mask, (3,)) == pytest.approx(4.0)
    assert mspe(estimate, 0.1 * truth, labels, mask, (3,)) == pytest.approx(100 * 7.0**2)
    assert math.isnan(mspe(estimate, 0.09 * truth, labels, mask, (1, 3)))


def test_angles_by_hand():
    angle = torch.tensor([1.0, 89.0]).repeat_interleave(100).reshape(10, 4, 5)
    truth = torch.ones(angle.shape)
    estimate = torch.where(angle < 45, 1.2, 1.1)
    estimate[0, 0, 0] = 50.0  # an outlier is passed over
    mask = torch.ones(angle.shape, dtype=torch.bool)
    profile = mspe_by_angle(estimate, truth, angle, mask)
    assert (profile[0], profile[-1]) == pytest.approx((4.0, 1.0))
    assert all(map(math.isnan, profile[1:-1]))
    assert angle_variation(profile) == pytest.approx(75)
    assert math.isnan(angle_variation(profile[1:]))


def test_linearity_of_the_nuclei():
    labels = torch.tensor([0, 1, 2, 6, 7, 16]).reshape(1, 2, 3)
    truth = torch.tensor([9.0, 0.1, 0.2, 0.4, 3.0, -2.0]).reshape(1, 2, 3)
    wrong = torch.where((labels > 0) & (labels < 7), 0.7 * truth + 1, 0.0)
    assert deep_grey_linearity(wrong, truth, labels) == pytest.approx(0.3)
    assert math.isnan(deep_grey_linearity(truth, truth, labels * (labels < 2)))
