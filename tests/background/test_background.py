"""What every background removal keeps."""

import math
from inspect import signature
from typing import NamedTuple

import numpy as np
import pytest
import torch

from paradia.errors import ConvergenceWarning, GeometryError, InputError, MaskError, NonFiniteError
from paradia.fft import Window
from paradia.grid import Grid
from paradia.operators.dipole import Dipole
from paradia.registry import load, methods
from paradia.scan import Scan
from paradia.simulate.head import head

METHODS = tuple(name for name in methods("background") if "total_field" in load("background", name).needs and name != "bgnet")
"""Those that start from a field; one that starts from phases is tested apart, and so are networks (tests/nets)."""
BOUNDS = {  # |slope - 1|, correlation, |bias| in ppm, share of the background that is left: a little looser than reached
    "sharp": (0.15, 0.8, 0.001, 0.06),
    "vsharp": (0.25, 0.45, 0.001, 0.15),
    "resharp": (0.25, 0.79, 0.001, 0.05),
    "ismv": (0.2, 0.77, 0.0015, 0.055),
    "lbv": (0.2, 0.8, 0.0015, 0.055),
    "pdf": (0.35, 0.78, 0.001, 0.03),
    "joint": (0.25, 0.84, 0.001, 0.03),
}  # voxels of 3 mm are hard on spheres: beside the sinuses the field changes from one voxel to the next


class Case(NamedTuple):
    local: torch.Tensor
    background: torch.Tensor
    total: torch.Tensor
    mask: torch.Tensor
    grid: Grid
    noise: torch.Tensor


def simulate(grid):
    """Sinuses make a background far larger than the local field."""
    truth = head(grid, seed=1)
    mask = truth.mask
    local, background = truth.local_field * mask, (truth.total_field - truth.local_field) * mask
    noise = 0.001 * mask
    total = (local + background) + noise * torch.randn(grid.shape, generator=torch.Generator().manual_seed(7))
    return Case(local, background, total, mask, grid, noise)


@pytest.fixture(scope="module")
def fine():
    """Fine enough to judge the result."""
    return simulate(Grid((62, 75, 54), (2.7, 2.6, 3.0), (0.2, -0.3, 0.93)))


@pytest.fixture(scope="module")
def case():
    """Just enough for the laws that hold on any grid."""
    return simulate(Grid((38, 45, 36), (4.4, 4.4, 4.6), (0.2, -0.3, 0.93)))


@pytest.fixture(params=METHODS)
def remove(request):
    return load("background", request.param).function


def agreement(result, truth, mask):
    """Return slope and correlation of the result over the truth, and the difference of their means."""
    a, b = result[mask].double(), truth[mask].double()
    bias = float((a - b).mean())
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / b.square().sum()), float((a * b).sum() / (a.norm() * b.norm())), bias


def test_all_methods_have_bounds():
    assert set(METHODS) == set(BOUNDS)


@pytest.mark.parametrize("name", METHODS)
def test_recovers_the_truth(name, fine):
    assert fine.background[fine.mask].std() > 10 * fine.local[fine.mask].std()
    local, mask = load("background", name).function(fine.total, fine.mask, fine.grid)
    slope, correlation, bias = agreement(local, fine.local, mask)
    slope_off, least, bias_off, _ = BOUNDS[name]
    assert abs(slope - 1) < slope_off, slope
    assert correlation > least, correlation
    assert abs(bias) < bias_off, bias


@pytest.mark.parametrize("name", METHODS)
def test_harmonic_fields_vanish(name, fine):
    local, mask = load("background", name).function(fine.background, fine.mask, fine.grid)
    assert local[mask].std() < BOUNDS[name][3] * fine.background[mask].std()


def test_keeps_shape_precision_and_mask(remove, case):
    local, mask = remove(case.total, case.mask, case.grid)
    assert local.shape == case.total.shape
    assert local.dtype == torch.float32
    assert local[~mask].abs().max() == 0
    assert mask.dtype == torch.bool
    assert not (mask & ~case.mask).any()
    assert mask.sum() > 0.3 * case.mask.sum()
    assert remove(case.total.double(), case.mask, case.grid).local_field.dtype == torch.float64


@pytest.mark.parametrize("name", [name for name in METHODS if "noise" in load("background", name).takes])
def test_a_noise_of_another_precision_takes_that_of_the_field(name, case):
    noise = torch.linspace(0.001, 0.003, case.grid.shape[0])[:, None, None].expand(case.grid.shape)
    one, two = (load("background", name).function(case.total, case.mask, case.grid, given).local_field for given in (noise, noise.double()))
    assert two.dtype == torch.float32
    torch.testing.assert_close(one, two)


def test_is_odd_in_the_field(remove, case):
    plus, minus = (remove(s * case.total, case.mask, case.grid).local_field for s in (1, -1))
    torch.testing.assert_close(minus, -plus)


@pytest.mark.parametrize("name", ["joint", "pdf"])
def test_the_centre_frequency_of_a_scan_is_no_background(name, case):
    """Left in, sources on the mask's edge and beyond would be fitted to it."""
    remove = load("background", name).function
    here, far = (remove(case.total + shift, case.mask, case.grid, case.noise).local_field for shift in (0.0, 0.5))
    assert (far - here).norm() < 1e-3 * here.norm()  # the shift costs the field some of its last digits


def test_a_batch_changes_nothing(remove, case):
    batch = torch.stack([case.total, 0.5 * case.background])[None]
    result = remove(batch, case.mask, case.grid)
    assert result.local_field.shape == batch.shape
    for got, field in zip(result.local_field[0], batch[0], strict=True):
        torch.testing.assert_close(got, remove(field, case.mask, case.grid).local_field, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::paradia.errors.ConvergenceWarning")
@pytest.mark.parametrize("axes", [(1, 2, 0), (0, 2, 1)])
def test_turns_with_the_axes(remove, case, axes):
    """To the last digits, as long as the bidiagonalisation has not yet lost its orthogonality to rounding."""
    known = signature(remove).parameters
    short = {knob: value for knob, value in {"start": 30, "rounds": 2, "max_iter": 5 if "rounds" in known else 30}.items() if knob in known}
    total = case.total.double()
    turned = remove(total.permute(axes), case.mask.permute(axes), case.grid.permute(axes), **short)
    straight = remove(total, case.mask, case.grid, **short)
    assert torch.equal(turned.mask, straight.mask.permute(axes))
    torch.testing.assert_close(turned.local_field, straight.local_field.permute(axes), rtol=1e-9, atol=1e-11)


@pytest.mark.filterwarnings("ignore::paradia.errors.ConvergenceWarning")
@pytest.mark.parametrize("cut", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_mirrors_with_an_axis(remove, case, axis, cut):
    """Whether the mask has an even or an odd number of voxels along the axis."""
    known = signature(remove).parameters
    short = {knob: value for knob, value in {"start": 20, "rounds": 2, "max_iter": 5 if "rounds" in known else 20}.items() if knob in known}
    mask = case.mask.index_fill(axis, case.mask.nonzero()[:, axis].unique()[:cut], value=False)
    other = Grid(case.grid.shape, case.grid.voxel_size, tuple(-b if a == axis else b for a, b in enumerate(case.grid.b0_dir)))
    total = case.total.double()
    straight = remove(total, mask, case.grid, **short)
    mirrored = remove(total.flip(axis), mask.flip(axis), other, **short)
    assert torch.equal(mirrored.mask.flip(axis), straight.mask)
    assert float((mirrored.local_field.flip(axis) - straight.local_field).norm() / straight.local_field.norm()) < 1e-6


def test_where_it_stops_does_not_depend_on_the_axes(remove, case):
    """As long as least squares keep their steps orthogonal: turned fits of `joint` are the same to 1e-11 after 40 iterations of the start.
    After 60 they differ by 4e-5 ppm, after its usual 80 by up to 2e-4, as rounding goes, which is no question of where it stops."""
    axes, total = (1, 2, 0), case.total.double()
    known = {"start": 40} if "start" in signature(remove).parameters else {}
    turned = remove(total.permute(axes), case.mask.permute(axes), case.grid.permute(axes), **known)
    straight = remove(total, case.mask, case.grid, **known)
    assert torch.equal(turned.mask, straight.mask.permute(axes))
    torch.testing.assert_close(turned.local_field, straight.local_field.permute(axes), rtol=0, atol=1e-5)


@pytest.mark.parametrize("value", [5.0, torch.nan])
def test_what_lies_outside_the_mask_does_not_matter(remove, case, value):
    spoilt = torch.where(case.mask, case.total, value)
    result = remove(spoilt, case.mask, case.grid).local_field
    torch.testing.assert_close(result, remove(case.total, case.mask, case.grid).local_field)


def test_no_number_inside_the_mask_is_refused(remove, case):
    broken = case.total.clone()
    broken[tuple(case.mask.nonzero()[1000])] = torch.nan
    with pytest.raises(NonFiniteError, match="NaN or Inf in"):
        remove(broken, case.mask, case.grid)


def test_zero_gives_zero(remove, case):
    assert remove(torch.zeros_like(case.total), case.mask, case.grid).local_field.abs().max() == 0


def test_is_the_same_every_time(remove, case):
    a, b = (remove(case.total, case.mask, case.grid) for _ in range(2))
    assert torch.equal(a.local_field, b.local_field)


def test_the_input_is_left_alone(remove, case):
    before = case.total.clone(), case.mask.clone()
    remove(case.total, case.mask, case.grid)
    assert torch.equal(case.total, before[0])
    assert torch.equal(case.mask, before[1])


def test_empty_mask_is_refused(remove, case):
    with pytest.raises(MaskError, match="empty"):
        remove(case.total, torch.zeros_like(case.mask), case.grid)


def test_shapes_that_do_not_fit_are_named(remove, case):
    with pytest.raises(GeometryError, match=r"mask has shape \(37, 45, 36\), but the grid \(38, 45, 36\)"):
        remove(case.total[1:], case.mask[1:], case.grid)


def test_mask_too_thin_for_any_sphere(case):
    thin = torch.zeros_like(case.mask)
    thin[20] = True  # one slice
    with pytest.raises(MaskError, match="fits into the mask"):
        load("background", "vsharp").function(case.total, thin, case.grid)


@pytest.mark.parametrize(
    ("name", "knob", "data"),
    [("vsharp", "step", "field"), ("resharp", "weight", "field"), ("harperella", "weight", "phase"), ("joint", "rim", "field")],
)
def test_knobs_that_must_be_above_zero(name, knob, data, case):
    given = (case.total,) if data == "field" else (case.total[None],)
    scan = (Scan((0.004,), 3.0),) if data == "phase" else ()
    with pytest.raises(InputError, match=f"{knob} must be (a )?positive.*, got 0"):
        load("background", name).function(*given, case.mask, case.grid, *scan, **{knob: 0.0})


OUT_OF_RANGE = {
    ("sharp", "radius"): (-1.0, math.nan, math.inf),
    ("sharp", "threshold"): (-1.0, 1.0, math.nan),
    ("vsharp", "radius"): (-1.0, math.nan, math.inf),
    ("vsharp", "radius_min"): (-1.0, math.nan, math.inf),
    ("vsharp", "step"): (0.0, -1.0, math.nan, math.inf),
    ("vsharp", "threshold"): (-1.0, 1.0, math.nan),
    ("resharp", "radius"): (-1.0, math.nan, math.inf),
    ("resharp", "weight"): (0.0, -1.0, math.nan, math.inf),
    ("ismv", "radius"): (-1.0, math.nan, math.inf),
    ("ismv", "radius_min"): (-1.0, math.nan, math.inf),
    ("lbv", "peel"): (-1.0, math.nan, math.inf),
    ("pdf", "margin"): (-1.0, math.nan, math.inf),
    ("pdf", "model_error"): (-1.0, math.nan, math.inf),
    ("joint", "weight"): (0.0, -1.0, math.nan, math.inf),
    ("joint", "rim"): (0.0, -1.0, math.nan),
    ("joint", "model_error"): (-1.0, math.nan, math.inf),
    ("joint", "start"): (-1,),
    ("joint", "rounds"): (0, -1),
    ("joint", "max_iter"): (0, -1),
    **{(name, "max_iter"): (0, -1) for name in ("pdf", "lbv", "ismv", "resharp")},
    **{(name, "tol"): (-1.0, math.nan) for name in ("pdf", "lbv", "ismv", "resharp")},
}


@pytest.mark.parametrize(("name", "knob", "wrong"), [(*key, wrong) for key, values in OUT_OF_RANGE.items() for wrong in values])
def test_knobs_out_of_range_are_refused(name, knob, wrong, case):
    with pytest.raises(InputError, match=f"{knob} must .*, got {wrong}"):
        load("background", name).function(case.total, case.mask, case.grid, **{knob: wrong})


def test_vsharp_with_a_largest_sphere_below_its_smallest_is_that_with_the_smallest_alone(case):
    """A sphere of a single voxel would leave nothing of any field."""
    vsharp = load("background", "vsharp").function
    small, alone = (vsharp(case.total, case.mask, case.grid, radius=radius) for radius in (1.0, 1.5 * max(case.grid.voxel_size)))
    assert small.local_field.abs().max() > 0
    assert torch.equal(small.local_field, alone.local_field)


def test_vsharp_takes_harmonic_cubics_away_to_the_last_digits(case):
    """No sphere reaches outside the mask, and its mean keeps harmonic polynomials of third degree."""
    x, y, z = torch.meshgrid(
        *[(torch.arange(n, dtype=torch.float64) - n / 2) * d for n, d in zip(case.grid.shape, case.grid.voxel_size, strict=True)],
        indexing="ij",
    )
    harmonic = 1 + 0.01 * x - 0.02 * y + 1e-3 * (x * y + y * z + x**2 + y**2 - 2 * z**2) + 1e-5 * (x**3 - 3 * x * y**2)
    local, mask = load("background", "vsharp").function(torch.where(case.mask, harmonic, 1e3), case.mask, case.grid)
    assert mask.sum() > 0.5 * case.mask.sum()
    assert local.abs().max() < 1e-11 * harmonic[case.mask].abs().max()


def test_vsharp_at_the_end_of_the_field_of_view(case):
    """Beyond the volume all is outside: a mask that fills it leaves the same as one with a rim."""
    vsharp = load("background", "vsharp").function
    full = torch.ones_like(case.mask)
    wide = torch.nn.functional.pad(full, (2,) * 6)
    field = case.total.double() + 1
    kept = vsharp(field, full, case.grid).mask
    apart = vsharp(torch.nn.functional.pad(field, (2,) * 6, value=9.0), wide, case.grid.with_shape(wide.shape)).mask
    assert not kept[0].any()
    assert torch.equal(kept, apart[2:-2, 2:-2, 2:-2])


def test_vsharp_gives_up_no_more_than_its_smallest_sphere(fine):
    vsharp = load("background", "vsharp").function
    kept = [int(vsharp(fine.total, fine.mask, fine.grid, radius_min=r).mask.sum()) for r in (2.5, 5.0, 8.0)]
    assert kept[0] > kept[1] > kept[2] > 0


def test_sources_inside_keep_the_local_field(fine):
    """What the joint fit is for: much closer to the truth at the edge than sources outside alone."""
    errors = {}
    for name in ("pdf", "joint"):
        local, mask = load("background", name).function(fine.total, fine.mask, fine.grid, fine.noise)
        errors[name] = float((local - fine.local)[mask].norm())
    assert errors["joint"] < 0.9 * errors["pdf"]


@pytest.mark.filterwarnings("ignore::paradia.errors.ConvergenceWarning")
@pytest.mark.parametrize("name", ["pdf", "joint"])
def test_noise_is_put_to_use(name, fine):
    method = load("background", name).function
    noise = fine.noise.clone()
    noise[24:] = 0.3
    noisy = fine.total + torch.where(noise > 0.1, noise, 0.0) * fine.mask * torch.randn(
        noise.shape, generator=torch.Generator().manual_seed(3)
    )
    good = fine.mask.clone()
    good[22:] = False
    plain, told = ((method(noisy, fine.mask, fine.grid, n).local_field - fine.local)[good].std() for n in (None, noise))
    assert told < plain


def test_progress_and_limits_are_told(case):
    told: list[int] = []
    with pytest.warns(ConvergenceWarning, match="pdf stopped after 3 iterations"):
        load("background", "pdf").function(case.total, case.mask, case.grid, max_iter=3, callback=lambda i, _: told.append(i))
    assert told == [1, 2, 3]


def test_joint_tells_its_progress_over_all_rounds(case):
    told: list[int] = []
    joint = load("background", "joint").function
    joint(case.total, case.mask, case.grid, start=5, rounds=2, max_iter=3, callback=lambda i, _: told.append(i))
    assert told == [1, 2, 3, 4, 5, 6]


def test_joint_is_closer_where_it_learns_edges(fine):
    """The same number of iterations with one price for all slopes and with prices learnt in rounds."""
    joint = load("background", "joint").function
    once, learnt = (
        (joint(fine.total, fine.mask, fine.grid, fine.noise, rounds=r, max_iter=60 // r).local_field - fine.local)[fine.mask].std()
        for r in (1, 4)
    )
    assert learnt < 0.98 * once


def test_joint_leaves_the_residual_on_request(fine):
    """What neither side explains is what the two local fields differ by; it is noise-like and small."""
    joint = load("background", "joint").function
    plain, whole = (joint(fine.total, fine.mask, fine.grid, fine.noise, residual=r).local_field for r in (False, True))
    left = (whole - plain)[fine.mask]
    assert 0.3 * fine.noise.max() < left.std() < 3 * fine.noise.max()
    assert ((plain - fine.local)[fine.mask]).std() < ((whole - fine.local)[fine.mask]).std()


@pytest.mark.filterwarnings("ignore::paradia.errors.ConvergenceWarning")
@pytest.mark.parametrize("unknown", [0.0, torch.nan, torch.inf])
def test_pdf_does_not_look_where_noise_is_unknown(unknown, fine):
    """A ball where the field is off by 5 ppm, and says that nobody knows how far."""
    pdf = load("background", "pdf").function
    wrong = torch.zeros_like(fine.mask)
    wrong[20:24, 20:24, 20:24] = True
    assert fine.mask[wrong].all()
    noise = fine.noise.masked_fill(wrong, unknown)
    expected = pdf(fine.total, fine.mask, fine.grid, noise).local_field
    found = pdf(fine.total + 5.0 * wrong, fine.mask, fine.grid, noise).local_field
    torch.testing.assert_close(found[~wrong], expected[~wrong])


def test_pdf_run_to_its_end_equals_dense_least_squares_of_numpy():
    """What no source outside can make is left, as the pseudo-inverse of the dipole's matrix says."""
    grid = Grid((8, 7, 6), (3.0, 3.5, 4.0), (0.2, -0.3, 0.93))
    mask = torch.zeros(grid.shape, dtype=torch.bool)
    mask[2:6, 2:5, 1:5] = True
    field = torch.randn(grid.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * mask
    noise = 1 + torch.rand(grid.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    window = Window.around(mask, grid, 4.0)
    units = torch.eye(math.prod(window.grid.shape), dtype=torch.float64).reshape(-1, *window.grid.shape)
    matrix = Dipole(window.grid).double()(units).flatten(1).T.numpy()
    inside = window.mask.flatten().numpy()
    weights = 1 / window.take(noise).flatten().numpy()[inside]
    target = window.take(field).flatten().numpy()[inside]
    sources, *_ = np.linalg.lstsq(weights[:, None] * matrix[np.ix_(inside, ~inside)], weights * target, rcond=1e-6)
    left = target - matrix[np.ix_(inside, ~inside)] @ sources
    pdf = load("background", "pdf").function
    got = pdf(field, mask, grid, noise, margin=4.0, model_error=0.0, max_iter=2000, tol=1e-10).local_field
    np.testing.assert_allclose(got[mask].numpy(), left, atol=1e-3)
