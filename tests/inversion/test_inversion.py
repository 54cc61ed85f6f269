"""What every inversion keeps."""

import inspect
import sys
import warnings
from typing import NamedTuple

import pytest
import torch

from paradia.errors import ConvergenceWarning, GeometryError, InputError, MaskError, NonFiniteError
from paradia.grid import Grid
from paradia.inversion._splitting import Frame
from paradia.operators.dipole import Dipole
from paradia.registry import load, methods

APART = ("cosmos", "varnet")
"""One needs several fields, the other is a network: the laws that they keep are in test_cosmos.py and tests/nets."""
METHODS = tuple(name for name in methods("inversion") if name not in APART)
BOUNDS = {  # |slope - 1|, correlation, |bias| in ppm: a little looser than what is reached
    "tkd": (0.1, 0.85, 0.01),
    "rts": (0.35, 0.9, 0.01),
    "tv": (0.12, 0.98, 0.01),
    "tsvd": (0.1, 0.85, 0.01),
    "tikhonov": (0.3, 0.9, 0.01),
    "ilsqr": (0.35, 0.88, 0.01),
    "ndi": (0.3, 0.87, 0.01),
    "l1bayes": (0.05, 0.985, 0.01),
    "l1": (0.05, 0.985, 0.01),
    "fansi": (0.06, 0.99, 0.01),
    "nltv": (0.05, 0.99, 0.01),
    "hdqsm": (0.1, 0.985, 0.01),
    "whqsm": (0.06, 0.99, 0.01),
    "medi": (0.06, 0.99, 0.01),
}


WRONG = {  # beside 0, −1 and NaN, or instead of them
    "threshold": (0.0, -0.1, 2 / 3, torch.nan),
    "cone": (-0.1, 0.7, torch.nan),
    "edges": (-0.1, 1.0, torch.nan),
    "csf": (-1.0, torch.nan),
    "reach": (torch.nan, torch.inf),
    ("ilsqr", "weight"): (-1.0, torch.nan),
    "tol": (-1.0, torch.nan),
}


class Case(NamedTuple):
    chi: torch.Tensor
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
    """Nuclei, a vein and a cyst in an ellipsoid, their true field, and a noise map that trebles towards one side."""
    grid = Grid((48, 45, 40), (1.0, 1.2, 1.5), (0.2, -0.3, 0.93))
    generator = torch.Generator().manual_seed(7)
    mask = ball(grid, (0.5, 0.5, 0.5), (0.42, 0.41, 0.42))
    chi = torch.zeros(grid.shape)
    chi[ball(grid, (0.5, 0.5, 0.5), (0.3, 0.28, 0.3))] = -0.03
    chi[ball(grid, (0.36, 0.5, 0.5), (0.08, 0.12, 0.1))] = 0.12
    chi[ball(grid, (0.64, 0.45, 0.55), (0.09, 0.1, 0.08))] = 0.18
    chi[ball(grid, (0.5, 0.7, 0.35), (0.07, 0.07, 0.06))] = -0.1
    chi[22:24, 10:34, 28:30] = 0.3
    chi *= mask
    noise = (0.001 * (1 + 2 * torch.linspace(0, 1, 48)))[:, None, None].expand(grid.shape).contiguous()
    field = Dipole(grid, padding=2)(chi) + noise * torch.randn(grid.shape, generator=generator)
    return Case(chi, field * mask, mask, grid, noise)


@pytest.fixture(params=METHODS)
def invert(request):
    return load("inversion", request.param).function


def agreement(result, truth, mask):
    """Return slope and correlation of the result over the truth, and the difference of their means."""
    a, b = result[mask].double(), truth[mask].double()
    bias = float((a - b).mean())
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / b.square().sum()), float((a * b).sum() / (a.norm() * b.norm())), bias


def test_all_methods_have_bounds():
    assert set(METHODS) == set(BOUNDS)


FREE = ("tv", "nltv", "fansi", "l1", "hdqsm", "medi", "l1bayes", "whqsm", "ndi", "ilsqr")
"""What takes a field for known but for a constant."""


@pytest.mark.parametrize("constant", [0.004, -0.4])
@pytest.mark.parametrize("name", FREE)
def test_a_constant_of_the_field_is_no_source(name, constant, case):
    """Background removals leave a part per billion or two; a field of another program may have any."""
    function = load("inversion", name).function
    chi = function(case.field, case.mask, case.grid, case.noise)
    lifted = function(case.field + constant * case.mask, case.mask, case.grid, case.noise)
    apart = (lifted - chi)[case.mask]
    assert float((apart - apart.mean()).norm() / chi[case.mask].norm()) < 1e-3


@pytest.mark.filterwarnings("ignore::paradia.errors.ConvergenceWarning")  # of what is next to nothing
@pytest.mark.parametrize("name", FREE)
@pytest.mark.parametrize("alone", [False, True])
def test_a_field_that_is_a_constant_has_no_source(name, alone, case):
    """In the whole mask, or in one of a single voxel."""
    mask = torch.zeros_like(case.mask)
    mask[20, 20, 20] = True
    mask = mask if alone else case.mask
    chi = load("inversion", name).function(0.01 * mask, mask, case.grid)
    assert chi.abs().max() < 1e-4


@pytest.mark.parametrize("unknown", [torch.nan, torch.inf, 0.0])
@pytest.mark.parametrize("name", ["tv", "l1", "hdqsm", "medi", "whqsm"])
def test_unknown_noise_tells_no_level(name, unknown, case):
    """In more than half of the mask: the level is that of the other voxels, and χ is a number everywhere."""
    noise = case.noise.clone()
    noise[:27] = unknown
    frame = Frame.around(case.field, case.mask, case.grid, noise)
    assert frame.noise == pytest.approx(float(case.noise[27:][case.mask[27:]].median()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # half of the field is not looked at
        assert load("inversion", name).function(case.field, case.mask, case.grid, noise).isfinite().all()


@pytest.mark.parametrize("name", ["fansi", "medi", "whqsm", "l1", "hdqsm", "tv", "nltv"])
@pytest.mark.parametrize("strength", [-1.0, 1.0])
def test_a_haemorrhage_or_calcification_is_found_whole(name, strength, case):
    """Five hundred times the noise, and no scan that tells of turns: nothing is taken for wrapped, and nothing for a wrong voxel."""
    spot = ball(case.grid, (0.45, 0.3, 0.6), (0.05, 0.05, 0.06))
    assert spot.sum() > 30
    field = case.field + Dipole(case.grid, padding=2)(strength * spot) * case.mask
    chi = load("inversion", name).function(field, case.mask, case.grid, case.noise)
    chi = chi - chi[case.mask].mean()
    assert float(chi[spot].mean()) == pytest.approx(strength, rel=0.1)
    assert (chi - case.chi)[case.mask & ~spot].std() < 0.04


@pytest.mark.parametrize("name", METHODS)
def test_recovers_the_truth(name, case):
    chi = load("inversion", name).function(case.field, case.mask, case.grid)
    slope, correlation, bias = agreement(chi, case.chi, case.mask)
    slope_off, least, bias_off = BOUNDS[name]
    assert abs(slope - 1) < slope_off, slope
    assert correlation > least, correlation
    assert abs(bias) < bias_off, bias


def test_keeps_shape_precision_and_mask(invert, case):
    chi = invert(case.field, case.mask, case.grid)
    assert chi.shape == case.field.shape
    assert chi.dtype == torch.float32
    assert chi[~case.mask].abs().max() == 0
    assert invert(case.field.double(), case.mask, case.grid).dtype == torch.float64


def test_is_odd_in_the_field(invert, case):
    torch.testing.assert_close(invert(-case.field, case.mask, case.grid), -invert(case.field, case.mask, case.grid))


def test_a_batch_changes_nothing(invert, case):
    batch = torch.stack([case.field, 0.5 * case.field.flip(0)])[None]
    result = invert(batch, case.mask, case.grid)
    assert result.shape == batch.shape
    for got, field in zip(result[0], batch[0], strict=True):
        torch.testing.assert_close(got, invert(field, case.mask, case.grid), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("axes", [(1, 2, 0), (0, 2, 1)])
def test_turns_with_the_axes(invert, case, axes):
    turned = invert(case.field.permute(axes), case.mask.permute(axes), case.grid.permute(axes))
    torch.testing.assert_close(turned, invert(case.field, case.mask, case.grid).permute(axes), rtol=1e-3, atol=1e-5)


STOPPING = [name for name in METHODS if "callback" in inspect.signature(load("inversion", name).function).parameters]


@pytest.mark.parametrize("name", STOPPING)
@pytest.mark.filterwarnings("ignore::paradia.errors.ConvergenceWarning")
def test_where_it_stops_does_not_depend_on_the_axes(name, case):
    """Half spectra leave out half of another axis then."""
    said = []
    for axes in ((0, 1, 2), (1, 2, 0)):
        heard = []
        load("inversion", name).function(
            *(image.permute(axes) for image in (case.field, case.mask)),
            case.grid.permute(axes),
            max_iter=6,
            tol=1e-9,
            callback=lambda _, change, heard=heard: heard.append(change),
        )
        said.append(torch.tensor(heard))
    torch.testing.assert_close(*said, rtol=1e-3, atol=0)


def test_what_lies_outside_the_mask_does_not_matter(invert, case):
    spoilt = torch.where(case.mask, case.field, 5.0)
    torch.testing.assert_close(invert(spoilt, case.mask, case.grid), invert(case.field, case.mask, case.grid))


def test_no_number_outside_the_mask_does_not_matter(invert, case):
    asked = inspect.signature(invert).parameters
    maps = {"noise": case.noise, "magnitude": torch.stack([1 - 100 * case.noise] * 2), "r2star": 1e4 * case.noise}
    rest = {name: image for name, image in maps.items() if name in asked}
    broken = {name: torch.where(case.mask, image, torch.nan) for name, image in rest.items()}
    told = invert(torch.where(case.mask, case.field, torch.nan), case.mask, case.grid, **broken)
    assert bool(told.isfinite().all())
    if "magnitude" not in rest:  # what the magnitude is next to the mask may count
        torch.testing.assert_close(told, invert(case.field, case.mask, case.grid, **rest))


@pytest.mark.parametrize("axis", [0, 2])
@pytest.mark.parametrize(("name", "knobs"), [*((name, {}) for name in METHODS), ("fansi", {"regulariser": "tgv"})])
def test_mirrors_with_an_axis(name, knobs, axis, case):
    box = (slice(10, 30), slice(12, 33), slice(10, 28))
    field, mask = case.field[box], case.mask[box].clone()
    mask[:3, :4, :5] = mask[-2:, 3:, 6:] = False  # no two sides alike
    b0_dir = tuple(-b if a == axis else b for a, b in enumerate(case.grid.b0_dir))
    grids = Grid(mask.shape, case.grid.voxel_size, case.grid.b0_dir), Grid(mask.shape, case.grid.voxel_size, b0_dir)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        invert = load("inversion", name).function
        straight = invert(field, mask, grids[0], **knobs)
        mirrored = invert(field.flip(axis), mask.flip(axis), grids[1], **knobs).flip(axis)
    assert float((mirrored - straight).norm() / straight.norm()) < (0.01 if name == "ilsqr" else 1e-4)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_no_number_inside_the_mask_is_refused(invert, case, value):
    broken = case.field.clone()
    broken[24, 22, 20] = value
    with pytest.raises(NonFiniteError, match="local_field is NaN or Inf in 1 voxels inside the mask"):
        invert(broken, case.mask, case.grid)


def test_noise_that_is_known_nowhere_is_no_noise_map(invert, case):
    if "noise" in inspect.signature(invert).parameters:
        told = invert(case.field, case.mask, case.grid, torch.zeros_like(case.field))
        torch.testing.assert_close(told, invert(case.field, case.mask, case.grid))


def knobs_out_of_range():
    """Every knob that is a number, at values that make no sense."""
    for name in METHODS:
        for knob, value in load("inversion", name).knobs.items():
            if isinstance(value, float):
                yield from ((name, knob, wrong) for wrong in WRONG.get((name, knob), WRONG.get(knob, (0.0, -1.0, torch.nan))))
            elif isinstance(value, int) and not isinstance(value, bool):
                yield from ((name, knob, wrong) for wrong in (0, -1))


@pytest.mark.parametrize(("name", "knob", "wrong"), list(knobs_out_of_range()))
def test_knobs_out_of_range_are_refused(name, knob, wrong, case):
    with pytest.raises(InputError, match=knob):
        load("inversion", name).function(case.field, case.mask, case.grid, **{knob: wrong})


def test_zero_gives_zero(invert, case):
    assert invert(torch.zeros_like(case.field), case.mask, case.grid).abs().max() == 0


def test_is_the_same_every_time(invert, case):
    assert torch.equal(invert(case.field, case.mask, case.grid), invert(case.field, case.mask, case.grid))


def test_the_input_is_left_alone(invert, case):
    before = case.field.clone(), case.mask.clone()
    invert(case.field, case.mask, case.grid)
    assert torch.equal(case.field, before[0])
    assert torch.equal(case.mask, before[1])


def test_empty_mask_is_refused(invert, case):
    with pytest.raises(MaskError, match="empty"):
        invert(case.field, torch.zeros_like(case.mask), case.grid)


@pytest.mark.filterwarnings("ignore::paradia.errors.ConvergenceWarning")
@pytest.mark.parametrize("slices", [1, 2, 3])
def test_few_thick_slices_are_inverted_too(invert, slices, case):
    """Spheres and margins of a few voxels still fit in beside them."""
    grid = Grid((24, 22, slices), (4.0, 4.5, 5.0), case.grid.b0_dir)
    field, mask = case.field[10:34, 10:32, 18 : 18 + slices], case.mask[10:34, 10:32, 18 : 18 + slices]
    chi = invert(field, mask, grid)
    assert chi.isfinite().all()
    assert 0 < chi.abs().max() < 2


def test_shapes_that_do_not_fit_are_named(invert, case):
    with pytest.raises(GeometryError, match=r"mask has shape \(47, 45, 40\), but the grid \(48, 45, 40\)"):
        invert(case.field[1:], case.mask[1:], case.grid)


def test_noise_is_put_to_use(case):
    """A third of the volume is nearly useless; being told so must help."""
    tv = load("inversion", "tv").function
    noise = case.noise.clone()
    noise[30:] = 0.05
    noisy = case.field + case.mask * noise * torch.randn(noise.shape, generator=torch.Generator().manual_seed(3)) * (noise > 0.04)
    good = case.mask.clone()
    good[28:] = False
    plain, told = (agreement(tv(noisy, case.mask, case.grid, n), case.chi, good)[1] for n in (None, noise))
    assert told > plain
    lower, lowest = (tv(noisy, case.mask, case.grid, share * noise) for share in (0.1, 0.01))  # below what the field itself tells
    torch.testing.assert_close(lower, lowest, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["rts", "tv"])
def test_progress_and_limits_are_told(name, case):
    told: list[int] = []
    with pytest.warns(ConvergenceWarning, match=f"{name} stopped after 3 iterations"):
        load("inversion", name).function(case.field, case.mask, case.grid, max_iter=3, callback=lambda i, _: told.append(i))
    assert told == [1, 2, 3]


@pytest.mark.slow
def test_tv_ends_where_the_functional_is_least(case, monkeypatch):
    """Run long, it ends at one place, whatever the penalties of the splitting."""
    tv = load("inversion", "tv").function
    a = tv(case.field, case.mask, case.grid, tol=2e-4, max_iter=1500)
    monkeypatch.setattr(sys.modules[tv.__module__], "COUPLING", 0.6)
    monkeypatch.setattr(sys.modules[tv.__module__], "SLOPE", 1.5)
    b = tv(case.field, case.mask, case.grid, tol=2e-4, max_iter=1500)
    assert (a - b)[case.mask].norm() < 0.03 * a[case.mask].norm()


@pytest.mark.parametrize("name", ["tkd", "tv"])
def test_can_be_differentiated(name, case, monkeypatch):
    """Gradients are those of the weights that the field itself asks for, held still."""
    frame = Frame.around(case.field, case.mask, case.grid, None)
    scale = frame.scale(frame.window.take(case.field.double()))
    monkeypatch.setattr(Frame, "scale", lambda *_: scale)
    method, knobs = load("inversion", name).function, {} if name == "tkd" else {"max_iter": 8, "tol": 1e-12}

    def energy(field):
        return method(field, case.mask, case.grid, **knobs).square().sum()

    field = case.field.double().requires_grad_()
    direction = torch.sin(torch.arange(field.numel()).reshape(field.shape) * 0.1).double() * case.mask
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        (gradient,) = torch.autograd.grad(energy(field), field)
        ahead, behind = (float(energy(case.field.double() + s * 1e-9 * direction)) for s in (1, -1))
    torch.testing.assert_close(float((gradient * direction).sum()), (ahead - behind) / 2e-9, rtol=0.02, atol=1e-4)


def test_a_gradient_reaches_the_field(invert, case):
    """Priors, trust and weights that are learnt on the way count as given; the rest can be differentiated."""
    box = (slice(10, 30), slice(12, 33), slice(10, 28))
    field, mask = case.field[box].clone().requires_grad_(), case.mask[box]
    optional = {"magnitude": 1 - 100 * case.noise[box].expand(2, *mask.shape), "r2star": 1e4 * case.noise[box]}
    given = {name: image for name, image in optional.items() if name in inspect.signature(invert).parameters}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        invert(field, mask, case.grid.with_shape(mask.shape), **given).square().sum().backward()
    assert field.grad is not None
    assert bool(field.grad.isfinite().all())
    assert float(field.grad.abs().mean()) > 0
