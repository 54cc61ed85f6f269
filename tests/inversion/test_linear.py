"""The linear inversions against dense algebra, closed forms and their own promises."""

import math

import numpy as np
import pytest
import torch

from paradia.errors import ConvergenceWarning, InputError
from paradia.fft import Window
from paradia.grid import Grid
from paradia.inversion._level import wiener
from paradia.inversion._region import region
from paradia.inversion.ilsqr import ilsqr
from paradia.inversion.l1bayes import l1bayes
from paradia.inversion.ndi import ndi
from paradia.inversion.tikhonov import tikhonov
from paradia.inversion.tkd import MARGIN, tkd
from paradia.inversion.tsvd import tsvd
from paradia.operators.dipole import Dipole
from paradia.simulate.head import head as simulated
from paradia.solvers._solution import Solution
from paradia.sources.cone import level
from paradia.sources.inside import levelled

SMALL = Grid((8, 7, 6), (3.0, 3.5, 4.0), (0.2, -0.3, 0.93))
"""Its window, with the margin, is still small enough for a matrix."""


@pytest.fixture(scope="module")
def small():
    """A field in a box, the window that an inversion looks through, and the dipole there as numpy's matrix."""
    mask = torch.zeros(SMALL.shape, dtype=torch.bool)
    mask[2:6, 2:5, 1:5] = True
    field = 0.01 * torch.randn(SMALL.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * mask
    return mask, field


def matrix_of(operator, shape):
    identity = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    return operator(identity).reshape(len(identity), -1).T.numpy()


def differences(grid):
    """Write periodic differences to the next voxel as matrices by numpy, one an axis."""
    eye = np.eye(math.prod(grid.shape)).reshape(-1, *grid.shape)
    return [((np.roll(eye, -1, 1 + axis) - eye) / size).reshape(len(eye), -1).T for axis, size in enumerate(grid.voxel_size)]


def test_tsvd_equals_numpys_truncated_singular_values(small):
    mask, field = small
    window = Window.around(mask, SMALL, 20.0)
    u, s, vt = np.linalg.svd(matrix_of(Dipole(window.grid).double(), window.grid.shape))
    kept = s > 0.1
    chi = vt[kept].T @ ((u[:, kept].T @ window.take(field).flatten().numpy()) / s[kept]) / kept.mean()
    inside = window.mask.flatten().numpy()
    np.testing.assert_allclose(tsvd(field, mask, SMALL)[mask].numpy(), chi[inside], atol=1e-9)


def test_tkd_equals_a_division_by_numpy(small):
    """The dipole as the transform of its response to one voxel, over all frequencies, held above the threshold."""
    mask, field = small
    window = Window.around(mask, SMALL, MARGIN)
    point = torch.zeros(window.grid.shape, dtype=torch.float64)
    point[0, 0, 0] = 1
    dipole = np.fft.fftn((Dipole(window.grid).double() @ point).numpy()).real
    held = np.where(np.abs(dipole) < 0.15, np.where(dipole < 0, -0.15, 0.15), dipole)
    inverse = 1 / held
    inverse[0, 0, 0] = 0  # the mean, which no field knows
    chi = np.fft.ifftn(np.fft.fftn(window.take(field).numpy()) * inverse / np.mean(dipole * inverse)).real
    np.testing.assert_allclose(tkd(field, mask, SMALL, threshold=0.15)[mask].numpy(), chi[window.mask.numpy()], atol=1e-9)


@pytest.mark.parametrize("penalty", ["identity", "gradient", "laplacian"])
def test_tikhonov_equals_the_dense_normal_equations(small, penalty):
    mask, field = small
    window = Window.around(mask, SMALL, 20.0)
    dipole = matrix_of(Dipole(window.grid).double(), window.grid.shape)
    side, slopes = window.grid.voxel_volume ** (1 / 3), differences(window.grid)
    second = side**2 * sum(d.T @ d for d in slopes)
    held = {"identity": np.eye(len(dipole)), "gradient": second, "laplacian": second @ second}[penalty]
    ones = np.ones((len(dipole), len(dipole))) / len(dipole)  # the mean, which no field knows, is set to zero
    inverse = np.linalg.inv(dipole @ dipole + 0.01 * held + ones) @ dipole
    if penalty == "identity":
        inverse /= np.trace(inverse @ dipole) / len(dipole)
    chi = inverse @ window.take(field).flatten().numpy()
    got = tikhonov(field, mask, SMALL, penalty=penalty, weight=0.01)
    np.testing.assert_allclose(got[mask].numpy(), chi[window.mask.flatten().numpy()], atol=1e-7)


def test_tikhonov_says_what_it_cannot_do(small):
    mask, field = small
    with pytest.raises(InputError, match="weight must be a positive number, got 0"):
        tikhonov(field, mask, SMALL, weight=0.0)


def test_ndi_for_small_errors_equals_dense_weighted_least_squares(small):
    """With next to no phase the circle is a line: numpy solves the normal equations over voxels the region allows."""
    mask, field = small
    noise = (1 + torch.rand(SMALL.shape, generator=torch.Generator().manual_seed(1))).float()
    got = ndi(field, mask, SMALL, noise, rad_per_ppm=1e-3, max_iter=3000, tol=1e-9)
    window = Window.around(mask, SMALL, 15.0)
    damping = 1.5 * float(wiener(window.take(levelled(field, mask)), window.mask, window.grid))
    weights = 1 / window.take(noise)[window.mask].numpy()
    weights = np.minimum(weights / weights.mean(), 3.0)
    inside, near = window.mask.flatten().numpy(), region(window.mask, window.grid, 4.0).flatten().numpy()
    dipole = matrix_of(Dipole(window.grid).double(), window.grid.shape)[inside][:, near] * weights[:, None]
    free = np.eye(len(weights)) - np.outer(weights, weights) / (weights @ weights)  # a constant of the field is
    dipole = free @ dipole
    right = dipole.T @ (weights * field[mask].numpy())
    chi = np.zeros(len(inside))
    chi[near] = np.linalg.solve(dipole.T @ dipole + damping * np.eye(near.sum()), right)
    np.testing.assert_allclose(got[mask].numpy(), chi[inside], atol=2e-5)


@pytest.fixture(scope="module")
def head():
    """Piecewise constant and a vein, with noise of a known size."""
    grid = Grid((48, 45, 40), (1.0, 1.2, 1.5), (0.2, -0.3, 0.93))
    x, y, z = torch.meshgrid(*((torch.arange(n) - n / 2) / n for n in grid.shape), indexing="ij")
    mask = (x / 0.42) ** 2 + (y / 0.41) ** 2 + (z / 0.42) ** 2 < 1
    chi = (
        -0.03 * ((x**2 + y**2 + z**2) < 0.09) + 0.15 * ((x - 0.14) ** 2 + y**2 + z**2 < 0.01) + 0.1 * ((x + 0.14) ** 2 + y**2 + z**2 < 0.01)
    )
    chi = (chi + 0.2 * ((x.abs() < 0.03) & ((y - 0.1).abs() < 0.2) & ((z - 0.2).abs() < 0.03))) * mask
    return chi.float(), Dipole(grid, padding=2)(chi.float()), mask, grid


def noisy(head, sigma, seed=0):
    chi, field, mask, _ = head
    return (field + sigma * torch.randn(chi.shape, generator=torch.Generator().manual_seed(seed))) * mask


def error(got, head):
    chi, mask = head[0], head[2]
    a, b = got[mask] - got[mask].mean(), chi[mask] - chi[mask].mean()
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("sigma", [0.002, 0.005, 0.02])
def test_the_noise_is_read_off_the_cone(head, sigma):
    field, mask, grid = noisy(head, sigma), head[2], head[3]
    window = Window.around(mask, grid, 15.0)
    taken = window.take(field)
    found = float(level(taken, window.mask, window.grid, taken[window.mask].square().mean().sqrt()))
    assert abs(found / sigma - 1) < 0.15


def test_ndi_forgives_errors_of_a_turn(head):
    """A few voxels a whole turn off spoil a linear fit and not this one."""
    field = noisy(head, 0.001)
    wrong = field.clone()
    hit = head[2] & (torch.rand(field.shape, generator=torch.Generator().manual_seed(2)) < 0.004)
    wrong[hit] += 2 * math.pi / 16
    loss = error(ndi(wrong, *head[2:]), head) - error(ndi(field, *head[2:]), head)
    linear = error(ndi(wrong, *head[2:], rad_per_ppm=1e-3), head) - error(ndi(field, *head[2:], rad_per_ppm=1e-3), head)
    assert loss < 0.3 * linear


@pytest.mark.parametrize("strength", [-1.0, 2.5])
def test_ndi_finds_a_strong_source(head, strength):
    """Whose field is up to four turns: without a prior it is damped like any other, and what lies around it is left alone."""
    spot = torch.zeros_like(head[2])
    spot[20:24, 12:16, 23:26] = True
    field = noisy(head, 0.001) + Dipole(head[3], padding=2)(strength * spot) * head[2]
    weak = noisy(head, 0.001) + Dipole(head[3], padding=2)(0.1 * spot) * head[2]
    shares = []
    for given, size in ((field, strength), (weak, 0.1)):
        chi = ndi(given, *head[2:]) - ndi(noisy(head, 0.001), *head[2:])
        shares.append(float(chi[spot].mean()) / size)
        assert chi[head[2] & ~spot].std() < 0.03 * abs(size)
    assert shares[0] == pytest.approx(shares[1], rel=0.05)


def test_ndi_gives_its_minimum_and_not_where_it_was_stopped(head):
    field = noisy(head, 0.002)
    long = ndi(field, *head[2:], tol=1e-4, max_iter=500)
    assert (ndi(field, *head[2:]) - long).norm() < 0.1 * long.norm()


def test_ilsqr_takes_streaks_away(head):
    """Without a cone to look in it is damped least squares alone, and worse."""
    field = noisy(head, 0.001)
    assert error(ilsqr(field, *head[2:]), head) < 0.97 * error(ilsqr(field, *head[2:], cone=1e-9), head)


def test_ilsqr_without_streaks_equals_dense_damped_least_squares(small, monkeypatch):
    """Its first step, by numpy: every voxel of the window is free, the data count by how little the field curves."""
    import paradia.inversion.ilsqr as module

    mask, field = small
    monkeypatch.setattr(module, "flatness", lambda rough, mask, shares: mask.to(rough).expand(rough.shape))
    monkeypatch.setattr(module, "streaks", lambda chi, *_, **__: Solution(torch.zeros_like(chi), 0, 0.0, True))
    monkeypatch.setattr(module, "RADIUS", 1.0)
    got = ilsqr(field, mask, SMALL, tol=1e-10, max_iter=500)
    window = Window.around(mask, SMALL, 15.0)
    about = (field - field[mask].median()) * mask
    damping = float(wiener(window.take(about), window.mask, window.grid))
    inside = window.mask.flatten().numpy()
    dipole = matrix_of(Dipole(window.grid).double(), window.grid.shape)[inside]
    dipole -= dipole.mean(0)  # a constant of the field is free
    chi = np.linalg.solve(dipole.T @ dipole + damping * np.eye(dipole.shape[1]), dipole.T @ field[mask].numpy())
    np.testing.assert_allclose(got[mask].numpy(), chi[inside], atol=1e-7)


@pytest.mark.parametrize("method", [l1bayes, ndi])
def test_one_weight_serves_any_scale(head, method):
    """Field and noise a thousand times larger give χ a thousand times larger, whatever the weight."""
    field = noisy(head, 0.002)
    knobs = {"rad_per_ppm": 1e-6} if method is ndi else {}
    torch.testing.assert_close(method(1000 * field, *head[2:], **knobs) / 1000, method(field, *head[2:], **knobs), rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def brain():
    """A simulated brain: texture and edges of every strength, which a single total variation flattens alike."""
    truth = simulated(Grid((50, 59, 48), (3.6, 3.5, 3.8), (0.1, 0.2, 0.97)), seed=4)
    return truth.chi, truth.local_field, truth.mask, truth.grid, truth.magnitude0[None]


def test_l1bayes_learns_where_the_edges_are(brain):
    field = noisy(brain[:4], 0.0015)
    alone = error(l1bayes(field, *brain[2:4], rounds=1, max_iter=60), brain)
    assert error(l1bayes(field, *brain[2:4]), brain) < 0.97 * alone


def test_l1bayes_looks_at_the_magnitude(brain):
    field = noisy(brain[:4], 0.0015)
    knobs = {"rounds": 1, "max_iter": 60}
    told = error(l1bayes(field, *brain[2:4], None, brain[4], **knobs), brain)
    assert told < 0.99 * error(l1bayes(field, *brain[2:4], **knobs), brain)


def test_l1bayes_first_round_equals_a_primal_dual_iteration(small):
    """Chambolle and Pock's algorithm, written with numpy's matrices, ends at the same minimum."""
    mask, field = small
    got = l1bayes(field, mask, SMALL, rounds=1, max_iter=3000, reach=0.0, weight=0.02)
    window = Window.around(mask, SMALL, 15.0)
    taken, inside = window.take(field), window.mask.flatten().numpy()
    noise = float(level(taken, window.mask, window.grid, taken[window.mask].square().mean().sqrt()))
    limit = 0.02 * noise * window.grid.voxel_volume ** (1 / 3)
    dipole = matrix_of(Dipole(window.grid).double(), window.grid.shape)[inside][:, inside]
    slopes = np.concatenate(
        [d[:, inside][inside & np.roll(window.mask.numpy(), -1, axis).flatten()] for axis, d in enumerate(differences(window.grid))]
    )
    f, x = field[mask].numpy(), np.zeros(inside.sum())
    f, dipole = f - f.mean(), dipole - dipole.mean(0)  # a constant is free
    y, ahead = np.zeros(len(slopes)), x
    step = 0.9 / np.linalg.norm(slopes, 2)
    solve = np.linalg.inv(np.eye(len(x)) + step * 30 * dipole.T @ dipole)
    for _ in range(40000):
        y = np.clip(y + step / 30 * slopes @ ahead, -limit, limit)
        before, x = x, solve @ (x - step * 30 * (slopes.T @ y - dipole.T @ f))
        ahead = 2 * x - before

    def value(chi):
        return 0.5 * ((dipole @ chi - f) ** 2).sum() + limit * np.abs(slopes @ chi).sum()

    assert value(got[mask].numpy()) == pytest.approx(value(x), rel=2e-3)
    np.testing.assert_allclose(got[mask].numpy(), x, atol=0.02 * np.abs(x).max())


def test_the_region_reaches_as_far_as_it_says():
    mask = torch.zeros((12, 11, 10), dtype=torch.bool)
    mask[0, 5, 5] = True
    grid = Grid(mask.shape, (1.0, 2.0, 4.0))
    wide = region(mask, grid, 4.0)
    assert wide.sum() == 9 * 5 * 3
    assert wide[-4, 5, 5]  # across the border, which is periodic
    assert torch.equal(region(mask, grid, 0.0), mask)
    assert region(mask, grid, -1.0).all()


@pytest.mark.parametrize(("method", "knobs"), [(l1bayes, {"max_iter": 2}), (ndi, {"max_iter": 3}), (ilsqr, {"max_iter": 3})])
def test_progress_and_limits_are_told(head, method, knobs):
    told: list[int] = []
    with pytest.warns(ConvergenceWarning, match=f"{method.__name__}.* stopped after"):
        method(noisy(head, 0.002), *head[2:], **knobs, callback=lambda i, _: told.append(i))
    assert told == list(range(1, len(told) + 1))


def test_what_makes_no_sense_is_refused(head):
    with pytest.raises(InputError, match="rounds must be 1 or more, got 0"):
        l1bayes(noisy(head, 0.002), *head[2:], rounds=0)
    with pytest.raises(InputError, match="weight must be a positive number"):
        ndi(noisy(head, 0.002), *head[2:], weight=0.0)
