"""Two unknowns in a voxel: against scipy, a voxel at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from paradia.errors import InputError
from paradia.grid import Grid
from paradia.pipeline.step import Step
from paradia.scan import Scan, relaxivities
from paradia.separation._voxel import solve
from paradia.separation.closed_form import closed_form
from paradia.separation.r2star_qsm import r2star_qsm

SHAPE = (9, 7, 8)
GRID = Grid(SHAPE, (1.0, 1.2, 1.5), (0.2, -0.3, 0.93))
MASK = torch.ones(SHAPE, dtype=torch.bool)
SCAN = Scan((0.005, 0.01), 3.0)


@pytest.fixture
def data(generator):
    """χ of either sign and rates that often are too small for it."""
    return 0.1 * torch.randn(SHAPE, generator=generator), 12 * torch.rand(SHAPE, generator=generator)


@pytest.mark.parametrize(("dr_pos", "dr_neg", "trust"), [(137.0, 137.0, 1.0), (323.5, 60.0, 1.0), (114.0, 300.0, 0.2), (140.0, 110.0, 9.0)])
def test_is_least_squares_without_negative_sources(data, dr_pos, dr_neg, trust):
    chi, rate = data
    found = closed_form(chi, rate, MASK, GRID, SCAN, dr_pos=dr_pos, dr_neg=dr_neg, trust=trust)
    mean, root = (dr_pos + dr_neg) / 2, math.sqrt(trust)
    matrix = np.array([[1, -1], [root * dr_pos / mean, root * dr_neg / mean]])
    cut = 0
    for place in np.ndindex(SHAPE):
        want, _ = nnls(matrix, np.array([float(chi[place]), root * float(rate[place]) / mean]))
        cut += int((want == 0).any())
        assert float(found.chi_pos[place]) == pytest.approx(want[0], abs=1e-6)
        assert float(found.chi_neg[place]) == pytest.approx(want[1], abs=1e-6)
    assert 50 < cut < 450  # both kinds of voxels were tried


def test_both_equations_hold_where_they_can(data):
    chi, rate = data
    rate = rate + 250 * chi.abs()
    found = closed_form(chi, rate, MASK, GRID, SCAN, dr_pos=200.0, dr_neg=150.0)
    torch.testing.assert_close(found.chi_pos - found.chi_neg, chi, rtol=0, atol=1e-6)
    torch.testing.assert_close(200 * found.chi_pos + 150 * found.chi_neg, rate, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("c", [-0.9, 0.0, 0.9])
def test_both_negative_ends_on_the_lower_axis_or_in_the_corner(c, generator):
    """Against the four candidates, computed apart."""
    right = torch.randn(2, 500, generator=generator, dtype=torch.float64)
    p, n = solve(1.3, 0.8, c, right[0], right[1])
    assert bool(((p >= 0) & (n >= 0)).all())

    def value(p, n):
        return 0.5 * (1.3 * p**2 + 2 * c * p * n + 0.8 * n**2) - right[0] * p - right[1] * n

    inner = np.linalg.solve(np.array([[1.3, c], [c, 0.8]]), right.numpy())
    least = torch.zeros(500, dtype=torch.float64)
    for candidate in (torch.from_numpy(inner), torch.stack([right[0] / 1.3, 0 * p]), torch.stack([0 * n, right[1] / 0.8])):
        allowed = (candidate >= 0).all(0)
        least = torch.where(allowed, torch.minimum(least, value(*candidate)), least)
    torch.testing.assert_close(value(p, n), least)


def test_equal_relaxivities_are_the_published_split(data):
    """(R2′/Dr ± χ)/2, cut off at zero."""
    chi, rate = data
    found = closed_form(chi, rate, MASK, GRID, SCAN, dr_pos=120.0, dr_neg=120.0)
    torch.testing.assert_close(found.chi_pos, ((rate / 120 + chi) / 2).clamp_min(0))
    torch.testing.assert_close(found.chi_neg, ((rate / 120 - chi) / 2).clamp_min(0))


def test_r2star_qsm_is_that_split_with_274_at_3_tesla(data):
    chi, rate = data
    found = r2star_qsm(chi, rate, MASK, GRID, SCAN)
    torch.testing.assert_close(found.chi_pos, ((rate / 274 + chi) / 2).clamp_min(0))
    torch.testing.assert_close(found.chi_neg, ((rate / 274 - chi) / 2).clamp_min(0))
    seven = r2star_qsm(chi, rate * 7 / 3, MASK, GRID, Scan((0.005,), 7.0))
    torch.testing.assert_close(seven.chi_pos, found.chi_pos)


def test_a_batch_is_many_maps(data):
    chi, rate = data
    batch = closed_form(torch.stack([chi, -chi]), torch.stack([rate, 2 * rate]), MASK, GRID, SCAN)
    torch.testing.assert_close(batch.chi_pos[1], closed_form(-chi, 2 * rate, MASK, GRID, SCAN).chi_pos)


@pytest.mark.parametrize("b0", [1.5, 3.0, 7.0])
def test_the_empirical_relaxivity_follows_the_field(b0):
    assert relaxivities(Scan((0.005,), b0), None, None) == pytest.approx((137 * b0 / 3, 137 * b0 / 3))
    assert relaxivities(Scan((0.005,), b0), 99.0, None) == pytest.approx((99.0, 137 * b0 / 3))


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_relaxivity_is_a_positive_number(value):
    with pytest.raises(InputError, match=f"dr_pos must be a positive relaxivity in Hz/ppm, got {value}"):
        relaxivities(Scan((0.005,), 3.0), value, None)


@pytest.mark.parametrize("off", [0.8, 1.2])
def test_a_wrong_relaxivity_scales_the_sum_and_leaves_the_difference(data, off):
    chi, rate = data
    rate = rate + 300 * chi.abs()
    found = Step("separation", "closed_form", {"dr_pos": 137 * off, "dr_neg": 137 * off})(chi, rate, MASK, GRID, SCAN)
    torch.testing.assert_close((found.chi_pos + found.chi_neg) * off, rate / 137)
    torch.testing.assert_close(found.chi_pos - found.chi_neg, chi, rtol=0, atol=1e-6)
