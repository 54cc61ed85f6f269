"""Lesions of known rim and core, classes by the stated rule, agreement against counts by hand, and lesions of the simulator."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import torch

from paradia.errors import GeometryError, InputError, MaskError, NonFiniteError
from paradia.grid import Grid
from paradia.metrics.lesions import CLASSES, UNKNOWN, Rule, agreement, components, lesions
from paradia.simulate.lesions import KINDS
from paradia.simulate.subject import subject

GRID = Grid((44, 41, 36), (1.0, 1.2, 1.5), (0.0, 0.0, 1.0))
CENTRE, RADIUS, RIM = (22.0, 24.0, 27.0), 8.0, 2.0


def from_centre(centre):
    axes = [torch.arange(n) * size - c for n, size, c in zip(GRID.shape, GRID.voxel_size, centre, strict=True)]
    return sum(a.square() for a in torch.meshgrid(*axes, indexing="ij")).sqrt()


@pytest.fixture
def ball(generator):
    """A ball of 8 mm with a bright rim of 2 mm, in even tissue with a little noise."""
    distance = from_centre(CENTRE)
    labels = (distance < RADIUS).int()
    image = torch.full(GRID.shape, 10.0)
    image[distance < RADIUS] = 30.0
    image[distance < RADIUS - RIM] = 20.0
    return labels, image + 0.5 * torch.randn(GRID.shape, generator=generator), torch.ones(GRID.shape, dtype=torch.bool), distance


def test_size_place_rim_and_core(ball):
    labels, image, mask, _ = ball
    (found,) = lesions(labels, {"chi": image}, mask, GRID, rule=Rule(rim=RIM))
    assert found.voxels == int((labels == 1).sum())
    assert found.volume == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.03)
    np.testing.assert_allclose(np.array(found.centre) * GRID.voxel_size, CENTRE, atol=0.1)
    seen = found.maps["chi"]
    inside = image[labels == 1]
    assert seen.mean == pytest.approx(float(inside.mean()), abs=1e-4)
    assert seen.median == pytest.approx(float(np.median(inside)), abs=1e-4)
    assert seen.sd == pytest.approx(float(inside.std()), abs=1e-3)
    assert seen.core == pytest.approx(20, abs=1.0)
    assert seen.rim == pytest.approx(30, abs=1.5)
    assert seen.around == pytest.approx(10, abs=0.05)
    assert seen.around_sd == pytest.approx(0.5, abs=0.05)
    assert seen.difference == seen.mean - seen.around


def test_the_profile_goes_by_distance_from_the_border(ball):
    """Of an image that is the distance itself, each step holds its own middle."""
    labels, _, mask, distance = ball
    (found,) = lesions(labels, {"chi": distance - RADIUS}, mask, GRID)
    profile = found.maps["chi"].profile
    assert (profile[0].start, profile[-1].end) == (-8, 5)
    for depth in profile[1:]:
        assert depth.end - depth.start == 1
        assert depth.mean == pytest.approx((depth.start + depth.end) / 2, abs=0.35)
    assert sum(depth.voxels for depth in profile if depth.end <= 0) == found.voxels


@pytest.mark.parametrize(("step", "kind"), [(0.0, "iso"), (0.3, "iso"), (0.8, "hyper"), (-0.8, "hypo")])
def test_class_follows_the_rule(step, kind, ball, generator):
    """Tissue with a standard deviation of one half: a step of less is none."""
    labels, _, mask, _ = ball
    image = 10 + step * labels + 0.5 * torch.randn(GRID.shape, generator=generator)
    seen = lesions(labels, {"chi": image}, mask, GRID)[0].maps["chi"]
    assert seen.kind == kind
    assert seen.limit == pytest.approx(0.5, rel=0.08)


def test_few_voxels_need_a_larger_step(generator):
    """The standard error counts where a lesion is small."""
    labels = torch.zeros(GRID.shape, dtype=torch.int32)
    labels[20:22, 20, 18] = 1
    image = 10 + 0.5 * torch.randn(GRID.shape, generator=generator)
    image[20, 20, 18], image[21, 20, 18] = 10.2, 11.8
    seen = lesions(labels, {"chi": image}, torch.ones(GRID.shape, dtype=torch.bool), GRID)[0].maps["chi"]
    assert seen.limit == pytest.approx(2 * math.hypot(seen.sd / 2**0.5, (math.pi / 2) ** 0.5 * seen.around_sd / 130**0.5), rel=0.05)
    assert seen.kind == "iso"


def test_other_lesions_and_what_is_excluded_do_not_count_as_tissue(ball):
    labels, image, mask, distance = ball
    neighbour = from_centre((CENTRE[0] + 11.5, CENTRE[1], CENTRE[2])) < 2.5
    fluid = (distance > RADIUS) & (from_centre((CENTRE[0], CENTRE[1] + 12, CENTRE[2])) < 4)
    spoilt = torch.where(neighbour | fluid, 500.0, image)
    both = torch.where(neighbour & (labels == 0), 2, labels)
    first = lesions(both, {"chi": spoilt}, mask, GRID, exclude=fluid)[0]
    alone = lesions(labels, {"chi": image}, mask, GRID)[0]
    assert first.around < alone.around
    assert first.maps["chi"].around == pytest.approx(alone.maps["chi"].around, abs=0.05)
    assert first.maps["chi"].around_sd == pytest.approx(alone.maps["chi"].around_sd, rel=0.1)
    outside = [d for d in first.maps["chi"].profile if d.start >= 0]
    assert max(d.mean for d in outside) > 20  # fluid shows in the profile, as it is there
    assert sum(d.voxels for d in outside) < sum(d.voxels for d in alone.maps["chi"].profile if d.start >= 0)


def test_a_lesion_without_tissue_is_unknown_and_all_such_are_refused(ball):
    labels, image, mask, distance = ball
    far = from_centre((8.0, 8.0, 8.0)) < 3
    both = torch.where(far, 2, labels)
    exclude = (distance > RADIUS) & (distance < RADIUS + 8)
    first, second = lesions(both, {"chi": image}, mask, GRID, exclude=exclude)
    assert first.maps["chi"].kind == UNKNOWN
    assert math.isnan(first.maps["chi"].difference)
    assert second.maps["chi"].kind in CLASSES
    with pytest.raises(MaskError, match="no lesion has 20 voxels of normal-appearing tissue between 2 and 5 mm"):
        lesions(labels, {"chi": image}, mask, GRID, exclude=exclude)


def test_a_voxel_without_a_number_between_lesion_and_tissue_is_left_out_of_the_profile(ball):
    labels, image, mask, distance = ball
    place = tuple(((distance > RADIUS + 0.5) & (distance < RADIUS + 1.0)).nonzero()[0].tolist())
    (whole,) = lesions(labels, {"chi": image}, mask, GRID)
    image[place] = torch.nan
    (found,) = lesions(labels, {"chi": image}, mask, GRID)
    assert all(math.isfinite(depth.mean) for depth in found.maps["chi"].profile)
    assert sum(depth.voxels for depth in found.maps["chi"].profile) == sum(depth.voxels for depth in whole.maps["chi"].profile) - 1
    assert found.maps["chi"]._replace(profile=()) == whole.maps["chi"]._replace(profile=())


def test_a_lesion_of_voxels_thicker_than_a_rim_has_none():
    grid = Grid((9, 9, 9), (4.0, 4.0, 4.0))
    labels = torch.zeros(grid.shape, dtype=torch.int32)
    labels[4, 4, 4] = 1
    (found,) = lesions(labels, {"chi": labels.float()}, torch.ones(grid.shape, dtype=torch.bool), grid, rule=Rule(near=1.0, far=9.0))
    assert (found.maps["chi"].core, found.maps["chi"].mean) == (1, 1)
    assert math.isnan(found.maps["chi"].rim)


def test_voxels_that_touch_are_one_lesion():
    mask = torch.zeros((6, 6, 6), dtype=torch.bool)
    mask[1, 1, 1] = mask[2, 2, 2] = mask[5, 5, 5] = True
    labels = components(mask)
    assert labels.max() == 2
    assert labels[1, 1, 1] == labels[2, 2, 2] != labels[5, 5, 5]


def test_agreement_is_that_of_counts_by_hand():
    first = ["hyper"] * 45 + ["iso"] * 30 + ["hypo"] * 25 + [UNKNOWN]
    second = ["hyper"] * 40 + ["iso"] * 5 + ["iso"] * 28 + ["hypo"] * 2 + ["hypo"] * 25 + ["iso"]
    found = agreement(first, second)
    assert found.number == 100
    assert found.table == ((40, 5, 0), (0, 28, 2), (0, 0, 25))
    assert found.share == 0.93
    assert (found.low, found.high) == (pytest.approx(0.8625, abs=2e-4), pytest.approx(0.9657, abs=2e-4))  # Wilson's formula by hand
    chance = 0.45 * 0.40 + 0.30 * 0.33 + 0.25 * 0.27
    assert found.kappa == pytest.approx((0.93 - chance) / (1 - chance))
    assert math.isnan(agreement(["iso"] * 3, ["iso"] * 3).kappa)
    assert agreement(["iso"] * 250, ["iso"] * 250).low == pytest.approx(0.98487, abs=1e-4)
    with pytest.raises(InputError, match="3 lesions in the first set and 2 in the second"):
        agreement(["iso"] * 3, ["iso"] * 2)
    with pytest.raises(InputError, match="no lesion has a class in both sets"):
        agreement([UNKNOWN], ["iso"])


@pytest.mark.parametrize("kind", KINDS)
def test_lesions_of_the_simulator_are_what_they_are(kind, onion):
    """Drawn where the onion is white matter: each kind on the true maps, in its own direction."""
    head = subject(5, grid=Grid((52, 52, 52), (2.5, 2.5, 2.5)), lesions=(kind, kind), anatomy=onion)
    fluid = head.region("csf") | head.region("grey_matter") | head.region("putamen")
    maps = {"chi_pos": head.chi_pos, "chi_neg": head.chi_neg, "chi": head.chi}
    found = lesions(head.lesion_labels, maps, head.mask, head.grid, exclude=fluid)
    assert {one.label for one in found} <= {1, 2}
    seen = found[0].maps
    want = {
        "plaque": ("chi_neg", "hypo"),
        "rim_plaque": ("chi_pos", "hyper"),
        "microbleed": ("chi_pos", "hyper"),
        "haemorrhage": ("chi_pos", "hyper"),
        "calcification": ("chi_neg", "hyper"),
    }[kind]
    assert seen[want[0]].kind == want[1]
    if kind == "rim_plaque" and not math.isnan(seen["chi_pos"].core):
        assert seen["chi_pos"].rim > 1.5 * seen["chi_pos"].core


def test_what_cannot_be_measured_is_refused(ball):
    labels, image, mask, _ = ball
    with pytest.raises(GeometryError, match="chi has shape"):
        inspect.unwrap(lesions)(labels, {"chi": image[1:]}, mask, GRID)
    with pytest.raises(MaskError, match="the lesion mask is empty"):
        lesions(0 * labels, {"chi": image}, mask, GRID)
    with pytest.raises(MaskError, match="no lesion lies inside the mask"):
        lesions(labels, {"chi": image}, labels == 0, GRID)
    with pytest.raises(NonFiniteError, match="chi is NaN or Inf in or around lesion 1"):
        lesions(labels, {"chi": torch.where(labels > 0, torch.nan, image)}, mask, GRID)
    with pytest.raises(InputError, match="there is no map"):
        lesions(labels, {}, mask, GRID)
    with pytest.raises(InputError, match="a shell goes from 0"):
        lesions(labels, {"chi": image}, mask, GRID, rule=Rule(near=5, far=2))
