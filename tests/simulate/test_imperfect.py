"""Imperfections: none at strength zero, of the size stated at one, and of the kind stated."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch

from paradia.errors import InputError
from paradia.grid import Grid
from paradia.simulate._smooth import displaced
from paradia.simulate.anatomy import Anatomy
from paradia.simulate.imperfect import (
    LARGEST_SHIFT,
    Errors,
    flow,
    frequency_shift,
    motion,
    noise_map,
    residual_background,
    rough_mask,
)
from paradia.simulate.tissue import LABELS

GRID = Grid((60, 71, 44), (2.0, 2.0, 2.6), (0.2, -0.3, 0.93))


def radius(grid=GRID):
    axes = [(torch.arange(n) - (n - 1) / 2) * v for n, v in zip(grid.shape, grid.voxel_size, strict=True)]
    x, y, z = (axis / half for axis, half in zip(axes, (50.0, 62.0, 48.0), strict=True))
    return (x.square()[:, None, None] + y.square()[:, None] + z.square()).sqrt()


@pytest.fixture
def mask():
    return radius() < 1


def anatomy(mask, fibres=None):
    labels = torch.zeros(GRID.shape, dtype=torch.uint8)
    labels[mask] = LABELS["grey_matter"]
    labels[radius() < 0.6] = LABELS["white_matter"]
    nothing = torch.zeros(GRID.shape)
    return Anatomy(labels, mask, nothing, nothing, fibres, GRID)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_none_is_none_and_training_is_all():
    assert Errors.none() == Errors()
    assert all(getattr(Errors.none(), field.name) == 0 for field in fields(Errors))
    assert all(getattr(Errors.training(), field.name) == 1 for field in fields(Errors))
    assert all(getattr(Errors.training(0.3), field.name) == 0.3 for field in fields(Errors))


@pytest.mark.parametrize("strength", [-0.1, math.nan, math.inf, 6.0])
def test_impossible_strengths_are_refused_by_name(strength):
    with pytest.raises(InputError, match="the strength of flow errors must lie between 0 and 5"):
        Errors(flow=strength)


def test_strength_zero_changes_nothing(mask):
    given = anatomy(mask)
    assert not frequency_shift(given, 0.0, seeded()).any()
    assert not residual_background(mask, GRID, 0.0, seeded()).any()
    assert torch.equal(rough_mask(mask, 0.0, seeded()), mask)
    assert torch.equal(noise_map(GRID, 0.0, seeded()), torch.ones(GRID.shape))
    assert not flow(mask.float(), GRID, 0.0, seeded()).any()
    assert not any(part.any() for part in motion(4, 0.0, seeded()))


def test_seeds_reproduce_and_differ(mask):
    for make in (
        lambda g: frequency_shift(anatomy(mask), 1.0, g),
        lambda g: residual_background(mask, GRID, 1.0, g),
        lambda g: rough_mask(mask, 1.0, g, voxel_size=GRID.voxel_size),
        lambda g: noise_map(GRID, 1.0, g),
        lambda g: flow(mask.float(), GRID, 1.0, g),
        lambda g: motion(4, 1.0, g)[0],
    ):
        assert torch.equal(make(seeded(3)), make(seeded(3)))
        assert not torch.equal(make(seeded(3)), make(seeded(4)))


def test_white_matter_shifts_at_most_ten_ppb_and_nothing_else_does(mask):
    given = anatomy(mask)
    for seed in range(8):
        shift = frequency_shift(given, 1.0, seeded(seed))
        assert 1e-3 < float(shift.abs().max()) <= LARGEST_SHIFT
        assert float(shift[radius() > 0.75].abs().max()) < 1e-6
    doubled = frequency_shift(given, 2.0, seeded(7))
    torch.testing.assert_close(doubled, 2 * shift)


def test_the_shift_turns_with_the_fibres_about_b0(mask):
    """Fibres along B0 in one half and across it in the other: the step between them is 1.5 b of the formula, of either sign."""
    b0 = torch.tensor(GRID.b0_dir)
    across = torch.nn.functional.normalize(torch.linalg.cross(b0, torch.tensor([1.0, 0.0, 0.0])), dim=0)
    fibres = torch.zeros(3, *GRID.shape)
    fibres[:, :30], fibres[:, 30:] = b0.view(3, 1, 1, 1), across.view(3, 1, 1, 1)
    inner = radius() < 0.4
    steps = []
    for seed in range(30):
        shift = frequency_shift(anatomy(mask, fibres), 0.3, seeded(seed))
        steps.append(float(shift[29][inner[29]].mean() - shift[30][inner[30]].mean()) / (0.3 * LARGEST_SHIFT))
    steps = torch.tensor(steps)
    assert 0.2 < float(steps.abs().mean()) < 0.7
    assert 5 < int((steps > 0).sum()) < 25


def test_leftover_background_is_of_the_size_stated_and_mostly_harmonic(mask):
    found = [residual_background(mask, GRID, 1.0, seeded(seed)) for seed in range(4)]
    inner = radius() < 0.85
    for field in found:
        assert float(field[mask].square().mean().sqrt()) == pytest.approx(0.005, rel=1e-3)
        laplacian = torch.zeros_like(field)
        curvature = torch.zeros_like(field)
        for axis, size in enumerate(GRID.voxel_size):
            second = (field.roll(1, axis) + field.roll(-1, axis) - 2 * field) / size**2
            laplacian += second
            curvature += second.square()
        assert float(laplacian[inner].square().mean() / curvature[inner].mean()) < 0.9  # 5/3 for what obeys no equation
    rim = mask & (radius() > 0.85)
    assert sum(float(f[rim].square().mean()) for f in found) > 1.5 * sum(float(f[inner].square().mean()) for f in found)


def test_leftover_background_about_a_single_voxel_is_no_catastrophe():
    """A crop at the edge of the head may hold one."""
    single = torch.zeros(GRID.shape, dtype=torch.bool)
    single[30, 35, 20] = True
    field = residual_background(single, GRID, 1.0, torch.Generator().manual_seed(1))
    assert float(field[single]) == 0
    assert float(field.abs().max()) < 0.1


def test_a_rough_mask_moves_its_surface_by_millimetres(mask):
    """The surface is a sphere's: how far it moved is read from the volume between."""
    sizes = []
    for seed in range(12):
        rough = rough_mask(mask, 1.0, seeded(seed), voxel_size=GRID.voxel_size)
        assert rough.dtype == torch.bool
        far = (radius() - 1).abs() > 0.15
        assert float((rough ^ mask)[far].float().mean()) < 0.01  # but for holes
        sizes.append(float(rough.sum() / mask.sum()))
    assert min(sizes) < 0.98
    assert max(sizes) > 1.0
    weak = rough_mask(mask, 0.2, seeded(5), voxel_size=GRID.voxel_size)
    strong = rough_mask(mask, 2.0, seeded(5), voxel_size=GRID.voxel_size)
    assert int((weak ^ mask).sum()) < int((strong ^ mask).sum())


def test_an_erosion_never_takes_everything():
    tiny = torch.zeros(20, 20, 20, dtype=torch.bool)
    tiny[9:11, 9:11, 9:11] = True
    assert all(bool(rough_mask(tiny, 5.0, seeded(seed)).any()) for seed in range(6))


def test_noise_varies_about_one():
    factor = noise_map(GRID, 1.0, seeded())
    assert float(factor.mean()) == pytest.approx(1, abs=1e-5)
    assert float(factor.min()) > 0.5
    middle, corner = factor[28:32, 33:37, 20:24].mean(), factor[:4, :4, :4].mean()
    assert 1.1 < float(middle / corner) < 2.2


def test_flow_is_only_in_veins(mask):
    veins = (radius() < 0.2).float()
    shift = flow(veins, GRID, 1.0, seeded())
    assert not shift[veins == 0].any()
    assert shift.abs().max() > 0.01


def test_a_drift_begins_at_rest_and_grows():
    walks = [motion(6, 1.0, seeded(seed)) for seed in range(200)]
    places, phases = torch.stack([w[0] for w in walks]), torch.stack([w[1] for w in walks])
    assert not places[:, 0].any()
    assert not phases[:, 0].any()
    assert float(places[:, 1].std()) == pytest.approx(0.1, rel=0.1)
    assert float(phases[:, 1].std()) == pytest.approx(0.05, rel=0.15)
    assert float(places[:, 5].std()) == pytest.approx(0.1 * 5**0.5, rel=0.1)


def test_displacing_moves_a_ramp_by_what_was_asked():
    ramp = torch.arange(20.0)[None, :, None].expand(12, 20, 9)
    moved = displaced(torch.stack([ramp, 2 * ramp]), (0.0, 0.6, 0.0), (1.0, 1.5, 2.0))
    torch.testing.assert_close(moved[0, :, 2:], ramp[:, 2:] - 0.4)
    torch.testing.assert_close(moved[1, :, 2:], 2 * ramp[:, 2:] - 0.8)
