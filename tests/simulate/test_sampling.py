"""Masks: their acceleration, their distances, their middle, their density."""

import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from paradia.errors import InputError, UnknownNameError
from paradia.fft import from_kspace
from paradia.simulate.sampling import BLUR, CALIBRATION, FALLOFF, _poisson_disk, acceleration_of, ellipse, masks, poisson_disk, uniform


def density(mask, low, high):
    """Share of lines taken between two ellipses."""
    y, z = np.meshgrid(*[(np.arange(n) - n // 2) / (n / 2) for n in mask.shape], indexing="ij")
    rho = np.hypot(y, z)
    return float(mask.numpy()[(rho >= low) & (rho < high)].mean())


@pytest.mark.parametrize("shape", [(96, 64), (75, 110)])
@pytest.mark.parametrize("wanted", [1.4, 2.0, 3.3, 6.0])
def test_a_poisson_disk_meets_its_acceleration_and_keeps_its_distances(shape, wanted):
    mask, radius = _poisson_disk(shape, wanted, (10, 8), True, FALLOFF, 11, 0)
    assert abs(acceleration_of(mask) / wanted - 1) < 0.02
    assert not (mask & ~ellipse(shape)).any()
    y, z = (slice(n // 2 - c // 2, n // 2 + c - c // 2) for n, c in zip(shape, (10, 8), strict=True))
    assert mask[y, z].all()
    outside = mask.clone()
    outside[y, z] = False
    places = outside.nonzero().numpy()
    own = radius[places[:, 0], places[:, 1]]
    pairs = cKDTree(places).query_pairs(float(own.max()), output_type="ndarray")
    apart = np.linalg.norm(places[pairs[:, 0]] - places[pairs[:, 1]], axis=1)
    assert (apart >= np.maximum(own[pairs[:, 0]], own[pairs[:, 1]]) - 1e-5).all()
    assert radius.max() > 1.2  # it does hold something apart


def test_no_hole_is_left_where_another_line_would_fit():
    shape = (90, 80)
    mask, radius = _poisson_disk(shape, 4.0, (0, 0), False, FALLOFF, 2, 0)
    places = mask.nonzero().numpy()
    own = radius[places[:, 0], places[:, 1]]
    free = 0
    for y, z in np.argwhere(~mask.numpy()):
        apart = np.hypot(places[:, 0] - y, places[:, 1] - z)
        free += bool((apart >= np.maximum(own, radius[y, z])).all())
    assert free < 0.03 * len(places)  # at most the neighbourhoods of the few that were left out to meet the number


def test_density_falls_outwards_without_steps():
    mask = poisson_disk((192, 160), 4.0, seed=5)
    falling = [density(mask, low, low + 0.15) for low in (0.2, 0.35, 0.5, 0.65, 0.8)]
    assert all(inner > outer for inner, outer in pairwise(falling))
    assert falling[0] > 3 * falling[-1]
    even = poisson_disk((192, 160), 4.0, seed=5, falloff=0.0, calibration=(0, 0))
    assert abs(density(even, 0.1, 0.5) / density(even, 0.5, 0.9) - 1) < 0.1


def test_a_radius_varies_by_no_more_than_is_said():
    _, radius = _poisson_disk((64, 60), 3.0, (8, 8), True, 0.0, 1, 0)
    assert radius.max() / radius.min() < (1 + BLUR) / (1 - BLUR) + 1e-4


def test_a_poisson_disk_is_soon_there():
    start = time.process_time()
    mask = poisson_disk((192, 128), 4.0)
    assert time.process_time() - start < 4  # measured 0.3 s; the rest is for busy machines
    assert abs(acceleration_of(mask) / 4 - 1) < 0.02


def test_echoes_have_masks_of_their_own_and_seeds_repeat_them():
    own = masks((64, 48), 3, 3.0, calibration=(8, 8), seed=9)
    assert own.shape == (3, 64, 48)
    assert not torch.equal(own[0], own[1])
    assert not torch.equal(own[1], own[2])
    outer = own.clone()
    outer[:, 20:44, 12:36] = False
    assert (outer[0] & outer[1]).sum() < 0.6 * outer[0].sum()
    assert torch.equal(own, masks((64, 48), 3, 3.0, calibration=(8, 8), seed=9))
    assert torch.equal(own[:1], masks((64, 48), 1, 3.0, calibration=(8, 8), seed=9))
    assert not torch.equal(own, masks((64, 48), 3, 3.0, calibration=(8, 8), seed=10))
    same = masks((64, 48), 3, 3.0, calibration=(8, 8), each=False, seed=9)
    assert torch.equal(same[0], same[2])
    assert torch.equal(same[0], own[0])


def test_the_default_calibration_is_full():
    mask = masks((64, 62), 1, 2.5)[0]
    assert mask[20:44, 19:43].all()
    assert CALIBRATION == (24, 24)


@pytest.mark.parametrize(
    ("pattern", "factor", "steps"), [("uniform", 4.0, (2, 2)), ("uniform", 3.0, (1, 3)), ("caipi", 6.0, (2, 3)), ("caipi", 4.0, (2, 2))]
)
def test_a_lattice_has_its_step_and_its_middle(pattern, factor, steps):
    shape = (48, 60)
    mask = masks(shape, 2, factor, pattern=pattern, calibration=(0, 0), shutter=False)
    assert torch.equal(mask[0], mask[1])
    assert acceleration_of(mask[0]) == factor
    assert mask[0, 24, 30]
    assert mask[0].any(1).sum() == 48 // steps[0]
    with_middle = masks(shape, 1, factor, pattern=pattern, calibration=(10, 6), shutter=True)[0]
    assert with_middle[19:29, 27:33].all()
    outside = with_middle.clone()
    outside[19:29, 27:33] = False
    assert torch.equal(outside, outside & mask[0] & ellipse(shape))


@pytest.mark.parametrize(
    ("steps", "shift", "aliases"),
    [
        ((1, 4), 0, {(0, 0), (0, 12), (0, 24), (0, 36)}),
        ((2, 2), 0, {(0, 0), (24, 0), (0, 24), (24, 24)}),
        ((2, 2), 1, {(0, 0), (24, 0), (12, 24), (36, 24)}),  # of the dual lattice: 2 b and 2 a + b are multiples of 48
    ],
)
def test_a_shift_moves_the_aliases(steps, shift, aliases):
    mask = uniform((48, 48), steps, shift=shift, calibration=(0, 0))
    spread = from_kspace(mask[None].to(torch.complex64))[0].abs()
    assert {((int(a) - 24) % 48, (int(b) - 24) % 48) for a, b in (spread > 0.01 * spread.max()).nonzero()} == aliases


def test_an_ellipse_covers_its_area():
    inside = ellipse((200, 150))
    assert abs(float(inside.float().mean()) - np.pi / 4) < 0.01
    assert not inside[0, 0]
    assert inside[100, 1]


def test_bad_input_is_told():
    with pytest.raises(InputError, match=r"must be 1 or more, got 0\.5"):
        masks((64, 48), 1, 0.5)
    with pytest.raises(InputError, match="must be 1 or more, got nan"):
        poisson_disk((64, 48), float("nan"))
    with pytest.raises(UnknownNameError, match="no sampling pattern 'poison'. Did you mean 'poisson'"):
        masks((64, 48), 1, 2.0, pattern="poison")
    with pytest.raises(InputError, match=r"shutter alone gives an acceleration of 1\.2"):
        masks((64, 48), 1, 1.1)
    with pytest.raises(InputError, match="fewer than the 576 of the calibration 24 × 24"):
        masks((64, 48), 1, 8.0)
    with pytest.raises(InputError, match=r"whole number as its acceleration, 1 or more, got 2\.5"):
        masks((64, 48), 1, 2.5, pattern="uniform")
    with pytest.raises(InputError, match="must lie inside the 16 × 48 lines, got 24 × 24"):
        masks((16, 48), 1, 2.0, pattern="caipi")
    with pytest.raises(InputError, match="steps between lines"):
        uniform((64, 48), (0, 1))
    with pytest.raises(InputError, match="at least one echo"):
        masks((64, 48), 0, 2.0)
    with pytest.raises(InputError, match="leaves none"):
        poisson_disk((20, 20), 1e4, calibration=(0, 0))
    with pytest.raises(InputError, match="falloff must be"):
        poisson_disk((64, 48), 2.0, falloff=-1.0)
    assert masks((48, 40), 1, 1.0, shutter=False)[0].all()
