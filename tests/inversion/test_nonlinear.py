"""Inversions by sparsity and by phase: what each of them is for, and its functional against solvers of another kind."""

import math
import warnings

import pytest
import torch
from scipy.optimize import minimize, minimize_scalar

from paradia.errors import ConvergenceWarning
from paradia.grid import Grid
from paradia.inversion import _splitting
from paradia.inversion._csf import ventricles
from paradia.inversion._generalised import GeneralisedVariation
from paradia.inversion._splitting import Frame
from paradia.inversion._variation import Variation
from paradia.operators.dipole import Dipole
from paradia.operators.gradient import Gradient
from paradia.registry import load
from paradia.scan import Scan

GRID = Grid((24, 21, 16), (1.0, 1.2, 1.5), (0.2, -0.3, 0.93))


def blocks(grid=GRID, noise=0.002, seed=0):
    """Return a few blocks of χ, their noisy field and the mask."""
    chi = torch.zeros(grid.shape)
    chi[6:12, 6:12, 4:9] = 0.1
    chi[13:18, 8:15, 6:12] = -0.05
    mask = torch.zeros(grid.shape, dtype=torch.bool)
    mask[2:-2, 2:-2, 2:-2] = True
    draw = torch.randn(grid.shape, generator=torch.Generator().manual_seed(seed))
    return chi, (Dipole(grid, padding=2)(chi) + noise * draw) * mask, mask


def run(name, *data, **knobs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return load("inversion", name).function(*data, **knobs)


def misses(estimate, chi, mask):
    """Return the error about the mean as a share of the truth."""
    a, b = estimate[mask] - estimate[mask].mean(), chi[mask] - chi[mask].mean()
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("rate", [1e-3, 20.0, 200.0])
@pytest.mark.parametrize("kind", ["quadratic", "absolute"])
def test_the_proximal_maps_are_those_of_a_scalar_minimiser(kind, rate):
    """Against a bounded scalar search by scipy, from small residuals to near half a turn."""
    coupling = 0.3 if kind == "quadratic" else 100.0
    make = getattr(_splitting, f"phase_{kind}")
    for weight in (0.5, 2.0):
        for target in torch.linspace(-0.9, 0.9, 7).mul(min(1 / rate, 0.02)).double():

            def cost(z, w=weight, v=float(target)):
                own = w / rate**2 * (1 - math.cos(rate * z)) if kind == "quadratic" else 2 * w / rate * abs(math.sin(rate * z / 2))
                return own + coupling / 2 * (z - v) ** 2

            dual = make(torch.tensor(weight).double(), coupling, rate)(target)
            least = minimize_scalar(cost, bounds=sorted((0.0, float(target) + 1e-12)), method="bounded", options={"xatol": 1e-12})
            assert cost(float(target - dual)) <= least.fun + 1e-4 * cost(0.0) + 1e-18


@pytest.mark.parametrize("kind", ["quadratic", "absolute"])
def test_whole_turns_cost_nothing(kind):
    force = getattr(_splitting, f"phase_{kind}")(torch.ones(5), 0.3, 20.0)
    residual = torch.linspace(-0.1, 0.1, 5)
    torch.testing.assert_close(force(residual + 2 * math.pi / 20), force(residual), rtol=1e-4, atol=1e-6)


def functional(name, chi, frame, field, scale, knobs):
    """Write down what a method minimises, slopes smoothed by a hair so that it can be descended."""
    weights, smooth = frame.weights.double(), 1e-7
    residual = weights * (torch.fft.irfftn(frame.dipole.double() * torch.fft.rfftn(chi), chi.shape) - field)
    slopes = (Gradient(frame.window.grid, periodic=True)(chi).square() + smooth**2).sqrt().sum()
    voxel = frame.window.grid.voxel_volume ** (1 / 3)
    if name == "l1":
        price = voxel * (scale.noise / scale.field) ** 0.25
        angle = torch.sin(residual / weights.clamp_min(1e-9) * scale.phase / 2) * 2 / scale.phase * weights
        data = (angle.square() + smooth**2).sqrt().sum()
    else:
        price = voxel * scale.noise**1.5 / scale.field**0.5
        data = (weights.square() * (1 - torch.cos(scale.phase * residual / weights.clamp_min(1e-9)))).sum() / scale.phase**2
    return data + knobs["weight"] * price * slopes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["l1", "fansi"])
def test_the_functional_is_as_low_as_quasi_newton_gets_it(name, monkeypatch):
    """Against L-BFGS of scipy, from the same start and from our result; the window is the whole grid, so nothing is cut."""
    _, field, mask = blocks()
    kept = {}
    put = Frame.invert

    def spy(self, one, local_field):
        def seen(f):
            kept["spectrum"], kept["field"], kept["frame"] = one(f), f, self
            return kept["spectrum"]

        return put(self, seen, local_field)

    monkeypatch.setattr(Frame, "invert", spy)
    run(name, field, mask, GRID, max_iter=400, tol=1e-6)
    frame, inside = kept["frame"], kept["field"].double()
    ours = torch.fft.irfftn(kept["spectrum"], inside.shape).double()
    scale, knobs = frame.scale(kept["field"]), load("inversion", name).knobs

    def cost(flat):
        chi = torch.from_numpy(flat).reshape(inside.shape).requires_grad_()
        value = functional(name, chi, frame, inside, scale, knobs)
        (slope,) = torch.autograd.grad(value, chi)
        return float(value.detach()) * 1e3, slope.flatten().numpy() * 1e3

    theirs = minimize(cost, ours.flatten().numpy() * 0, jac=True, method="L-BFGS-B", options={"maxiter": 120, "maxcor": 20})
    polished = minimize(cost, ours.flatten().numpy(), jac=True, method="L-BFGS-B", options={"maxiter": 40, "maxcor": 20})
    value = cost(ours.flatten().numpy())[0]
    assert value < 1.02 * theirs.fun
    assert value < 1.02 * polished.fun


def test_generalised_variation_with_dear_bends_is_plain_variation():
    """Against `Variation`: where slopes may not bend, the slope field stays nothing."""
    x = blocks()[0]
    plain = Variation(GRID, 0.01, x)
    general = GeneralisedVariation(GRID, 0.01, 1e6, x)
    first = general.step(x.clone())
    torch.testing.assert_close(general.slopes[0].abs().max() > 0, torch.tensor(True))  # a step is taken before bends are felt
    assert first.isfinite().all()
    for _ in range(200):
        plain.step(x)
        general.step(x)
    torch.testing.assert_close(torch.stack(general.first).abs().max(), torch.stack(plain.dual).abs().max(), rtol=1e-3, atol=1e-5)


def test_generalised_variation_does_not_price_a_ramp():
    """A ramp has slope and no bend: its duals fade where plain variation's stay at the limit."""
    x = torch.arange(32.0).sub(15.5).abs().mul(-0.01)[:, None, None].expand(32, 21, 16).contiguous()
    grid = Grid((32, 21, 16), GRID.voxel_size, GRID.b0_dir)
    term = GeneralisedVariation(grid, 0.002, 2.0, x)
    for _ in range(400):
        term.step(x)
    assert term.first[0][5:11].abs().max() < 0.3 * 0.002
    torch.testing.assert_close(term.slopes[0][5:11].mean(), torch.tensor(0.01), rtol=0.05, atol=0)


def test_fansi_tgv_recovers_and_unknown_regularisers_are_refused():
    chi, field, mask = blocks()
    assert misses(run("fansi", field, mask, GRID, regulariser="tgv"), chi, mask) < 0.5
    with pytest.raises(Exception, match="tvg"):  # by the method, or before it where types are checked
        run("fansi", field, mask, GRID, regulariser="tvg")


def test_a_scan_sets_the_turn_that_costs_nothing():
    """Voxels off by whole turns of the scan's phase, as after a failed unwrapping, change little for l1 and much for tv."""
    _, field, mask = blocks()
    scan = Scan((0.005, 0.025), 7.0)
    spoilt = field.clone()
    spoilt[8:10, 9, 5] += 1e6 / (42.577478518e6 * 7.0 * 0.020)
    l1 = misses(run("l1", spoilt, mask, GRID, None, scan), run("l1", field, mask, GRID, None, scan), mask)
    assert l1 < 0.3 * misses(run("tv", spoilt, mask, GRID), run("tv", field, mask, GRID), mask)


def test_absolute_residuals_forgive_wrong_voxels():
    chi, field, mask = blocks()
    wrong = field + mask * 0.15 * (torch.rand(GRID.shape, generator=torch.Generator().manual_seed(1)) < 0.02)
    assert misses(run("l1", wrong, mask, GRID), chi, mask) < 0.8 * misses(run("tv", wrong, mask, GRID), chi, mask)


def test_reweighted_variation_damps_less():
    chi, field, mask = blocks()
    nltv, plain = (run("nltv", field, mask, GRID, edge=edge) for edge in (1.0, 1e6))
    blocky = chi.abs() > 0
    assert (nltv * chi)[blocky].sum() > 1.001 * (plain * chi)[blocky].sum()


def test_a_harmonic_remnant_is_let_go():
    chi, field, mask = blocks()
    x, y, _ = torch.meshgrid(*(torch.arange(n) * d for n, d in zip(GRID.shape, GRID.voxel_size, strict=True)), indexing="ij")
    spoilt = field + mask * 0.02 * ((x - 12) * (y - 12) / 60)
    assert misses(run("whqsm", spoilt, mask, GRID), chi, mask) < 0.7 * misses(run("fansi", spoilt, mask, GRID), chi, mask)


def test_edges_of_the_magnitude_are_spared():
    chi, field, mask = blocks()
    magnitude = (1 + 10 * chi).expand(2, *GRID.shape)
    spared = run("medi", field, mask, GRID, None, magnitude, edges=0.2, weight=0.7)
    assert misses(spared, chi, mask) < 0.9 * misses(run("medi", field, mask, GRID, weight=0.7), chi, mask)


def test_fluid_is_made_even_by_medi():
    _, field, mask = blocks(noise=0.004)
    rate = torch.full(GRID.shape, 20.0)
    rate[7:11, 7:11, 5:8] = 1.0
    fluid = ventricles(rate, mask, GRID)
    assert torch.equal(fluid, rate < 2)
    loose, even = (run("medi", field, mask, GRID, None, None, rate, csf=csf, weight=0.01) for csf in (0.0, 1.0))
    assert even[fluid].std() < 0.5 * loose[fluid].std()
    dry = run("medi", field, mask, GRID, None, None, rate * 0 + 20)
    torch.testing.assert_close(dry, run("medi", field, mask, GRID))


def test_outliers_lose_weight_in_medi():
    chi, field, mask = blocks()
    field = field.clone()
    field[11, 10, 8] += 0.3
    scan = Scan((0.01,), 0.5)  # so little phase that it alone forgives nothing
    kept, lost = (misses(run("medi", field, mask, GRID, None, None, None, scan, reweight=r), chi, mask) for r in (False, True))
    assert lost < kept


def test_hdqsm_believes_less_what_its_first_step_could_not_explain():
    chi, field, mask = blocks()
    field = field.clone()
    field[11, 10, 8] += 0.3
    assert misses(run("hdqsm", field, mask, GRID), chi, mask) < misses(run("fansi", field, mask, GRID, None, Scan((0.01,), 0.5)), chi, mask)


@pytest.mark.parametrize("name", ["l1", "fansi", "nltv", "hdqsm", "whqsm", "medi"])
def test_one_weight_serves_every_unit_and_field_strength(name):
    """A field ten times as strong, noise and all, gives ten times the χ."""
    _, field, mask = blocks()
    noise = torch.linspace(0.001, 0.003, 24)[:, None, None].expand(GRID.shape).contiguous()
    once, tenfold = (run(name, s * field, mask, GRID, s * noise) for s in (1.0, 10.0))
    torch.testing.assert_close(tenfold, 10 * once, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["l1", "fansi", "nltv", "hdqsm", "whqsm", "medi"])
def test_limits_and_progress_are_told(name):
    _, field, mask = blocks()
    told: list[int] = []
    with pytest.warns(ConvergenceWarning, match=f"{name} stopped after 2 iterations"):
        load("inversion", name).function(field, mask, GRID, max_iter=2, callback=lambda i, _: told.append(i))
    assert told == [1, 2]


def test_a_magnitude_that_does_not_fit_is_named():
    _, field, mask = blocks()
    with pytest.raises(Exception, match="magnitude"):  # by the method, or before it where types are checked
        run("medi", field, mask, GRID, None, torch.ones(2, 24, 21, 15))
