"""What every separation keeps: two analytic compartments, their laws of scale and symmetry, and refusals."""

from __future__ import annotations

import inspect
import math
import warnings
from typing import NamedTuple

import pytest
import torch

from paradia.errors import ConvergenceWarning, GeometryError, InputError, MaskError, MetadataError, NonFiniteError, ParadiaWarning
from paradia.grid import Grid
from paradia.operators.dipole import Dipole
from paradia.pipeline.step import Step
from paradia.registry import load, methods
from paradia.scan import Scan
from paradia.separation._inputs import check_images

CLASSICAL = tuple(name for name in methods("separation") if not name.startswith("sepnet"))
ITERATIVE = tuple(name for name in CLASSICAL if load("separation", name).reports_progress)
POSITIVE, NEGATIVE = 150.0, 110.0  # Hz/ppm at 3 T, not alike
R2 = 12.0

BOUNDS = {  # for χ+ and χ−: |slope - 1|, correlation, |bias| in ppm, each a little looser than what is reached
    "closed_form": ((0.03, 0.99, 0.002), (0.03, 0.99, 0.002)),
    "r2star_qsm": ((0.03, 0.99, 0.002), (0.03, 0.99, 0.002)),
    "chisep_medi": ((0.06, 0.985, 0.003), (0.06, 0.985, 0.003)),
    "chisep_ilsqr": ((0.06, 0.985, 0.007), (0.06, 0.98, 0.007)),  # its level is told by the signs alone
    "wavesep": ((0.06, 0.985, 0.003), (0.06, 0.985, 0.003)),
    "decompose": ((0.25, 0.88, 0.02), (0.3, 0.8, 0.02)),  # another model than that of the case: see test_decompose.py
}


class Case(NamedTuple):
    chi_pos: torch.Tensor
    chi_neg: torch.Tensor
    board: dict


def ball(grid, centre, radius):
    """Mark an ellipsoid given in fractions of the field of view."""
    total = torch.zeros(grid.shape)
    for axis, (n, c, r) in enumerate(zip(grid.shape, centre, radius, strict=True)):
        place = (torch.arange(n) + 0.5) / n
        total += ((place - c) / r).square().reshape([-1 if a == axis else 1 for a in range(3)])
    return total <= 1


def made(b0=3.0, seed=7, scale=1.0, strength=1.0):
    """A sphere of each kind and one of both in tissue of a little of both; fields, rates and echoes with noise of 1 ppb and 1 %."""
    grid = Grid((28, 27, 22), (1.4, 1.6, 2.2), (0.2, -0.3, 0.93))
    generator = torch.Generator().manual_seed(seed)
    mask = ball(grid, (0.5, 0.5, 0.5), (0.42, 0.41, 0.42))
    chi_pos, chi_neg = torch.full(grid.shape, 0.02), torch.full(grid.shape, 0.03)
    only_pos, only_neg, both = (ball(grid, c, (0.13, 0.13, 0.13)) for c in ((0.32, 0.5, 0.5), (0.66, 0.4, 0.55), (0.52, 0.72, 0.4)))
    chi_pos[only_pos], chi_neg[only_pos] = 0.12, 0.0
    chi_pos[only_neg], chi_neg[only_neg] = 0.0, 0.1
    chi_pos[both], chi_neg[both] = 0.09, 0.08
    chi_pos, chi_neg = (strength * source * mask for source in (chi_pos, chi_neg))
    noise = [torch.randn((6, *grid.shape), generator=generator) for _ in range(2)]
    chi = chi_pos - chi_neg
    rates = b0 / 3
    r2prime = rates * scale * (POSITIVE * chi_pos + NEGATIVE * chi_neg + strength * 0.3 * noise[0][0])
    scan = Scan(tuple(0.005 * 3 / b0 * (n + 1) for n in range(6)), b0)
    times = torch.tensor(scan.echo_times)[:, None, None, None]
    r2 = torch.full(grid.shape, R2 * rates)
    decay = torch.exp(-times * (r2 + rates * (POSITIVE * chi_pos + NEGATIVE * chi_neg)))
    field = Dipole(grid, padding=2)(chi) + strength * 0.001 * noise[0][1]
    board = {
        "local_field": field * mask,
        "chi": (chi + strength * 0.002 * noise[0][2]) * mask,
        "r2prime": r2prime.clamp_min(0) * mask,
        "r2star": 2 * r2prime.clamp_min(0) * mask,
        "r2": r2 * mask,
        "magnitude": 400 * (decay + 0.003 * noise[1]).abs() * mask,
        "mask": mask,
        "grid": grid,
        "scan": scan,
    }
    return Case(chi_pos, chi_neg, board)


@pytest.fixture(scope="module")
def case():
    return made()


def separate(name, board, b0=3.0, **knobs):
    drs = {"dr_pos": POSITIVE * b0 / 3, "dr_neg": NEGATIVE * b0 / 3}
    method = load("separation", name)
    return Step("separation", name, {**drs, **knobs})(**{key: board[key] for key in method.takes if key in board})


@pytest.fixture(params=CLASSICAL)
def name(request):
    return request.param


def agreement(result, truth, mask):
    """Return slope and correlation of the result over the truth, and the difference of their means."""
    a, b = result[mask].double(), truth[mask].double()
    bias = float((a - b).mean())
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / b.square().sum()), float((a * b).sum() / (a.norm() * b.norm())), bias


def close(a, b, tolerance=1e-4):
    for got, want in zip(a, b, strict=True):
        assert float((got - want).norm() / want.norm()) < tolerance


def test_all_methods_have_bounds():
    assert set(CLASSICAL) == set(BOUNDS)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_recovers_both_sources(name, strength):
    truth = made(strength=strength)
    found = separate(name, truth.board)
    for result, source, bounds in zip(found, truth[:2], BOUNDS[name], strict=True):
        slope, correlation, bias = agreement(result, source, truth.board["mask"])
        assert abs(slope - 1) < bounds[0], slope
        assert correlation > bounds[1], correlation
        assert abs(bias) < bounds[2], bias


def test_keeps_shape_precision_signs_and_mask(name, case):
    for source in separate(name, case.board):
        assert source.shape == case.board["mask"].shape
        assert source.dtype == torch.float32
        assert bool((source >= 0).all())
        assert not source[~case.board["mask"]].any()
        assert source.max() > 0.05


def test_nothing_gives_nothing(name, case):
    board = {key: torch.zeros_like(case.board[key]) for key in ("local_field", "chi", "r2prime", "r2star")}
    times = torch.tensor(case.board["scan"].echo_times)[:, None, None, None]
    board = {**case.board, **board, "magnitude": torch.exp(-times * case.board["r2"])}
    for source in separate(name, board):
        assert source.max() <= (0.004 if name == "decompose" else 0)


@pytest.mark.parametrize("axes", [(1, 2, 0), (0, 2, 1)])
def test_turns_with_the_axes(name, case, axes):
    turned = {
        key: value.permute([*range(value.ndim - 3), *[a + value.ndim - 3 for a in axes]]).contiguous()
        for key, value in case.board.items()
        if isinstance(value, torch.Tensor)
    }
    turned |= {"grid": case.board["grid"].permute(axes), "scan": case.board["scan"]}
    close(separate(name, turned), [source.permute(axes) for source in separate(name, case.board)], 2e-3)


@pytest.mark.parametrize("axis", [0, 2])
def test_the_mirrored_head_has_the_mirrored_map(name, case, axis):
    if name == "wavesep":
        pytest.skip("its wavelets are not symmetric")
    grid = case.board["grid"]
    turned = {key: value.flip(axis - 3) for key, value in case.board.items() if isinstance(value, torch.Tensor)}
    direction = tuple(-b if a == axis else b for a, b in enumerate(grid.b0_dir))
    turned |= {"grid": Grid(grid.shape, grid.voxel_size, direction), "scan": case.board["scan"]}
    close(separate(name, turned), [source.flip(axis - 3) for source in separate(name, case.board)], 1e-4)


def test_field_strength_changes_nothing_when_relaxivities_and_times_follow(name):
    close(separate(name, made(b0=7.0).board, b0=7.0), separate(name, made().board), 2e-3)


def test_relaxivity_and_rates_only_count_together(name):
    if name == "decompose":
        pytest.skip("its rates are in the decay: doubled in the test of its own")
    twice = made(scale=2.0).board
    close(separate(name, twice, dr_pos=2 * POSITIVE, dr_neg=2 * NEGATIVE), separate(name, made().board), 1e-3)


def test_default_relaxivity_is_the_stated_one(name, case):
    default = Step("separation", name).run(case.board)
    stated = separate(name, case.board, dr_pos=137.0, dr_neg=137.0)
    assert all(torch.equal(default[key], value) for key, value in stated._asdict().items())


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_is_homogeneous(name, case, factor):
    """Weights measure themselves: three times the data give three times the sources."""
    if name == "decompose":
        pytest.skip("not linear: a signal, not a map")
    scaled = {**case.board, **{key: factor * case.board[key] for key in ("local_field", "chi", "r2prime", "r2star")}}
    close(separate(name, scaled), [factor * source for source in separate(name, case.board)], 2e-3)


def test_signs_change_places(name, case):
    """With χ, field and relaxivities swapped, χ+ and χ− are."""
    swapped = {**case.board, "local_field": -case.board["local_field"], "chi": -case.board["chi"]}
    found = separate(name, swapped, dr_pos=NEGATIVE, dr_neg=POSITIVE)
    close((found.chi_neg, found.chi_pos), separate(name, case.board), 2e-3)


def test_what_lies_outside_the_mask_does_not_matter(name, case):
    mask = case.board["mask"]
    spoilt = {
        key: torch.where(mask, value, torch.nan) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for key, value in case.board.items()
    }
    for got, want in zip(separate(name, spoilt), separate(name, case.board), strict=True):
        torch.testing.assert_close(got, want)


def test_is_the_same_every_time_and_leaves_the_input_alone(name, case):
    before = {key: value.clone() for key, value in case.board.items() if isinstance(value, torch.Tensor)}
    first, second = separate(name, case.board), separate(name, case.board)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(case.board[key], value) for key, value in before.items())


@pytest.mark.parametrize("name", ITERATIVE)
def test_tells_how_it_goes_on(name, case):
    told = []
    Step("separation", name).run(case.board, callback=lambda *news: told.append(news))
    assert [iteration for iteration, _ in told] == list(range(1, len(told) + 1))
    assert told[-1][1] <= told[0][1]


@pytest.mark.parametrize("name", ITERATIVE)
def test_says_when_it_is_not_done(name, case):
    with pytest.warns(ConvergenceWarning, match=f"{name} stopped after 1 "):
        separate(name, case.board, max_iter=1)


def test_takes_a_single_voxel_slab(name, case):
    thin = torch.zeros_like(case.board["mask"])
    thin[:, 13, 11] = case.board["mask"][:, 13, 11]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = separate(name, {**case.board, "mask": thin})
    assert all(bool(source.isfinite().all()) for source in found)


def rate_of(name):
    return next((key for key in ("r2prime", "r2star", "r2") if key in load("separation", name).needs), None)


def test_refuses_what_does_not_fit(name, case):
    board = case.board
    image = rate_of(name) or "chi"
    with pytest.raises(GeometryError, match=r"mask has shape \(28, 27, 22\), but the grid \(28, 27, 21\)"):
        separate(name, {**board, "grid": board["grid"].with_shape((28, 27, 21))})
    with pytest.raises(GeometryError, match=rf"{image} has shape \(28, 27, 21\), but the grid \(28, 27, 22\). Bring both"):
        check_images(board["mask"], board["grid"], **{image: board[image][..., :-1]})  # jaxtyping would be first to speak
    with pytest.raises(MaskError, match="the mask is empty"):
        separate(name, {**board, "mask": board["mask"] & False})
    with pytest.raises(NonFiniteError, match=f"{image} is NaN or Inf in"):
        separate(name, {**board, image: board[image] / 0})


def test_refuses_units_that_cannot_be(name, case):
    board = case.board
    for image in ("local_field", "chi"):
        if image in load("separation", name).needs:
            with pytest.raises(InputError, match=f"{image} must be in ppm"):
                separate(name, {**board, image: 1e3 * (board[image] + 0.05 * board["mask"])})
    rate = rate_of(name)
    if rate is not None:
        with pytest.raises(InputError, match=f"{rate} must be in 1/s, but 99 % .* can only be 1/ms"):
            separate(name, {**board, rate: 1e-3 * board[rate]})
        with pytest.raises(InputError, match=f"{rate} is negative in (9.|100)% of the mask"):
            separate(name, {**board, rate: -board[rate]})
        partly = board[rate].clone()
        partly[:13] *= -1  # a little less than half of the head
        with pytest.warns(ParadiaWarning, match=f"{rate} is negative in .* more than noise makes"):
            separate(name, {**board, rate: partly})


def test_a_little_noise_below_zero_is_no_reason_to_speak(name, case, generator):
    rate = rate_of(name)
    if rate is None:
        pytest.skip("takes no map of rates")
    noise = 0.5 * torch.randn(case.board["mask"].shape, generator=generator)
    separate(name, {**case.board, rate: case.board[rate] + noise * case.board["mask"]})


@pytest.mark.parametrize("b0", [0.35, 14.1])
def test_unusual_field_strengths_need_a_relaxivity(name, b0):
    board = made(b0=b0).board
    with pytest.raises(InputError, match=rf"no relaxivity is known at {b0:g} T"):
        Step("separation", name).run(board)
    if b0 > 1:
        assert separate(name, board, b0=b0).chi_pos.max() > 0.05


@pytest.mark.parametrize(
    ("value", "said"), [(0.0, "be a positive relaxivity in Hz/ppm"), (-114.0, "not be negative"), (float("inf"), "be finite")]
)
def test_relaxivities_are_positive(name, case, value, said):
    with pytest.raises(InputError, match=f"dr_neg must {said}"):
        separate(name, case.board, dr_neg=value)


KNOBS = {
    "closed_form": {"trust": (0.0, -1.0)},
    "r2star_qsm": {"share": (0.0, 1.5)},
    "chisep_medi": {"edges": (-0.1, 1.0), "weight": (-1.0, math.inf), "csf": (-1.0, math.inf)},
    "chisep_ilsqr": {"tie": (-1.0, math.inf), "cone": (-0.1, 0.7)},
    "wavesep": {"trust": (0.0, math.inf), "weight": (-1.0, math.inf)},
    "decompose": {"noise": (0.0, math.inf), "rate": (0.0, math.inf)},
}


def test_knobs_out_of_range_are_refused(name, case):
    stop = {"max_iter": (0, -3), "tol": (-1.0,)} if name in ITERATIVE else {}
    for knob, values in (KNOBS[name] | stop).items():
        for value in (*values, math.nan):
            with pytest.raises(InputError, match=knob):
                separate(name, case.board, **{knob: value})


def test_docstrings_name_the_relaxivity(name):
    text = inspect.getdoc(load("separation", name).function)
    assert "137" in text
    assert "114" in text


def test_echoes_are_counted(case):
    board = case.board
    with pytest.raises(MetadataError, match="at least 3 echoes, got 1"):
        separate("decompose", {**board, "magnitude": board["magnitude"][:1], "scan": Scan((0.005,))})
    with pytest.raises(MetadataError, match="6 echo times and the magnitude 4 echoes"):
        separate("decompose", {**board, "magnitude": board["magnitude"][:4]})


@pytest.mark.filterwarnings("ignore::paradia.errors.ConvergenceWarning")
@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize("name", CLASSICAL)
def test_few_thick_slices_are_separated_too(name, slices, case):
    """Spheres and margins of a few voxels still fit in beside them."""
    board = {k: v[..., 11 : 11 + slices] if isinstance(v, torch.Tensor) else v for k, v in case.board.items()}
    board["grid"] = Grid((28, 27, slices), (7.0, 6.6, 7.4), (0.2, -0.3, 0.93))
    for source in separate(name, board):
        assert source.isfinite().all()
        assert 0 < source.max() < 1


@pytest.mark.parametrize("constant", [0.004, -0.3])
@pytest.mark.parametrize("name", ["chisep_medi", "chisep_ilsqr"])
def test_a_constant_of_the_field_is_no_source(name, constant, case):
    lifted = {**case.board, "local_field": case.board["local_field"] + constant * case.board["mask"]}
    for one, other in zip(separate(name, case.board), separate(name, lifted), strict=True):
        assert float((one - other).norm() / one.norm()) < 5e-3
