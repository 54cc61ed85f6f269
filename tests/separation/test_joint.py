"""Both sources at once: the splittings against dense solvers, the operators against their adjoints, the head against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear, minimize

from paradia.grid import Grid
from paradia.inversion.tkd import tkd
from paradia.operators.dipole import Dipole
from paradia.operators.gradient import Gradient
from paradia.scan import Scan
from paradia.separation._joint import Couplings, Frame, Voxels, joint
from paradia.separation._noise import field_noise
from paradia.separation._slopes import fall, slope
from paradia.separation.chisep_ilsqr import chisep_ilsqr
from paradia.separation.chisep_medi import chisep_medi
from paradia.separation.closed_form import closed_form
from paradia.simulate.head import head

SCAN = Scan((0.005, 0.015), 3.0)
DRS = (160.0, 114.0)


@pytest.fixture
def tiny(generator):
    """Fields and rates that no sources explain, on some 60 voxels."""
    grid = Grid((6, 5, 6), (1.0, 1.2, 1.5), (0.2, -0.3, 0.93))
    mask = torch.zeros(grid.shape, dtype=torch.bool)
    mask[1:5, 1:5, 1:5] = torch.rand(4, 4, 4, generator=generator) < 0.9
    field = 0.02 * torch.randn(grid.shape, generator=generator)
    rate = 137 * 0.06 * torch.rand(grid.shape, generator=generator)
    return field, rate, mask, grid


LEVEL = 0.004
"""Mean that χ is held at, ppm."""


def dense(frame):
    """Columns of the weighted field and rates for a unit of each source in each voxel of the mask.

    What an even χ makes of the field and its constant are projected out: both are free.
    """
    window, (u, v) = frame.window, frame.shares
    inside = window.mask
    count = int(inside.sum())
    units = torch.zeros(count, *inside.shape, dtype=torch.float64)
    units[torch.arange(count), *inside.nonzero().T] = 1
    seen = Dipole(window.grid).to(units)(units)[:, inside].T.numpy()
    w, g = (values[inside].double().sqrt().numpy() for values in (frame.weights, frame.firmness))
    field, total = (values[inside].double().numpy() for values in (frame.field, frame.total))
    nobodys, _ = np.linalg.qr(np.stack([w * seen.sum(1), w], 1))
    free = np.eye(count) - nobodys @ nobodys.T
    seen, field = free @ (w[:, None] * seen), free @ (w * field)
    matrix = np.block([[seen, -seen], [np.diag(u * g), np.diag(v * g)]])
    return matrix, np.concatenate([field, g * total]), count


@pytest.mark.parametrize("tie", [0.0, 0.05])
@pytest.mark.parametrize("noise", [None, 0.004])
def test_quadratic_case_is_that_of_a_dense_bounded_solver(tiny, tie, noise, generator):
    field, rate, mask, grid = tiny
    deviation = None if noise is None else noise * (1 + torch.rand(grid.shape, generator=generator))
    frame = Frame.around(field, rate, mask, grid, DRS, deviation)
    chi = frame.window.take(0.05 * torch.randn(grid.shape, generator=generator) * mask)
    pulls = [(tie * frame.window.mask, chi)] if tie else []
    (p, n), _ = joint(frame, Voxels(frame, 0.02, LEVEL, *pulls), Couplings(0.2, 0.02), None, max_iter=3000, tol=1e-8, callback=None)
    matrix, right, count = dense(frame)
    low = np.zeros(2 * count)
    if tie:  # a free offset is one more unknown
        root = np.sqrt(tie)
        rows = np.hstack([root * np.eye(count), -root * np.eye(count), -root * np.ones((count, 1))])
        matrix = np.vstack([np.hstack([matrix, np.zeros((len(matrix), 1))]), rows])
        right = np.concatenate([right, root * chi[frame.window.mask].double().numpy()])
        low = np.concatenate([low, [-np.inf]])
    mean = np.zeros((1, len(low)))
    mean[0, : 2 * count] = np.repeat([1e3, -1e3], count)  # so heavy that it holds
    matrix, right = np.vstack([matrix, mean]), np.append(right, 1e3 * count * LEVEL)
    want = lsq_linear(matrix, right, (low, np.inf), method="bvls", tol=1e-14).x
    got = torch.cat([source[frame.window.mask] for source in (p, n)]).double().numpy()
    assert (want[: 2 * count] == 0).sum() > 10  # signs were needed
    np.testing.assert_allclose(got, want[: 2 * count], atol=2e-5)
    assert got[:count].mean() - got[count:].mean() == pytest.approx(LEVEL, abs=1e-6)


def test_with_slopes_is_the_least_of_the_functional(tiny):
    """Against sequential quadratic programming with bounds and the mean held, the absolute value rounded a little."""
    field, rate, mask, grid = tiny
    frame = Frame.around(field, rate, mask, grid, DRS)
    weight, coupling = 3e-4, 0.02
    kept = [torch.rand(frame.window.mask.shape, generator=torch.Generator().manual_seed(axis)) < 0.8 for axis in range(3)]
    rho = 0.02
    limit = [weight / rho * k.float() for k in kept]
    (p, n), _ = joint(frame, Voxels(frame, coupling, LEVEL), Couplings(0.2, coupling, rho), limit, max_iter=2500, tol=1e-8, callback=None)
    matrix, right, count = (torch.from_numpy(x) if isinstance(x, np.ndarray) else x for x in dense(frame))
    gradient, inside, prices = Gradient(frame.window.grid, periodic=True), frame.window.mask, torch.stack(kept)

    def functional(x, rounding):
        total = 0.5 * (matrix @ x - right).square().sum()
        for part in (x[:count], x[count:]):
            volume = torch.zeros(inside.shape, dtype=torch.float64).masked_scatter(inside, part)
            total = total + weight * (prices * (gradient(volume).square() + rounding**2).sqrt()).sum()
        return total

    def with_slope(x):
        x = torch.from_numpy(x).requires_grad_()
        value = functional(x, 1e-5)
        return float(value.detach()), torch.autograd.grad(value, x)[0].numpy()

    got = torch.cat([source[inside] for source in (p, n)]).double()
    mean = np.repeat([1 / count, -1 / count], count)
    held = {"type": "eq", "fun": lambda x: mean @ x - LEVEL, "jac": lambda _: mean}
    begin = np.repeat([0.02 + LEVEL, 0.02], count)
    other = minimize(
        with_slope,
        begin,
        jac=True,
        method="SLSQP",
        bounds=[(0, None)] * (2 * count),
        constraints=held,
        options={"maxiter": 500, "ftol": 1e-12},
    )
    assert abs(float(mean @ got.numpy()) - LEVEL) < 1e-6
    least = float(functional(torch.from_numpy(other.x), 0.0))
    flat = float(functional(torch.from_numpy(begin), 0.0))
    assert float(functional(got, 0.0)) < least + 1e-3 * (flat - least)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_fall_is_the_adjoint_of_slope(axis, grid, generator):
    x, y = torch.randn(2, *grid.shape, generator=generator, dtype=torch.float64)
    size = grid.voxel_size[axis]
    torch.testing.assert_close((slope(x, axis, size) * y).sum(), (x * fall(y, axis, size)).sum())
    torch.testing.assert_close(slope(x, axis, size), Gradient(grid, periodic=True)(x)[axis])


def test_noise_is_told_by_the_data_themselves(generator):
    grid = Grid((48, 45, 40), (1.0, 1.2, 1.5), (0.2, -0.3, 0.93))
    axes = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in grid.shape], indexing="ij")
    mask = sum(a.square() for a in axes) < 0.8
    chi = 0.1 * (torch.exp(-sum((a - 0.2).square() for a in axes) / 0.02) - torch.exp(-sum((a + 0.3).square() for a in axes) / 0.03))
    field = (Dipole(grid, padding=2)(chi) + 0.001 * torch.randn(grid.shape, generator=generator)) * mask
    assert field_noise(field, mask, grid)[1] == pytest.approx(0.001, rel=0.15)


@pytest.fixture(scope="module", params=[3.0, 7.0], ids=["3 T", "7 T"])
def brain(request):
    """The drawn head, its χ split and a common part added to both sources; noise as at the field strength."""
    b0 = request.param
    grid = Grid((52, 63, 46), (3.0, 3.0, 3.2), (0.1, 0.05, 0.99))
    whole = head(grid, seed=1, b0=b0)
    generator = torch.Generator().manual_seed(2)
    common = torch.full(grid.shape, 0.012)
    for name, value in {"csf": 0.003, "grey_matter": 0.019, "white_matter": 0.006, "vein": 0.0, "thalamus": 0.03}.items():
        common[whole.labels == next(label for label, other in whole.names.items() if other == name)] = value
    pos, neg = ((sign * whole.chi).clamp_min(0).add(common) * whole.mask for sign in (1, -1))
    noise = torch.randn(3, *grid.shape, generator=generator)
    field = (Dipole(grid, padding=2)(pos - neg) + 0.003 / b0 * noise[0]) * whole.mask
    rate = (137 * b0 / 3 * (pos + neg) + 0.6 * b0 * noise[1]).clamp_min(0) * whole.mask
    magnitude = (whole.magnitude0 * torch.exp(-0.02 * whole.r2star) + 0.005 * noise[2]).abs()[None]
    return pos, neg, field, rate, magnitude, whole, grid, Scan((0.005, 0.015), b0)


def error(source, truth, mask):
    return float((source - truth)[mask].norm() / truth[mask].norm())


@pytest.mark.parametrize("unknown", [torch.nan, torch.inf, 0.0])
def test_unknown_noise_tells_no_level(tiny, unknown):
    field, rate, mask, grid = tiny
    noise = torch.full(grid.shape, 0.05)
    noise[:4] = unknown  # more than half of the mask
    assert Frame.around(field, rate, mask, grid, DRS, noise).noise == pytest.approx(0.05)


def test_a_rate_of_unknown_noise_is_not_believed(tiny):
    field, rate, mask, grid = tiny
    deviation = torch.full(grid.shape, 2.0)
    deviation[2] = 0.0
    frame = Frame.around(field, rate, mask, grid, DRS, None, deviation)
    unknown = frame.window.take(mask & (deviation == 0))
    assert not bool(frame.firmness[unknown].any())
    assert bool((frame.firmness[frame.window.mask & ~unknown] > 0).all())
    nowhere, without = (Frame.around(field, rate, mask, grid, DRS, None, given) for given in (0 * deviation, None))
    torch.testing.assert_close(nowhere.firmness, without.firmness)


def test_a_constant_of_the_field_is_no_source(brain):
    """Background removals leave a part per billion or two; here 4."""
    _, _, field, rate, _, whole, grid, scan = brain
    plain, lifted = (chisep_medi(field + c * whole.mask, rate, whole.mask, grid, scan) for c in (0.0, 0.004))
    for one, other in zip(plain, lifted, strict=True):
        assert error(other, one, whole.mask) < 0.02


def test_the_joint_ways_beat_the_closed_form(brain):
    """chisep_medi also where the closed form is given the true χ: it takes the noise out of R2′."""
    pos, neg, field, rate, magnitude, whole, grid, scan = brain
    mask = whole.mask
    chi = tkd(field, mask, grid)
    plain, best = (closed_form(x, rate, mask, grid, scan) for x in (chi, pos - neg))
    found = chisep_medi(field, rate, mask, grid, scan, magnitude=magnitude)
    tied = chisep_ilsqr(field, chi, rate, mask, grid, scan)
    for i, truth in enumerate((pos, neg)):
        assert error(found[i], truth, mask) < 0.75 * error(plain[i], truth, mask)
        assert error(found[i], truth, mask) < error(best[i], truth, mask)
        assert error(tied[i], truth, mask) < 0.95 * error(plain[i], truth, mask)


def test_edges_of_the_magnitude_help(brain):
    pos, neg, field, rate, magnitude, whole, grid, scan = brain
    without = chisep_medi(field, rate, whole.mask, grid, scan)
    found = chisep_medi(field, rate, whole.mask, grid, scan, magnitude=magnitude)
    for a, b, truth in zip(found, without, (pos, neg), strict=True):
        assert error(a, truth, whole.mask) < error(b, truth, whole.mask)


def test_fluid_becomes_even(brain):
    _, _, field, rate, _, whole, grid, scan = brain
    generator = torch.Generator().manual_seed(5)
    spoilt = field + 0.01 * torch.randn(field.shape, generator=generator) * whole.mask
    low = torch.where(whole.region("csf"), 1.0, whole.r2star.clamp_min(10.0))
    places = torch.stack(torch.meshgrid(*[torch.arange(n) * d for n, d in zip(grid.shape, grid.voxel_size, strict=True)], indexing="ij"))
    middle = places[:, whole.mask].mean(1)[:, None, None, None]
    middle = whole.region("csf") & ((places - middle).square().sum(0) < 29**2)
    spread = {}
    for csf in (0.0, 10.0):
        found = chisep_medi(spoilt, rate, whole.mask, grid, scan, r2star=low, csf=csf, max_iter=200)
        spread[csf] = float((found.chi_pos - found.chi_neg)[middle].std())
    assert int(middle.sum()) > 100
    assert spread[10.0] < 0.4 * spread[0.0]


@pytest.mark.parametrize("method", [chisep_ilsqr, chisep_medi])
def test_the_mean_of_chi_is_that_of_a_given_one(method, brain):
    """Whatever even shift of χ the field holds: no background removal keeps it."""
    _, _, field, rate, _, whole, grid, scan = brain
    mask = whole.mask
    chi, even = tkd(field, mask, grid), Dipole(grid, padding=2)(mask.float()) * mask

    def separated(field, chi):
        given = {"local_field": field, "chi": chi, "r2prime": rate, "mask": mask, "grid": grid, "scan": scan}
        return method(**given)

    found = separated(field, chi)
    assert float((found.chi_pos - found.chi_neg)[mask].mean() - chi[mask].mean()) == pytest.approx(0, abs=3e-4)
    shifted = separated(field + 0.01 * even, chi)
    for a, b in zip(found, shifted, strict=True):
        assert error(a, b, mask) < 0.06  # the window is narrower than the field of the shift here
    higher = separated(field, chi + 0.01)
    assert float((higher.chi_pos - higher.chi_neg)[mask].mean() - chi[mask].mean()) == pytest.approx(0.01, abs=3e-4)
    if method is chisep_medi:
        alone = chisep_medi(field, rate, mask, grid, scan)
        assert float((alone.chi_pos - alone.chi_neg)[mask].mean()) == pytest.approx(0, abs=3e-4)


def test_streaks_are_taken_away(brain):
    """Of a χ with a streak on the cone, less is left than without the search for it."""
    pos, neg, field, rate, _, whole, grid, scan = brain
    chi = tkd(field, whole.mask, grid, threshold=0.05)
    kept, taken = (chisep_ilsqr(field, chi, rate, whole.mask, grid, scan, tie=0.3, cone=cone) for cone in (0.0, 0.1))
    assert error(taken.chi_neg, neg, whole.mask) < 0.95 * error(kept.chi_neg, neg, whole.mask)
    assert error(taken.chi_pos, pos, whole.mask) < 0.95 * error(kept.chi_pos, pos, whole.mask)


def test_noise_maps_are_heeded(brain):
    """Where the rates are known to be bad the field decides."""
    pos, neg, field, rate, _, whole, grid, scan = brain
    generator = torch.Generator().manual_seed(9)
    deviation = torch.full(grid.shape, 1.5)
    deviation[:, :30] = 40.0
    bad = (rate + deviation * torch.randn(grid.shape, generator=generator)).clamp_min(0) * whole.mask
    blind = chisep_medi(field, bad, whole.mask, grid, scan)
    told = chisep_medi(field, bad, whole.mask, grid, scan, r2prime_noise=deviation)
    half = whole.mask.clone()
    half[:, :30] = False
    for i, truth in enumerate((pos, neg)):
        assert error(told[i], truth, half) < error(blind[i], truth, half)


@pytest.mark.parametrize("with_magnitude", [False, True])
def test_the_border_of_the_mask_costs_nothing(with_magnitude):
    """Even tissue that ends at the mask comes out as it is: the step to what nobody knows is no slope."""
    grid = Grid((22, 21, 20), (1.4, 1.6, 2.0), (0.2, -0.3, 0.93))
    axes = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in grid.shape], indexing="ij")
    radius = sum(a.square() for a in axes)
    mask = radius < 0.7
    pos, neg = 0.02 * mask + 0.1 * (radius < 0.1), 0.03 * mask
    magnitude = (1 + axes[0])[None] if with_magnitude else None
    field = Dipole(grid, padding=2)(pos - neg)
    found = chisep_medi(field, 137 * (pos + neg), mask, grid, SCAN, magnitude=magnitude, chi=pos - neg, weight=1.0, edges=0.0, max_iter=200)
    shell = mask & (radius > 0.45)
    for source, truth in zip(found, (0.02, 0.03), strict=True):
        assert float((source[shell] - truth).abs().max()) < 0.0015
