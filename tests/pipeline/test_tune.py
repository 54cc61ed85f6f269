"""Choosing a weight: the curve against a closed form, the figures against loops, the choice against the truth."""

import math
import tomllib
from itertools import product

import numpy as np
import pytest
import torch

from paradia.errors import InputError, UnknownKnobError
from paradia.grid import Grid
from paradia.metrics.accuracy import nrmse
from paradia.operators.dipole import Dipole
from paradia.pipeline.rules import Sample, judge
from paradia.pipeline.step import Step
from paradia.pipeline.tune import _Measure, check, tune
from paradia.simulate.head import head

WEIGHTS = np.geomspace(1e-3, 1e3, 13)


def rows(misfit, roughness, values=WEIGHTS):
    return [Sample(float(v), float(misfit(v)), float(roughness(v))) for v in values]


def chosen(samples, normalised=True):
    _, choices = judge(samples, samples, normalised)
    return {choice.rule: choice for choice in choices}


def test_the_corner_of_a_curve_that_is_its_own_mirror_image_is_on_the_mirror():
    found = chosen(rows(lambda w: 0.3 * (1 + w), lambda w: 5 * (1 + 1 / w)))
    assert math.log(found["corner"].value) == pytest.approx(0, abs=0.15)


def test_curvature_is_that_of_a_circle_in_closed_form():
    """The lower left quarter of a circle of radius 2 in logarithms bends by 1/2 everywhere."""
    turn = np.linspace(math.pi, 1.5 * math.pi, 41)
    samples = [Sample(math.exp(t), math.exp(2 * math.cos(t)), math.exp(2 * math.sin(t))) for t in turn]
    curve, _ = judge(samples, samples, False)
    assert np.allclose(curve.curvature[60:-60], 0.5, rtol=0.02)


def test_the_inflection_is_where_an_s_shaped_curve_changes_its_mind():
    """With x = t and y = sin t − 2t the curve bends upwards where sin t < 0: it stops at t = 0 after bending from −π on."""
    values = np.exp(np.linspace(-2.5, 2.5, 21))
    found = chosen(rows(lambda w: w, lambda w: math.exp(math.sin(math.log(w)) - 2 * math.log(w)), values))
    assert math.log(found["inflection"].value) == pytest.approx(0, abs=0.05)


def test_the_discrepancy_is_where_the_misfit_is_the_noise():
    found = chosen(rows(lambda w: 0.5 * math.sqrt(1 + w), lambda w: 1 + 1 / w))
    assert found["discrepancy"].value == pytest.approx(3, rel=0.1)


def test_a_knob_that_smooths_less_the_larger_it_is_gives_the_mirror_image():
    forth = chosen(rows(lambda w: 0.5 * math.sqrt(1 + w), lambda w: 1 + 1 / w))
    back = chosen(rows(lambda w: 0.5 * math.sqrt(1 + 1 / w), lambda w: 1 + w))
    for rule in ("discrepancy", "corner"):
        assert back[rule].value * forth[rule].value == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize(
    ("misfit", "normalised", "said"),
    [
        (lambda w: 1.2 * math.sqrt(1 + w), True, "never comes down to the noise, the least is 1.2"),
        (lambda w: 0.01 * math.sqrt(1 + w), True, "At the smooth end the misfit is still below the noise, 0.3"),
        (lambda w: 0.5 * math.sqrt(1 + w), False, "Without a noise map"),
        (lambda w: 0.995 * math.sqrt(1 + w), True, "before the corner"),
    ],
)
def test_a_discrepancy_that_cannot_be_trusted_says_why(misfit, normalised, said):
    choice = chosen(rows(misfit, lambda w: 1 + 1 / w), normalised)["discrepancy"]
    assert choice.value is None
    assert said in choice.reason


def test_a_corner_at_the_edge_is_not_trusted():
    assert chosen(rows(lambda w: 1 + w, lambda w: 1 + 1 / w, np.geomspace(0.5, 1e3, 9)))["corner"].value is None
    rising = chosen(rows(lambda w: 1 + w, lambda w: 1 + w))
    assert rising["corner"].value is None
    assert "no L" in rising["corner"].reason


@pytest.mark.parametrize("last", [10, 1e3])
def test_a_straight_curve_has_neither_corner_nor_inflection(last):
    """Rounding bends it a little, here and there."""
    found = chosen(rows(math.sqrt, lambda w: 1 / w, np.geomspace(1e-3, last, 9)))
    assert (found["corner"].value, found["inflection"].value) == (None, None)
    assert "bends like an L nowhere" in found["corner"].reason


@pytest.mark.parametrize("norm", [1, 2])
def test_misfit_and_roughness_against_loops(norm):
    grid = Grid((7, 6, 5), (1.0, 1.2, 2.0), (0.1, -0.2, 0.97))
    generator = torch.Generator().manual_seed(0)
    chi = torch.randn(grid.shape, generator=generator)
    mask = torch.rand(grid.shape, generator=generator) > 0.3
    noise = 0.1 + torch.rand(grid.shape, generator=generator)
    field = torch.randn(grid.shape, generator=generator)
    measure = _Measure(Step("inversion", "tkd"), {"local_field": field, "mask": mask, "grid": grid, "noise": noise}, norm)
    misfit, roughness = measure({"chi": chi})
    made = Dipole(grid, padding=2)(chi)
    squares, slopes = [], []
    for place in product(*map(range, grid.shape)):
        if not mask[place]:
            continue
        squares.append(((made[place] - field[place]) / noise[place]).item() ** 2)
        for axis in range(3):
            other = tuple(p + (a == axis) for a, p in enumerate(place))
            if other[axis] < grid.shape[axis] and mask[other]:
                slopes.append(((chi[other] - chi[place]) / grid.voxel_size[axis]).item())
    assert misfit == pytest.approx(math.sqrt(np.mean(squares)), rel=1e-4)
    assert roughness == pytest.approx(np.mean(np.abs(slopes)) if norm == 1 else math.sqrt(np.mean(np.square(slopes))), rel=1e-4)


@pytest.mark.parametrize("stage", ["background", "singlestep"])
def test_background_costs_nothing_and_noise_counts_one(stage):
    """What is left is a harmonic cubic and white noise: by theory the cubic vanishes and the noise is 1."""
    grid = Grid((40, 36, 31), (1.0, 1.2, 1.5))
    x, y, _ = torch.meshgrid(*((torch.arange(n) - n / 2) * d for n, d in zip(grid.shape, grid.voxel_size, strict=True)), indexing="ij")
    mask = torch.zeros(grid.shape, dtype=torch.bool)
    mask[3:-3, 3:-3, 3:-3] = True
    field = 0.001 * (x**3 - 3 * x * y**2) + 0.02 * torch.randn(grid.shape, generator=torch.Generator().manual_seed(1))
    board = {"total_field": field, "mask": mask, "grid": grid, "noise": torch.full(grid.shape, 0.02)}
    measure = _Measure(_Named(stage), board, 1)
    nothing = torch.zeros(grid.shape)
    misfit, _ = measure({"local_field": nothing, "chi": nothing})
    assert misfit == pytest.approx(1, abs=0.03)
    spike = torch.zeros(grid.shape)
    spike[20, 18, 15] = 1
    left = (spike - measure.mean(spike)).square().sum().sqrt()
    assert measure.gain == pytest.approx(float(left), rel=1e-4), "what white noise becomes"
    unscaled, _ = _Measure(_Named(stage), {k: v for k, v in board.items() if k != "noise"}, 1)({"local_field": nothing, "chi": nothing})
    assert misfit == pytest.approx(unscaled / 0.02 / measure.gain, rel=1e-4)


class _Named:
    def __init__(self, stage):
        self.stage = stage


@pytest.fixture(scope="module")
def small_head():
    grid = Grid((54, 60, 41), (3.0, 3.0, 3.6), (0.1, -0.2, 0.97))
    truth = head(grid, seed=2)
    noise = 0.004 * truth.mask
    field = (truth.local_field + noise * torch.randn(grid.shape, generator=torch.Generator().manual_seed(0))) * truth.mask
    return truth, {"local_field": field, "mask": truth.mask, "grid": grid, "noise": noise}


@pytest.mark.slow
def test_the_choice_is_nearly_the_best_of_the_sweep(small_head):
    truth, board = small_head
    told = []
    tuned = tune(
        Step("inversion", "tv"),
        board,
        "weight",
        np.geomspace(0.01, 1.0, 9),
        keep=lambda chi: nrmse(chi, truth.chi, truth.mask),
        progress=lambda done, total, value: told.append((done, total)),
    )
    errors = {sample.value: sample.kept for sample in tuned.samples}
    assert tuned.best.rule == "discrepancy"
    assert errors[min(errors, key=lambda v: abs(v - tuned.best.value))] < 1.1 * min(errors.values())
    assert [done for done, _ in told] == list(range(len(tuned.samples)))
    assert abs(min(abs(s.misfit - 1) for s in tuned.samples)) < 0.02, "the refinement ran at the noise"
    assert tomllib.loads(tuned.toml)["inversion"]["weight"] == pytest.approx(tuned.best.value, rel=5e-3)


def test_warnings_are_counted_not_repeated(small_head):
    _, board = small_head
    tuned = tune(Step("inversion", "tv", {"max_iter": 2}), board, "weight", np.geomspace(0.01, 1.0, 5), refine=0)
    assert len(tuned.messages) == 1
    assert tuned.messages[0].startswith("5 of 5 runs, such as: tv stopped after 2 iterations")


@pytest.mark.parametrize(
    ("step", "knob", "values", "error", "said"),
    [
        (Step("inversion", "tv"), "wieght", WEIGHTS, UnknownKnobError, "Did you mean 'weight'"),
        (Step("inversion", "tv"), "max_iter", WEIGHTS, InputError, "cannot be swept"),
        (Step("inversion", "tv"), "weight", [1, 2, 3], InputError, "at least 5 different positive values"),
        (Step("inversion", "tv"), "weight", [0, 1, 2, 3, 4], InputError, "at least 5 different positive values"),
        (Step("unwrap", "romeo"), "template", WEIGHTS, InputError, "can be tuned, got unwrap"),
    ],
)
def test_what_cannot_be_swept_is_refused(step, knob, values, error, said):
    with pytest.raises(error, match=said):
        check(step, knob, values)


def test_what_can_tell_no_misfit_is_refused_before_the_first_run():
    shape = (12, 11, 13)
    field, mask = torch.randn(shape, generator=torch.Generator().manual_seed(0)), torch.ones(shape, dtype=torch.bool)
    board = {"local_field": field, "total_field": field, "mask": mask, "grid": Grid(shape, (1.0, 1.0, 1.0))}
    ran = []
    quiet = {"noise": torch.zeros(shape)}
    with pytest.raises(InputError, match="the noise map is zero or not finite in all of the mask. Give another, or none"):
        tune(Step("inversion", "tkd"), board | quiet, "threshold", WEIGHTS, progress=lambda *told: ran.append(told))
    thin = mask.clone()
    thin[:, :, 4:] = False
    with pytest.raises(InputError, match="nowhere as thick as a sphere"):
        tune(Step("background", "lbv"), board | {"mask": thin}, "tol", WEIGHTS, progress=lambda *told: ran.append(told))
    slab = {name: value[:, :, :3] if isinstance(value, torch.Tensor) else value for name, value in board.items()}
    slab["grid"] = board["grid"].with_shape((12, 11, 3))
    with pytest.raises(InputError, match="nowhere as thick as a sphere"):
        tune(Step("background", "lbv"), slab, "tol", WEIGHTS, progress=lambda *told: ran.append(told))
    with pytest.raises(InputError, match="refine must be zero or more, got -1"):
        tune(Step("inversion", "tkd"), board, "threshold", WEIGHTS, refine=-1, progress=lambda *told: ran.append(told))
    assert not ran


def test_what_is_outside_the_mask_does_not_matter():
    grid = Grid((16, 15, 14), (1.0, 1.0, 1.5))
    field, mask = torch.randn(grid.shape, generator=torch.Generator().manual_seed(0)), torch.ones(grid.shape, dtype=torch.bool)
    mask[:, :, 0] = False
    board = {"total_field": field, "mask": mask, "grid": grid}
    nothing = {"chi": torch.zeros(grid.shape)}
    expected = _Measure(_Named("singlestep"), board, 1)(nothing)
    board["total_field"] = torch.where(mask, field, torch.nan)
    assert _Measure(_Named("singlestep"), board, 1)(nothing) == expected


def test_missing_data_are_told(small_head):
    with pytest.raises(InputError, match="tuning inversion needs local_field"):
        tune(Step("inversion", "tv"), {"mask": small_head[1]["mask"], "grid": small_head[1]["grid"]}, "weight", WEIGHTS)
