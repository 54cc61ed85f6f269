"""Inversions by sparsity and by phase: what each of them is for, and its functional against solvers of another kind."""

import inspect
import math
import sys
import warnings

import pytest
import torch
from scipy.optimize import minimize, minimize_scalar

from paradia.errors import ConvergenceWarning
from paradia.grid import Grid
from paradia.inversion import _splitting
from paradia.inversion._generalised import GeneralisedVariation
from paradia.inversion._splitting import Frame
from paradia.operators.dipole import Dipole
from paradia.operators.gradient import Gradient
from paradia.registry import load
from paradia.scan import Scan
from paradia.solvers.admm import admm
from paradia.sources.fluid import ventricles
from paradia.sources.slopes import Variation

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


@pytest.mark.parametrize(
    ("kind", "rate", "coupling"),
    [
        *(("quadratic", rate, 0.3) for rate in (1e-3, 20.0, 200.0)),
        *(("absolute", rate, 100.0) for rate in (1e-3, 20.0, 200.0)),
        ("absolute", 200.0, 1000.0),  # so small a limit that residuals remain, at which the cosine tells
    ],
)
def test_the_proximal_maps_are_those_of_a_scalar_minimiser(kind, rate, coupling):
    """Against a bounded scalar search by scipy, from small residuals to near half a turn."""
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


@pytest.mark.parametrize("kind", ["quadratic", "absolute"])
def test_the_constant_is_where_the_duals_sum_to_nothing(kind):
    """Not at the median of the field, which is where it begins."""
    _, field, mask = blocks()
    frame = Frame.around(field + 0.01 * mask, mask, GRID, None)
    inside = frame.window.take(field + 0.01 * mask)
    scale = frame.scale(inside)
    coupling, weight = (0.2, 0.11 * scale.penalty) if kind == "quadratic" else (0.3 / scale.noise, 0.075 * scale.share)
    data = _splitting.Data(frame, inside, getattr(_splitting, kind)(frame.weights, coupling), coupling)
    begun, rho = float(data.constant), weight / scale.slope
    term = _splitting.smooth(frame, frame.variation(inside, scale.slope).step, rho)
    _splitting.split(frame, data, term, rho, frame.zero(inside), max_iter=200, tol=0.0, callback=None)
    assert abs(float(frame.lean(data.dual))) < 0.01 * float(data.dual.abs().mean())
    assert float(data.constant) == pytest.approx(0.01, abs=0.001)
    assert abs(float(data.constant) - begun) > 1e-4


class Terms:
    """The parts of the functionals in double precision, corners rounded by a hair so that they can be descended."""

    def __init__(self, end, knobs):
        self.grid, self.field, self.scale, self.hair = end.frame.window.grid, end.field, end.scale, 1e-7
        self.weights, self.dipole = end.frame.weights.double(), end.frame.dipole.double()
        self.constant = 0.0
        self.side = self.grid.voxel_volume ** (1 / 3)
        mask = end.frame.window.mask
        beside = [mask == torch.roll(mask, -1, axis) for axis in range(3)]
        self.priced = torch.stack(beside).double() if end.name != "whqsm" else torch.ones(3, *mask.shape).double()
        self.price = knobs["weight"] * self.side * self.scale.noise**1.5 / self.scale.field**0.5
        self.dear = knobs["weight"] * self.side * (self.scale.noise / self.scale.field) ** 0.25

    def misfit(self, chi):
        return torch.fft.irfftn(self.dipole * torch.fft.rfftn(chi), chi.shape) + self.constant - self.field

    def free(self, functional):
        """Set the constant of the field to where it serves a functional best."""

        def value(constant):
            self.constant = constant
            return float(functional())

        self.constant = minimize_scalar(value, bounds=(-0.02, 0.02), method="bounded", options={"xatol": 1e-10}).x

    def squares(self, residual, weights):
        return 0.5 * (weights * residual).square().sum()

    def circle(self, residual, weights):
        return (weights.square() * (1 - torch.cos(self.scale.phase * residual))).sum() / self.scale.phase**2

    def chords(self, residual, weights):
        return ((weights * torch.sin(residual * self.scale.phase / 2) * 2 / self.scale.phase).square() + self.hair**2).sqrt().sum()

    def slopes(self, chi):
        return Gradient(self.grid, periodic=True)(chi)

    def variation(self, chi, share=None):
        return ((self.priced if share is None else share) * (self.slopes(chi).square() + self.hair**2).sqrt()).sum()


class Ended:
    """What a method gave and what it knew, seen from outside: frame, field in the window and the iterates of its solver."""

    def __init__(self, name, monkeypatch, *data, **knobs):
        self.name, self.starts, self.found = name, [], []
        invert, loop = Frame.invert, admm

        def seen(frame, one, local_field):
            def kept(field):
                self.frame, self.field, self.scale = frame, field.double(), frame.scale(field)
                return one(field)

            return invert(frame, kept, local_field)

        def solver(*given, **options):
            solution = loop(*given, **options)
            self.found.append(torch.fft.irfftn(solution.x, self.field.shape, dim=(-3, -2, -1)).double())
            return solution

        with monkeypatch.context() as patch:
            patch.setattr(Frame, "invert", seen)
            for module in {_splitting, sys.modules[load("inversion", name).function.__module__]}:
                if hasattr(module, "admm"):
                    patch.setattr(module, "admm", solver)
            run(name, *data, **knobs)


def value_of(name, monkeypatch):
    """Run a method long, and return its functional, with the weights of its end worked out anew, and where it ended."""
    chi, field, mask = blocks()
    knobs = load("inversion", name).knobs
    data, extra = [field, mask, GRID], {}
    if name == "hdqsm":
        monkeypatch.setattr(sys.modules["paradia.inversion.hdqsm"], "FIRST_STEP", 300)
    if name == "whqsm":
        x, y, _ = torch.meshgrid(*(torch.arange(n) * d for n, d in zip(GRID.shape, GRID.voxel_size, strict=True)), indexing="ij")
        data[0] = field + mask * 0.02 * ((x - 12) * (y - 12) + (x - 12) ** 2) / 60  # not quite harmonic
    if name == "medi":
        data[0] = field.clone()
        data[0][5:20:4, 4:18:4, 6:12:4] += 0.06  # outliers
        rate = torch.full(GRID.shape, 20.0)
        rate[7:11, 7:11, 5:8] = 1.0
        grain = 0.01 * torch.randn((2, *GRID.shape), generator=torch.Generator().manual_seed(5))
        data += [None, 1 + 10 * chi + grain, rate]
        extra = {"edges": 0.2, "csf": 1.0}
    knobs = knobs | extra
    end = Ended(name, monkeypatch, *data, max_iter=800 if name == "whqsm" else 400, tol=1e-6, **extra)
    t, window, ours = Terms(end, knobs), end.frame.window, end.found[-1]
    weights, misfit = t.weights, t.misfit

    if name == "tv":
        return t, lambda x: t.squares(misfit(x), weights) + t.price * t.variation(x), ours
    if name == "fansi":
        return t, lambda x: t.circle(misfit(x), weights) + t.price * t.variation(x), ours
    if name == "l1":
        return t, lambda x: t.chords(misfit(x), weights) + t.dear * t.variation(x), ours
    if name == "nltv":  # edges were last looked for in the 24th iteration, in what 23 had found
        before = Ended(name, monkeypatch, *data, max_iter=23, tol=1e-6).found[-1]
        edge = knobs["edge"] * t.scale.field / t.side
        squares = t.priced * t.slopes(before).square()
        around = [  # mean over the steps on either side of a voxel that cost
            (squares[a] + squares[a].roll(1, a)) / (t.priced[a] + t.priced[a].roll(1, a)).clamp_min(1) for a in range(3)
        ]
        lengths = [squares[a] + sum((around[b] + around[b].roll(-1, a)) / 2 for b in range(3) if b != a) for a in range(3)]
        share = edge / (torch.stack(lengths).sqrt() + edge)
        return t, lambda x: t.squares(misfit(x), weights) + t.price * t.variation(x, share * t.priced), ours
    if name == "hdqsm":
        t.free(lambda: (weights * misfit(end.found[1])).abs().sum())  # after the opening
        wrong = misfit(end.found[1]).abs() * (weights > 0)
        trust = 1 - wrong / wrong.max()
        return t, lambda x: t.squares(misfit(x), trust * weights) + t.price * t.variation(x), ours
    if name == "whqsm":
        beta, stencil = knobs["harmony"] * t.side**4, end.frame.stencil.double()
        unit = (1 + beta * stencil.square()).sqrt()  # h is found as what its penalty makes round: it is stiff otherwise

        def both(x):
            h = torch.fft.irfftn(torch.fft.rfftn(x[1]) / unit, x[1].shape)
            curved = torch.fft.irfftn(stencil * torch.fft.rfftn(h), h.shape) * window.mask
            return t.circle(misfit(x[0]) + h, weights) + t.price * t.variation(x[0]) + beta / 2 * curved.square().sum()

        return t, both, torch.stack([ours[0], torch.fft.irfftn(torch.fft.rfftn(ours[1]) * unit, ours[1].shape)])
    beside = torch.stack([torch.roll(window.mask, -1, axis) for axis in range(3)])
    inside, free = window.mask & beside, window.mask ^ beside
    steepness = t.slopes(window.take(data[4].square().sum(0).sqrt()).double()).abs() * inside
    free |= steepness > steepness[inside].sort().values[round(0.8 * int(inside.sum())) - 1]
    fluid = window.take(data[5] < 2)
    before = Ended(name, monkeypatch, *data, max_iter=23, tol=1e-6, **extra).found[-1]  # outliers were last looked for in the 24th
    t.free(lambda: t.circle(misfit(before), weights))
    apart = (weights * torch.sin(misfit(before) * t.scale.phase / 2)).abs()
    excess = (apart / (6 * apart[weights > 0].square().mean().sqrt())).clamp_min(1)
    assert int((excess > 1).sum()) > 10

    def whole(x):
        uneven = x[fluid] - x[fluid].mean()
        rough = t.variation(x, (~free).double())
        return t.circle(misfit(x), weights / excess**2) + t.price * rough + knobs["csf"] / 2 * uneven.square().sum()

    return t, whole, ours


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tv", "l1", "fansi", "nltv", "hdqsm", "whqsm", "medi"])
def test_the_functional_is_as_low_as_lbfgs_of_scipy_gets_it(name, monkeypatch):
    """From nothing, corners sharpened on the way, and from our result, with the weights that the method ended with."""
    terms, functional, ours = value_of(name, monkeypatch)
    terms.free(lambda: functional(ours))

    def cost(flat):
        x = torch.from_numpy(flat).reshape(ours.shape).requires_grad_()
        value = functional(x) * 1e3
        (slope,) = torch.autograd.grad(value, x)
        return float(value.detach()), slope.flatten().numpy()

    def descend(start, hairs, steps=100 if name == "whqsm" else 60):
        for terms.hair in hairs:
            start = minimize(cost, start, jac=True, method="L-BFGS-B", options={"maxiter": steps, "maxcor": 20, "maxfun": 2000}).x
        return cost(start)[0]

    mine = ours.flatten().numpy()
    theirs, polished = descend(0 * mine, (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)), descend(mine, (1e-7,))
    value = cost(mine)[0]
    most = 1.001 if name in ("l1", "whqsm") else 1.0001
    assert value < most * polished
    assert value < most * theirs
    assert theirs < 1.1 * value


def test_generalised_variation_with_dear_bends_is_plain_variation():
    """Against `Variation`: where slopes may not bend, the slope field stays nothing."""
    x = blocks()[0]
    plain = Variation(GRID, [x.new_tensor(0.01)] * 3)
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


def test_a_magnitude_of_whole_numbers_is_one_like_others():
    chi, field, mask = blocks()
    magnitude = (1000 * (1 + 10 * chi)).round().expand(2, *GRID.shape)
    medi = inspect.unwrap(load("inversion", "medi").function)  # images may be integers, though the signature asks for none
    whole, same = (medi(field, mask, GRID, magnitude=given) for given in (magnitude.to(torch.int16), magnitude))
    torch.testing.assert_close(whole, same)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_medi_sees_edges_alike_from_both_sides(axis):
    """The mirrored head has the mirrored map: no slope of the magnitude across the mask's border counts, on either side of it."""
    _, field, mask = blocks()
    mask = mask & (torch.rand(GRID.shape, generator=torch.Generator().manual_seed(2)) < 0.97)
    magnitude = (1 + torch.rand(1, *GRID.shape, generator=torch.Generator().manual_seed(3))) * mask
    b0 = [-side if place == axis else side for place, side in enumerate(GRID.b0_dir)]
    turned = Grid(GRID.shape, GRID.voxel_size, tuple(b0))
    there = run("medi", field * mask, mask, GRID, None, magnitude, edges=0.3, tol=0.0, max_iter=20)
    field, mask, magnitude = ((image if image.ndim == 4 else image[None]).flip(axis + 1) for image in (field * mask, mask, magnitude))
    back = run("medi", field[0], mask[0], turned, None, magnitude, edges=0.3, tol=0.0, max_iter=20).flip(axis)
    torch.testing.assert_close(back, there, atol=2e-5, rtol=1e-3)


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
    for name in ("medi", "l1bayes"):
        with pytest.raises(Exception, match="magnitude"):  # by the method, or before it where types are checked
            run(name, field, mask, GRID, None, torch.ones(2, 24, 21, 15))
