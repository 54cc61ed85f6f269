"""Three pools: derivatives, the small systems, and signals that the pools themselves made."""

from __future__ import annotations

import math

import pytest
import torch

from paradia.grid import Grid
from paradia.scan import Scan
from paradia.separation._pools import CENTRE, Model, fit, solve
from paradia.separation.decompose import decompose

GRID = Grid((9, 8, 10), (1.0, 1.2, 1.5), (0.2, -0.3, 0.93))
SCAN = Scan(tuple(0.004 * (n + 1) for n in range(8)), 3.0)


def model(noise=0.01, dtype=torch.float64):
    return Model(torch.tensor(SCAN.echo_times, dtype=dtype)[:, None], (137.0, 110.0), 2 / 3 * SCAN.rad_per_ppm(1.0), noise)


@pytest.mark.parametrize("known", [True, False])
def test_derivatives_are_those_of_autograd(known, generator):
    theta = torch.randn(5 if known else 6, 4, generator=generator, dtype=torch.float64) * 0.3
    theta[3:5] -= 3
    if not known:
        theta[5] += 2.5
    rate = torch.full((4,), 14.0, dtype=torch.float64) if known else None
    _, slopes = model().signal(theta, rate)
    whole = torch.autograd.functional.jacobian(lambda x: model().signal(x, rate)[0], theta)
    for voxel in range(4):
        torch.testing.assert_close(slopes[..., voxel], whole[:, :, voxel, :, voxel].movedim(-1, 0))
        assert float(whole[:, :, voxel, :, (voxel + 1) % 4].abs().max()) == 0


def test_signal_is_the_formula(generator):
    """Complex exponentials, written out."""
    theta = torch.tensor([0.3, 0.2, 0.4, 0.1, 0.06, 15.0], dtype=torch.float64).log()[:, None]
    total, _ = model().signal(theta, None)
    gamma = 2 * math.pi * 42.577478518 * 3
    for echo, t in enumerate(SCAN.echo_times):
        want = sum(
            share * torch.exp(torch.tensor(complex(-(decay * chi + 15) * t, 2 / 3 * gamma * sign * chi * t)))
            for share, chi, decay, sign in ((0.3, 0.1, 137, 1), (0.2, 0.06, 110, -1), (0.4, 0.0, 0, 0))
        )
        assert complex(*total[:, echo, 0].tolist()) == pytest.approx(complex(want), rel=1e-6)


def test_small_systems_are_solved(generator):
    root = torch.randn(5, 7, 7, generator=generator, dtype=torch.float64)
    matrix = root @ root.mT + 0.1 * torch.eye(7, dtype=torch.float64)
    right = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    damping = torch.rand(5, generator=generator, dtype=torch.float64)
    got = solve([[matrix[:, i, j] for j in range(i + 1)] for i in range(7)], right, damping)
    raised = matrix + torch.diag_embed(damping[:, None] * matrix.diagonal(dim1=1, dim2=2))
    torch.testing.assert_close(got, torch.linalg.solve(raised, right.T).T)


def pools(generator, noise=0.0):
    """Echoes of pools near those expected, their phases as χ an echo, and the contents."""
    truth = torch.tensor(CENTRE).log()[:, None] + 0.3 * torch.randn(5, math.prod(GRID.shape), generator=generator)
    r2 = 13 + 2 * torch.rand(GRID.shape, generator=generator)
    made = model(dtype=torch.float32)
    total, _ = made.signal(truth, r2.flatten())
    total = total + noise * torch.randn(total.shape, generator=generator)
    phase = torch.atan2(total[1], total[0])
    chi = (phase / (made.turn * made.times)).reshape(-1, *GRID.shape)
    share, source = truth[:3].exp(), truth[3:].exp()
    contents = (share[:2] * source / share.sum(0)).reshape(2, *GRID.shape)
    return 700 * total.square().sum(0).sqrt().reshape(-1, *GRID.shape), chi, r2, contents


def measure(magnitude, chi, **data):
    mask = torch.ones(GRID.shape, dtype=torch.bool)
    return decompose(magnitude, chi, mask, GRID, SCAN, dr_pos=137.0, dr_neg=110.0, **data)


def test_contents_of_its_own_pools_are_found(generator):
    magnitude, chi, r2, contents = pools(generator)
    found = torch.stack(measure(magnitude, chi, r2=r2, noise=0.002))
    error = (found - contents).flatten(1)
    assert float(error.abs().median()) < 0.04 * float(contents.median())
    for got, want in zip(found.flatten(1), contents.flatten(1), strict=True):
        assert torch.corrcoef(torch.stack([got, want]))[0, 1] > 0.97


def test_the_difference_is_told_even_without_r2(generator):
    """R2 unknown leaves the sum to what is expected, while the phase still tells the difference."""
    magnitude, chi, _, contents = pools(generator, noise=0.003)
    found = measure(magnitude, chi)
    want = (contents[0] - contents[1]).flatten()
    got = (found.chi_pos - found.chi_neg).flatten()
    assert torch.corrcoef(torch.stack([got, want]))[0, 1] > 0.95
    slope = float((got * want).sum() / want.square().sum())
    assert 0.8 < slope < 1.2


def test_composite_reading_gives_more_by_the_share_of_the_other_pool(generator):
    """For short times C+χ+/(C+ + C0) against C+χ+/(C+ + C− + C0): more wherever there is an opposite pool."""
    magnitude, chi, r2, _ = pools(generator)
    plain, composite = (measure(magnitude, chi, r2=r2, composite=flag) for flag in (False, True))
    assert bool((composite.chi_pos > plain.chi_pos).float().mean() > 0.99)
    assert 1.15 < float((composite.chi_pos / plain.chi_pos).median()) < 1.8


def test_rate_and_relaxivities_only_count_together(generator):
    """The same signal taken for half the field strength: times twice as long, rates half."""
    magnitude, chi, r2, _ = pools(generator)
    mask = torch.ones(GRID.shape, dtype=torch.bool)
    slow = Scan(tuple(2 * t for t in SCAN.echo_times), 1.5)
    half = decompose(magnitude, chi, mask, GRID, slow, r2 / 2, dr_pos=68.5, dr_neg=55.0)
    for a, b in zip(half, measure(magnitude, chi, r2=r2), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_dead_and_rising_voxels_give_numbers(generator):
    magnitude, chi, r2, _ = pools(generator)
    magnitude[:, 0], magnitude[1:, 1], magnitude[:, 2] = 0, 0, magnitude[:, 2].flip(0)
    for data in ({}, {"r2": 0 * r2}):
        for source in measure(magnitude, chi, **data):
            assert bool(source.isfinite().all())
            assert 0 <= float(source.min()) <= float(source.max()) < 1


@pytest.mark.parametrize("lost", [0, 1, -1])
def test_an_echo_that_is_zero_was_not_measured(lost, generator):
    magnitude, chi, r2, _ = pools(generator, noise=0.002)
    kept = [echo for echo in range(len(magnitude)) if echo != lost % len(magnitude)]
    mask, fewer = torch.ones(GRID.shape, dtype=torch.bool), Scan(tuple(SCAN.echo_times[echo] for echo in kept), SCAN.b0)
    alone = decompose(magnitude[kept], chi[kept], mask, GRID, fewer, r2, dr_pos=137.0, dr_neg=110.0)
    whole = measure(magnitude, chi, r2=r2)
    magnitude[lost, :2] = 0
    for got, less, all_ in zip(measure(magnitude, chi, r2=r2), alone, whole, strict=True):
        torch.testing.assert_close(got[:2], less[:2], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(got[2:], all_[2:], rtol=1e-4, atol=1e-6)
    magnitude[:, 2] = 0
    assert not any(bool(source[2].any()) for source in measure(magnitude, chi, r2=r2))


@pytest.mark.parametrize("scale", [1e-25, 1e18])
def test_the_unit_of_the_echoes_is_any(scale, generator):
    magnitude, chi, r2, _ = pools(generator)
    for got, want in zip(measure(scale * magnitude, chi, r2=r2), measure(magnitude, chi, r2=r2), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-5)


def test_maps_of_another_precision_are_taken_to_that_of_the_echoes(generator):
    magnitude, chi, r2, _ = pools(generator)
    single = measure(magnitude, chi, r2=r2)
    double = measure(magnitude, chi.double(), r2=r2.double())
    for got, want in zip(double, single, strict=True):
        assert got.dtype == magnitude.dtype
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-5)


def test_no_step_makes_a_voxel_less_probable(generator):
    """The fit never ends above its start."""
    magnitude, chi, r2, _ = pools(generator, noise=0.01)
    m = model(dtype=torch.float32)
    size = magnitude.flatten(1) / 700
    phase = m.turn * m.times * chi.flatten(1)
    data = torch.stack([size * torch.cos(phase), size * torch.sin(phase)])
    prior = torch.tensor(CENTRE).log()[:, None]

    def cost(theta):
        return (m.signal(theta, r2.flatten())[0] - data).square().sum((0, 1)) / 0.01**2 + (theta - prior).square().sum(0)

    theta, _ = fit(m, data, r2.flatten(), 13.0, 40, 0.01)
    assert bool((cost(theta) <= cost(prior.expand(-1, data.shape[-1])) * 1.0001).all())
    for _ in range(5):
        near = theta + 0.05 * torch.randn(theta.shape, generator=generator)
        assert float((cost(near) >= cost(theta) - 0.05).float().mean()) > 0.98
