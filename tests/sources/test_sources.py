"""What stages share that read sources off a field: slopes, structure, doubt, fluid, streaks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from paradia.errors import NonFiniteError
from paradia.fft import Window, irfftn, rfftn
from paradia.grid import Grid
from paradia.operators.dipole import Dipole
from paradia.sources.doubt import believed, believed_rate, bend, doubt, grain, roughness
from paradia.sources.fit import MODEL_ERROR, fit
from paradia.sources.fluid import fluid, ventricles
from paradia.sources.inside import check_numbers, depth, levelled, within
from paradia.sources.slopes import Variation, add_fall, add_slope
from paradia.sources.split import Effort, Split, structured
from paradia.sources.start import INSIDE, OUTSIDE, around, begin, probable
from paradia.sources.streaks import flatness, streaks
from paradia.sources.structure import LEAST, expected


def test_differences_are_adjoint_and_those_of_numpy(generator):
    """Independent: numpy.roll, and the inner product."""
    x, y = (torch.randn((5, 6, 7), generator=generator, dtype=torch.float64) for _ in range(2))
    for axis, size in enumerate((1.0, 1.3, 0.7)):
        forward, backward = torch.zeros_like(x), torch.zeros_like(x)
        add_slope(forward, x, axis, 1 / size)
        add_fall(backward, y, axis, -1 / size)
        torch.testing.assert_close(forward, (x.roll(-1, axis) - x) / size)
        torch.testing.assert_close(backward, (y - y.roll(1, axis)) / size)
        torch.testing.assert_close((forward * y).sum(), -(x * backward).sum())


def test_an_edge_is_cheap_and_a_plain_is_dear(grid):
    """A step along one axis lowers the price of that axis's slopes beside it and of no others."""
    grid = grid.with_shape((36, 30, 32))
    mask = torch.ones(grid.shape, dtype=torch.bool)
    chi = torch.zeros(grid.shape)
    chi[18:] = 0.1
    factors = expected(chi, Window.around(mask, grid))
    assert factors[0, 17].max() < 0.5 * factors[0, 8].min()
    assert factors[1:].std() < 1e-6
    assert factors.min() >= LEAST


def test_a_flat_map_expects_edges_nowhere(grid):
    grid = grid.with_shape((36, 30, 32))
    factors = expected(torch.zeros(grid.shape), Window.around(torch.ones(grid.shape, dtype=torch.bool), grid))
    assert torch.equal(factors, torch.ones_like(factors))


def test_prices_scale_the_dual(grid):
    slopes = Variation(grid, [torch.ones(grid.shape)] * 3)
    slopes.limits = [torch.full(grid.shape, 0.25)] * 3
    slopes.step(100 * torch.randn(grid.shape, generator=torch.Generator().manual_seed(0)))
    assert max(float(u.abs().max()) for u in slopes.dual) == 0.25


def test_roughness_is_the_noise_under_any_quadratic(grid, generator):
    x, y, z = (torch.linspace(-1, 1, n) for n in grid.shape)
    smooth = x[:, None, None] ** 2 + 3 * x[:, None, None] * y[None, :, None] - z[None, None, :]
    noise = 0.02 * torch.randn(grid.shape, generator=generator)
    mask = torch.ones(grid.shape, dtype=torch.bool)
    assert float(roughness(smooth + noise, mask)) == pytest.approx(0.02, rel=0.03)
    assert float(roughness(smooth, mask)) < 1e-5


def test_roughness_of_scattered_voxels_is_nought(grid):
    mask = torch.zeros(grid.shape, dtype=torch.bool)
    mask[::2, ::2, ::2] = True
    assert float(roughness(torch.randn(grid.shape), mask)) == 0


def test_grain_is_the_noise_along_the_axis_on_which_the_map_changes_least(grid, generator):
    x, y, z = (torch.linspace(-1, 1, n) for n in grid.shape)
    stripes = torch.sin(20 * x[:, None, None]) + 5 * torch.cos(30 * y[None, :, None]) + 2 * z[None, None, :]
    noise = 0.02 * torch.randn(grid.shape, generator=generator)
    mask = torch.rand(grid.shape, generator=generator) > 0.1
    image = torch.where(mask, stripes + noise, torch.nan)
    assert float(grain(image, mask)) == pytest.approx(0.02, rel=0.05)
    assert float(grain(image.permute(2, 0, 1), mask.permute(2, 0, 1))) == float(grain(image, mask))


@pytest.mark.parametrize("shape", [(30, 40, 1), (1, 1200, 1), (2, 30, 40)])
def test_grain_needs_three_voxels_in_a_row_along_one_axis_alone(shape, generator):
    mask = torch.ones(shape, dtype=torch.bool)
    noise = 3 * torch.randn(shape, generator=generator)
    assert float(grain(noise, mask)) == pytest.approx(3, rel=0.12)
    mask[:, 1::2] = False
    if shape[0] < 3:
        mask[:, :, ::2] = False
    assert float(grain(noise[:2], mask[:2])) == 0


def test_bend_is_the_largest_second_difference_near_by_loop(generator):
    field = torch.randn((6, 5, 7), generator=generator)
    mask = torch.rand((6, 5, 7), generator=generator) > 0.2
    variance = torch.rand((6, 5, 7), generator=generator)
    variance[2, 3, 4] = torch.inf
    single = np.zeros(field.shape, dtype=np.float32)
    for place in np.ndindex(*field.shape):
        for axis in range(3):
            before, after = (tuple(p + s * (a == axis) for a, p in enumerate(place)) for s in (-1, 1))
            if before[axis] < 0 or after[axis] >= field.shape[axis] or not (mask[before] and mask[place] and mask[after]):
                continue
            squared = float(field[before] + field[after] - 2 * field[place]) ** 2
            beyond = squared - float(variance[before] + variance[after] + 4 * variance[place])
            single[place] = max(single[place], math.sqrt(max(beyond, 0)))
    largest = np.zeros_like(single)
    for place in np.ndindex(*field.shape):
        largest[place] = single[tuple(slice(max(p - 1, 0), p + 2) for p in place)].max()
    torch.testing.assert_close(bend(field, mask, variance), torch.from_numpy(largest))


def test_doubts_add_in_squares_inside_the_mask_alone(grid, generator):
    mask = torch.rand(grid.shape, generator=generator) > 0.3
    noise = torch.full(grid.shape, 0.003)
    told = doubt(torch.zeros(grid.shape), mask, noise, 0.02, floor=0.004)
    torch.testing.assert_close(told, 0.005 * mask)
    bent = doubt(torch.randn(grid.shape, generator=generator), mask, noise, 0.02)
    assert (bent >= told * math.hypot(0.003, 0.001) / 0.005 - 1e-9).all()


def test_a_voxel_of_unknown_noise_is_not_believed(grid, generator):
    mask = torch.rand(grid.shape, generator=generator) > 0.3
    field, noise = 0.01 * torch.randn(grid.shape, generator=generator), torch.full(grid.shape, 0.003)
    holes = mask & (torch.rand(grid.shape, generator=generator) > 0.9)
    told = doubt(field, mask, torch.where(holes, 0.0, noise), 0.02)
    assert bool(told[holes].isinf().all())
    wild = torch.where(holes, 5.0, field)
    assert torch.equal(told, doubt(wild, mask, torch.where(holes, 0.0, noise), 0.02)), "nor does it make its neighbours look bent"
    assert (told[~holes] <= doubt(wild, mask, noise, 0.02)[~holes]).all()
    inside = mask & ~holes
    torch.testing.assert_close(told[inside], doubt(field, mask, noise, 0.02)[inside], rtol=0.2, atol=0)
    assert torch.equal(doubt(field, mask, torch.zeros_like(noise), 0.02), doubt(field, mask, None, 0.02))


def test_a_fit_explains_the_field_and_tells_the_sides_apart(generator):
    grid = Grid((36, 27, 32), (1.0, 1.2, 1.5), (0.2, -0.3, 0.93))
    mask = torch.zeros(grid.shape, dtype=torch.bool)
    mask[3:-3, 3:-3, 3:-3] = True
    chi = torch.zeros(grid.shape)
    chi[10:18, 8:16, 10:20] = 0.1
    chi[22:28, 10:20, 8:14] = -0.05
    air = torch.zeros(grid.shape)
    air[:2, 10:20, 10:20] = 5.0
    field = (Dipole(grid)(chi + air) + 0.001 * torch.randn(grid.shape, generator=generator)) * mask
    window = Window.around(mask, grid, 10.0, field=field)
    split = Split(window, doubt(window.take(field), window.mask, None, 0.02), 0.07)
    found = structured(split, window, window.take(field), 0.08, Effort(60, 3, 20))
    assert found.iterations == 60
    assert (split.dipole(found.x) - window.take(field))[window.mask].std() < 0.002
    assert (window.put(found.x) - chi)[mask].std() < 0.2 * chi[mask].std()


def test_a_fit_tells_the_doubt_that_it_went_by(generator):
    grid = Grid((16, 15, 14), (1.0, 1.2, 1.5))
    mask = torch.zeros(grid.shape, dtype=torch.bool)
    mask[3:-3, 3:-3, 3:-3] = True
    field = torch.randn(grid.shape, generator=generator) * mask
    noise = 0.01 * torch.rand(grid.shape, generator=generator) * mask
    window = Window.around(mask, grid, 4.0, field=field)
    field, noise = window.take(field), window.take(noise)
    found = fit(window, field, noise, Effort(3, 1, 2))
    assert torch.equal(found.deviation, doubt(field, window.mask, noise, MODEL_ERROR))


def test_streaks_are_what_the_cone_adds_to_flat_tissue(generator):
    grid = Grid((18, 15, 16), (1.0, 1.2, 1.5), (0.2, -0.3, 0.93))
    window = Window.around(torch.ones(grid.shape, dtype=torch.bool), grid)
    shape = window.grid.shape
    cone = Dipole(window.grid).kernel.abs() < 0.1
    cone[0, 0, 0] = False
    truth = irfftn(rfftn(torch.randn(shape, generator=generator)) * cone, shape)
    steps = torch.zeros(shape)
    steps[: shape[0] // 2] = 1.0
    flat = torch.ones(3, *shape)
    flat[0, [shape[0] // 2 - 1, shape[0] - 1]] = 0.0  # the two edges of the steps
    found = streaks(truth + steps, flat, cone, window, max_iter=200, tol=1e-6)
    assert found.converged
    torch.testing.assert_close(found.x, truth, rtol=0, atol=2e-3)


def test_flatness_falls_between_two_quantiles():
    roughness = torch.arange(101.0).reshape(101, 1, 1)
    flat = flatness(roughness, torch.ones_like(roughness, dtype=torch.bool), (0.2, 0.6))
    assert bool((flat[:20] == 1).all())
    assert bool((flat[61:] == 0).all())
    assert float(flat[40]) == pytest.approx(0.5, abs=0.01)


def test_fluid_decays_slowly_near_the_middle_and_ventricles_are_its_largest_pieces():
    grid = Grid((70, 30, 20), (1.0, 1.0, 2.0))
    mask, rate = torch.ones(grid.shape, dtype=torch.bool), torch.full(grid.shape, 20.0)
    for start, size in ((30, 4), (36, 3), (42, 2), (48, 1)):
        rate[start : start + size, 14:16, 9:11] = 2.0
    rate[0:3, 14:16, 9:11] = 2.0  # further than 30 mm from the middle
    rate[55, 15, 10] = 0.0  # nothing was measured
    found = fluid(rate, mask, grid)
    assert int(found.sum()) == 4 * (4 + 3 + 2 + 1)
    assert not bool(found[:3].any())
    assert int(ventricles(rate, mask, grid).sum()) == 4 * (4 + 3 + 2)
    assert not bool(ventricles(torch.full_like(rate, 20.0), mask, grid).any())


def test_numbers_count_inside_the_mask_alone():
    image, mask = torch.ones(3, 2, 2), torch.zeros(3, 2, 2, dtype=torch.bool)
    mask[1] = True
    image[0, 0, 0], image[2, 1, 1] = torch.nan, torch.inf
    check_numbers(mask, field=image, nothing=None)
    assert torch.equal(within(image, mask), mask.float())
    image[1, 0, 1] = -torch.inf
    with pytest.raises(NonFiniteError, match="field is NaN or Inf in 1 voxels inside"):
        check_numbers(mask, field=image)


def test_noise_is_believed_where_it_is_known_and_judged_where_it_is_known_nowhere(grid, generator):
    field, mask = torch.randn(grid.shape, generator=generator), torch.ones(grid.shape, dtype=torch.bool)
    noise = torch.full(grid.shape, 0.3)
    for nothing in (0.0, math.nan, -1.0, math.inf):
        some = noise.masked_fill(field > 1, nothing)
        assert torch.equal(believed(field, mask, some), noise.masked_fill(field > 1, math.inf))
        for judge, judged in ((believed, roughness), (believed_rate, grain)):
            assert torch.equal(judge(field, mask, torch.full_like(noise, nothing)), judged(field, mask).expand(grid.shape))
            assert torch.equal(judge(field, mask, None), judged(field, mask).expand(grid.shape))


def outer(shape, inside, seed):
    """A window with sources around a ball and in it, the field they make, and its mask."""
    grid = Grid(shape, (1.5, 1.3, 2.0), (0.2, 0.0, 0.98))
    axes = torch.meshgrid(*[torch.arange(n) - (n - 1) / 2 for n in shape], indexing="ij")
    away = torch.stack([a * d for a, d in zip(axes, grid.voxel_size, strict=True)]).norm(dim=0)
    mask = away < inside
    generator = torch.Generator().manual_seed(seed)
    air = (away > inside + 2) & (away < inside + 10) & (axes[0] > 0.4 * inside)  # on one side: all around it would make no field
    sources = 9.0 * air + 0.03 * torch.randn(shape, generator=generator) * mask
    window = Window.around(mask, grid, 14.0)
    return window, window.take(torch.where(mask, Dipole(grid)(sources), 0.0))


@pytest.mark.parametrize("shape", [(40, 44, 30), (41, 45, 31)])
def test_the_coarse_grid_finds_most_of_what_lies_outside(shape):
    """With it, a few iterations leave less of a strong background than as many without, and what it finds is outside alone."""
    window, field = outer(shape, 15.0, 3)
    mask, grid = window.mask, window.grid
    precision, dipole = 500 * mask.float(), Dipole(grid)
    found = around(field, precision, mask, grid, max_iter=60)
    assert not found[mask].any()

    def left(sources):
        return float((field - dipole(sources))[mask].norm() / field[mask].norm())

    assert left(found) < 0.3
    alone = probable(field, precision, torch.where(mask, INSIDE, OUTSIDE), dipole, max_iter=8)
    assert left(begin(field, precision, mask, grid, dipole, max_iter=8)) < 0.9 * left(alone)


def test_a_mask_too_thin_for_the_coarse_grid_is_fitted_without_it():
    mask = torch.zeros(24, 24, 24, dtype=torch.bool)
    mask[8:16, 9:15, 11] = True  # half of no block of eight
    window = Window.around(mask, Grid((24, 24, 24), (1.0, 1.0, 1.0)), 6.0)
    mask, grid = window.mask, window.grid
    field, precision = torch.where(mask, 0.1, 0.0), 500 * mask.float()
    assert not around(field, precision, mask, grid, max_iter=20).any()
    assert begin(field, precision, mask, grid, Dipole(grid), max_iter=20).isfinite().all()


def test_depth_is_the_distance_to_the_nearest_voxel_outside_and_the_volume_ends_outside():
    mask = torch.ones(5, 7, 9, dtype=torch.bool)
    mask[0, 0, 0] = False
    found = depth(mask, Grid((5, 7, 9), (1.0, 2.0, 3.0)))
    for place, nearest in (((2, 3, 4), 3.0), ((0, 0, 0), 0.0), ((1, 0, 0), 1.0), ((4, 6, 8), 1.0), ((1, 1, 0), 2.0)):
        assert float(found[place]) == pytest.approx(nearest)
    assert not depth(torch.zeros_like(mask), Grid((5, 7, 9), (1.0, 2.0, 3.0))).any()


def test_depth_does_not_hang_on_what_is_around_the_mask():
    generator = torch.Generator().manual_seed(3)
    mask = torch.rand(8, 9, 10, generator=generator) < 0.9
    alone = depth(mask, Grid((8, 9, 10), (1.0, 1.3, 0.7)))
    wide = torch.nn.functional.pad(mask, (4, 2, 3, 5, 1, 6))
    torch.testing.assert_close(depth(wide, Grid(tuple(wide.shape), (1.0, 1.3, 0.7)))[1:9, 3:12, 4:14], alone)


def test_a_levelled_field_is_without_its_median_volume_by_volume():
    generator = torch.Generator().manual_seed(3)
    mask = torch.rand((6, 5, 4), generator=generator) > 0.3
    fields = torch.randn((2, 6, 5, 4), generator=generator) + torch.tensor([0.0, 5.0])[:, None, None, None]
    fields[:, ~mask] = math.nan
    level = levelled(fields, mask)
    assert not level[:, ~mask].any()
    assert torch.quantile(level[:, mask], 0.5, -1).abs().max() < 1e-6
    torch.testing.assert_close(levelled(-fields, mask), -level, rtol=0, atol=0)
    for one, whole in zip(level, fields, strict=True):
        assert torch.equal(one, levelled(whole, mask))
        assert (one - whole)[mask].std() < 1e-6
