"""What every single-step inversion keeps."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from paradia.errors import ConvergenceWarning, GeometryError, InputError, MaskError, NonFiniteError
from paradia.fft import Window
from paradia.grid import Grid
from paradia.operators.dipole import Dipole
from paradia.registry import load, methods
from paradia.sources.slopes import GeneralisedVariation, Variation, edges
from paradia.sources.split import Split

METHODS = tuple(name for name in methods("singlestep") if name != "nextqsm")  # a network: the laws that it keeps are in tests/nets
BOUNDS = {  # |slope - 1|, correlation, |bias| in ppm: a little looser than what is reached
    "tfi": (0.15, 0.95, 0.01),
    "tgv": (0.15, 0.95, 0.01),
    "joint": (0.1, 0.97, 0.01),
}

pytestmark = pytest.mark.filterwarnings("ignore::paradia.errors.ConvergenceWarning")


class Case(NamedTuple):
    chi: torch.Tensor
    local: torch.Tensor
    field: torch.Tensor
    mask: torch.Tensor
    grid: Grid
    noise: torch.Tensor


def ball(grid, centre, radius):
    """Mark an ellipsoid given in fractions of the field of view."""
    total = torch.zeros(grid.shape)
    for axis, (n, c, r) in enumerate(zip(grid.shape, centre, radius, strict=True)):
        place = (torch.arange(n) + 0.5) / n
        total += ((place - c) / r).square().reshape([-1 if a == axis else 1 for a in range(3)])
    return total <= 1


@pytest.fixture(scope="module")
def case():
    """Nuclei, a vein and a cyst in an ellipsoid, air beside and below it, and noise that trebles towards one side."""
    grid = Grid((44, 41, 36), (1.0, 1.2, 1.5), (0.2, -0.3, 0.93))
    generator = torch.Generator().manual_seed(7)
    mask = ball(grid, (0.5, 0.5, 0.5), (0.38, 0.37, 0.38))
    chi = torch.zeros(grid.shape)
    chi[ball(grid, (0.36, 0.5, 0.5), (0.08, 0.12, 0.1))] = 0.12
    chi[ball(grid, (0.64, 0.45, 0.55), (0.09, 0.1, 0.08))] = 0.18
    chi[ball(grid, (0.5, 0.7, 0.35), (0.07, 0.07, 0.06))] = -0.1
    chi[20:22, 14:30, 24:26] = 0.3
    air = torch.zeros(grid.shape)
    air[ball(grid, (0.5, 0.94, 0.25), (0.16, 0.1, 0.18))] = 9.4
    air[ball(grid, (0.08, 0.4, 0.08), (0.12, 0.15, 0.12))] = 9.4
    dipole = Dipole(grid, padding=2)
    noise = (0.0007 * (1 + 2 * torch.linspace(0, 1, 44)))[:, None, None].expand(grid.shape).contiguous()
    local = dipole(chi) + noise * torch.randn(grid.shape, generator=generator)
    return Case(chi, local * mask, (local + dipole(air)) * mask, mask, grid, noise)


@pytest.fixture(params=METHODS)
def invert(request):
    function = load("singlestep", request.param).function

    def call(*data, **knobs):
        return function(*data, **{"start": 25, "max_iter": 8, **knobs})

    return call


def agreement(result, truth, mask):
    """Return slope and correlation of the result over the truth, and the difference of their means."""
    a, b = result[mask].double(), truth[mask].double()
    bias = float((a - b).mean())
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / b.square().sum()), float((a * b).sum() / (a.norm() * b.norm())), bias


def test_all_methods_have_bounds():
    assert set(METHODS) == set(BOUNDS)


@pytest.mark.parametrize("name", METHODS)
def test_recovers_the_truth_under_a_background_many_times_its_field(name, case):
    assert (case.field - case.local)[case.mask].norm() > 10 * case.local[case.mask].norm()
    chi = load("singlestep", name).function(case.field, case.mask, case.grid, case.noise)
    slope, correlation, bias = agreement(chi, case.chi, case.mask)
    slope_off, least, bias_off = BOUNDS[name]
    assert abs(slope - 1) < slope_off, slope
    assert correlation > least, correlation
    assert abs(bias) < bias_off, bias


@pytest.mark.parametrize("name", METHODS)
def test_a_harmonic_background_vanishes(name, case):
    """Independent of dipoles: a harmonic polynomial, which no source in the field of view makes."""
    axes = [(torch.arange(n) - n / 2) * d / 20 for n, d in zip(case.grid.shape, case.grid.voxel_size, strict=True)]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    harmonic = (0.5 + 0.4 * x - 0.3 * z + 0.3 * x * y + 0.2 * (2 * z * z - x * x - y * y)) * case.mask
    chi = load("singlestep", name).function(harmonic, case.mask, case.grid)
    local = Dipole(case.grid, padding=2)(chi)
    assert local[case.mask].norm() < 0.03 * harmonic[case.mask].norm()
    assert chi[case.mask].std() < 0.02


def test_keeps_shape_precision_and_mask(invert, case):
    chi = invert(case.field, case.mask, case.grid)
    assert chi.shape == case.field.shape
    assert chi.dtype == torch.float32
    assert chi[~case.mask].abs().max() == 0
    assert invert(case.field.double(), case.mask, case.grid, start=3, max_iter=2).dtype == torch.float64


def test_a_noise_of_another_precision_takes_that_of_the_field(invert, case):
    one, two = (invert(case.field, case.mask, case.grid, noise, start=3, max_iter=2) for noise in (case.noise, case.noise.double()))
    assert two.dtype == torch.float32
    torch.testing.assert_close(one, two)


def test_is_odd_in_the_field(invert, case):
    torch.testing.assert_close(invert(-case.field, case.mask, case.grid), -invert(case.field, case.mask, case.grid))


def test_the_centre_frequency_of_a_scan_is_no_source(invert, case):
    here, far = (invert(case.field + shift, case.mask, case.grid, case.noise) for shift in (0.0, 0.5))
    assert (far - here).norm() < 1e-3 * here.norm()  # the shift costs the field some of its last digits


def test_a_batch_changes_nothing(invert, case):
    batch = torch.stack([case.field, 0.5 * case.field.flip(0)])[None]
    result = invert(batch, case.mask, case.grid)
    assert result.shape == batch.shape
    for got, field in zip(result[0], batch[0], strict=True):
        torch.testing.assert_close(got, invert(field, case.mask, case.grid), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("axes", [(1, 2, 0), (0, 2, 1)])
def test_turns_with_the_axes(invert, case, axes):
    turned = invert(case.field.permute(axes), case.mask.permute(axes), case.grid.permute(axes), case.noise.permute(axes))
    straight = invert(case.field, case.mask, case.grid, case.noise).permute(axes)
    torch.testing.assert_close(turned, straight, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("value", [5.0, torch.nan])
def test_what_lies_outside_the_mask_does_not_matter(invert, case, value):
    spoilt = torch.where(case.mask, case.field, value)
    torch.testing.assert_close(invert(spoilt, case.mask, case.grid), invert(case.field, case.mask, case.grid))


def test_no_number_inside_the_mask_is_refused(invert, case):
    place = tuple(case.mask.nonzero()[1000])
    field, noise = case.field.clone(), case.noise.clone()
    field[place] = noise[place] = torch.nan
    with pytest.raises(NonFiniteError, match="field is NaN or Inf in 1 voxels inside the mask"):
        invert(field, case.mask, case.grid)
    with pytest.raises(NonFiniteError, match="noise is NaN or Inf in 1 voxels inside the mask"):
        invert(case.field, case.mask, case.grid, noise)


def test_voxels_of_unknown_noise_do_not_count(invert, case):
    """Those without noise are unknown, as in every inversion, and not the surest of all."""
    wrong = torch.zeros_like(case.mask)
    wrong[:, :, case.mask.shape[2] // 2] = True
    field = torch.where(wrong & case.mask, case.field + 0.3, case.field)
    unknown = invert(field, case.mask, case.grid, torch.where(wrong, 0.0, case.noise))
    worthless = invert(field, case.mask, case.grid, torch.where(wrong, 1e4, case.noise))
    assert float((unknown - worthless).norm() / worthless.norm()) < 0.01


def test_a_rim_without_any_susceptibility_is_refused(invert, case):
    with pytest.raises(InputError, match="rim must be positive, got 0"):
        invert(case.field, case.mask, case.grid, case.noise, rim=0.0)


WRONG = dict.fromkeys(("weight", "curvature", "outside", "model_error"), (-1.0, torch.nan, torch.inf)) | dict.fromkeys(
    ("rim", "tol"), (-1.0, torch.nan)
)
WRONG |= dict.fromkeys(("rounds", "max_iter"), (0, -1)) | {"start": (-1,)}
KNOBS = [(name, knob, wrong) for name in METHODS for knob in WRONG if knob in load("singlestep", name).knobs for wrong in WRONG[knob]]


@pytest.mark.parametrize(("name", "knob", "wrong"), KNOBS)
def test_knobs_out_of_range_are_refused(name, knob, wrong, case):
    with pytest.raises(InputError, match=f"{knob} must be .*, got {wrong}"):
        load("singlestep", name).function(case.field, case.mask, case.grid, case.noise, **{knob: wrong})


def test_zero_gives_zero(invert, case):
    assert invert(torch.zeros_like(case.field), case.mask, case.grid).abs().max() == 0


def test_is_the_same_every_time_and_leaves_its_input_alone(invert, case):
    before = case.field.clone(), case.mask.clone(), case.noise.clone()
    assert torch.equal(invert(*case[2:]), invert(*case[2:]))
    for given, kept in zip((case.field, case.mask, case.noise), before, strict=True):
        assert torch.equal(given, kept)


def test_empty_mask_is_refused(invert, case):
    with pytest.raises(MaskError, match="empty"):
        invert(case.field, torch.zeros_like(case.mask), case.grid)


def test_shapes_that_do_not_fit_are_named(invert, case):
    with pytest.raises(GeometryError, match=r"mask has shape \(43, 41, 36\), but the grid \(44, 41, 36\)"):
        invert(case.field[1:], case.mask[1:], case.grid)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_noise_is_put_to_use(name, case):
    """A third of the volume is nearly useless; being told so must help in the rest."""
    noise = case.noise.clone()
    noise[29:] = 0.05
    noisy = case.field + case.mask * noise * torch.randn(noise.shape, generator=torch.Generator().manual_seed(3)) * (noise > 0.04)
    good = case.mask.clone()
    good[27:] = False
    alike = torch.ones_like(noise) / (1 / noise[case.mask]).mean()
    method = load("singlestep", name).function
    unaware, told = (agreement(method(noisy, case.mask, case.grid, n, model_error=0.0), case.chi, good)[1] for n in (alike, noise))
    assert told > unaware + 0.01


@pytest.mark.parametrize("name", ["tfi", "tgv"])
def test_progress_and_limits_are_told(name, case):
    told: list[int] = []
    with pytest.warns(ConvergenceWarning, match=f"{name} stopped after 3 iterations"):
        load("singlestep", name).function(
            case.field, case.mask, case.grid, start=20, max_iter=3, tol=1e-9, callback=lambda i, _: told.append(i)
        )
    assert told == [1, 2, 3]


@pytest.mark.parametrize("cut", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_mirrors_with_an_axis(invert, case, axis, cut):
    """Whether the mask has an even or an odd number of voxels along the axis: sources outside begin on a grid twice as coarse."""
    mask = case.mask.index_fill(axis, case.mask.nonzero()[:, axis].unique()[:cut], value=False)
    other = Grid(case.grid.shape, case.grid.voxel_size, tuple(-b if a == axis else b for a, b in enumerate(case.grid.b0_dir)))
    field, noise = case.field.double(), case.noise.double()
    straight = invert(field, mask, case.grid, noise)
    mirrored = invert(field.flip(axis), mask.flip(axis), other, noise.flip(axis)).flip(axis)
    assert float((mirrored - straight).norm() / straight.norm()) < 1e-6


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_generalised_variation_mirrors_with_an_axis(axis):
    """Slopes lie between voxels: their changes must lie where no side is preferred."""
    grid, generator = Grid((9, 8, 7), (1.0, 1.2, 1.5)), torch.Generator().manual_seed(2)
    mask = torch.rand(grid.shape, generator=generator) < 0.8
    image = torch.randn(grid.shape, generator=generator, dtype=torch.float64)
    pulls = []
    for inside, x in ((mask, image), (mask.flip(axis), image.flip(axis))):
        slopes = GeneralisedVariation(grid, [0.3 * edge.double() for edge in edges(inside)], 0.2 * inside.double(), 1.0)
        for _ in range(6):
            pull = slopes.step(x)
        pulls.append(pull)
    torch.testing.assert_close(pulls[1].flip(axis), pulls[0])


def dense(grid, mask):
    """Gradients, symmetric derivatives and dipole as matrices."""
    n = mask.numel()
    units = torch.eye(n, dtype=torch.float64).reshape(n, *grid.shape)
    forward = [torch.stack([((u.roll(-1, a) - u) / s).flatten() for u in units], 1) for a, s in enumerate(grid.voxel_size)]
    dipole = Dipole(grid).double()
    return forward, torch.stack([dipole(u).flatten() for u in units], 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tfi", "tgv"])
def test_ends_where_scipy_finds_no_lower_value_of_the_functional_on_matrices(kind):
    """Independent: the functional on dense matrices, and L-BFGS with |x| smoothed, from zero and from where the iteration ended."""
    from scipy.optimize import minimize

    grid = Grid((6, 5, 8), (1.0, 1.2, 1.5), (0.2, -0.3, 0.93))
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(grid.shape, dtype=torch.bool)  # free sources outside would leave the end point open
    chi = mask * torch.randn(grid.shape, generator=generator, dtype=torch.float64)
    field = Dipole(grid).double()(chi) * mask
    w, bend, rho = 2e-4, 3e-4, 0.05
    limits = [e.double() * (w / rho) for e in edges(mask)]
    window = Window((slice(0, 6), slice(0, 5), slice(0, 8)), grid.shape, grid, mask)
    slopes = Variation(grid, limits) if kind == "tfi" else GeneralisedVariation(grid, limits, mask.double() * (bend / rho), 1.0)
    total = Split(window, torch.full_like(field, 0.01), 0.1)
    got = total.refine(field, torch.zeros_like(field), slopes, max_iter=1500, tol=0.0, callback=None).x
    assert got[mask].std() > 0.1  # the penalties are felt and leave something to be seen
    forward, dipole = dense(grid, mask)
    inside, keep = mask.flatten(), [e.flatten() for e in edges(mask)]
    n = inside.numel()

    def value(point, smooth=0.0):
        x, v = point[:n], point[n:].reshape(3, n) if kind == "tgv" else torch.zeros(3, n, dtype=torch.float64)

        def size(t):
            return (t.square() + smooth**2).sqrt().sum()

        energy = 0.5 * (dipole @ x - field.flatten())[inside].square().sum()
        energy = energy + 0.5 * (total.decay.flatten() * x.square()).sum()
        energy = energy + w * sum(size((f @ x - s)[k]) for f, s, k in zip(forward, v, keep, strict=True))
        for a, b in [(a, b) for a in range(3) for b in range(3) if kind == "tgv"]:  # at voxels along an axis, at corners across two
            change = -forward[a].T @ v[a] if a == b else 0.5 * (forward[a] @ v[b] + forward[b] @ v[a])
            energy = energy + bend * size(change[inside])
        return energy

    def objective(point):
        point = torch.from_numpy(point).requires_grad_()
        energy = value(point, 1e-5)
        (slope,) = torch.autograd.grad(energy, point)
        return float(energy.detach()), slope.numpy()

    end = torch.cat([got.flatten(), *(s.flatten() for s in (slopes.slopes if kind == "tgv" else []))])
    reached = float(value(end))
    assert reached < 0.9 * float(value(torch.zeros_like(end)))
    for start in (torch.zeros_like(end), end):
        best = minimize(objective, start.numpy(), jac=True, method="L-BFGS-B", options={"maxiter": 400})
        assert reached < 1.01 * float(value(torch.from_numpy(best.x)))
