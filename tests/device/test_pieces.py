"""What lies around the methods keeps to the device, too: operators, measures, runs from data to maps, simulation."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import Tensor

from paradia.fft import Window, from_kspace, half_mean, irfftn, rfftn, to_kspace
from paradia.grid import Grid
from paradia.metrics import accuracy, challenge, inputs, lesions, results, separation, similarity
from paradia.metrics.calcification import calcification
from paradia.metrics.quality import judge
from paradia.operators.dipole import Dipole
from paradia.operators.gradient import Gradient
from paradia.operators.laplacian import Laplacian
from paradia.operators.smv import SMV
from paradia.operators.weighting import Weighting
from paradia.pipeline import twopass
from paradia.pipeline.compare import compare, table
from paradia.pipeline.execute import execute
from paradia.pipeline.protocol import Protocol
from paradia.pipeline.step import Step
from paradia.pipeline.store import Store
from paradia.pipeline.tune import tune
from paradia.registration.resample import resample
from paradia.simulate.acquire import scan
from paradia.simulate.acquisition import Gre, SpinEcho
from paradia.simulate.anatomical import anatomical
from paradia.simulate.batches import batches
from paradia.simulate.examples import Recipe
from paradia.simulate.imperfect import Errors
from paradia.simulate.subject import subject

SMALL = Grid((10, 7, 8), (1.0, 1.2, 1.5), (0.2, -0.3, 0.93))


def moved(data, device):
    """Move the tensors among values by name, or of a tuple, to the device."""
    if isinstance(data, dict):
        return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in data.items()}
    return data._make(value.to(device) if isinstance(value, Tensor) else value for value in data)


def same(found, expected, device, tolerance=1e-6):
    """Hold a tensor of the device against one of the CPU."""
    assert found.device == device
    found = found.cpu()
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()) if found.is_floating_point() else 0)


def _mask():
    mask = torch.zeros(SMALL.shape, dtype=torch.bool)
    mask[2:-1, 1:-2, 1:-3] = True
    return mask


OPERATORS = {
    "dipole": lambda place: Dipole(SMALL, padding=2),
    "gradient": lambda place: Gradient(SMALL),
    "laplacian": lambda place: Laplacian(SMALL, padding=1.5),
    "smv": lambda place: SMV(SMALL, 2.5),
    "weighting": lambda place: Weighting(_mask().to(place), torch.linspace(0.1, 1, 560).reshape(SMALL.shape).to(place)),
    "composition": lambda place: Gradient(SMALL) @ Dipole(SMALL),
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("follow", ["device", "tensor"])
def test_an_operator_follows_the_data(name, follow, device):
    make = OPERATORS[name]
    image = torch.randn(2, *SMALL.shape, generator=torch.Generator().manual_seed(1))
    there = image.to(device)
    operator = make(device).to(there if follow == "tensor" else device)
    expected = make("cpu")(image)
    same(operator(there), expected, device)
    same(operator.adjoint(expected.to(device)), make("cpu").adjoint(expected), device)


def test_transforms_and_windows(board, device):
    mask, coils = board["mask"], board["coil_images"][0]
    for function in (to_kspace, from_kspace):
        same(torch.view_as_real(function(coils.to(device))), torch.view_as_real(function(coils)), device)
    field = board["local_field"]
    power = rfftn(field).abs()
    same(half_mean(power.to(device), field.shape[-1]), half_mean(power, field.shape[-1]), device)
    window, there = Window.around(mask, board["grid"]), Window.around(mask.to(device), board["grid"])
    assert window.box == there.box
    same(there.mask, window.mask, device)
    same(there.put(there.take(field.to(device))), window.put(window.take(field)), device)


@pytest.fixture(scope="module")
def judged(board):
    """A map that is nearly right, regions, a few lesions and the angle of fibres."""
    chi, mask = board["chi"], board["mask"]
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in chi.shape), indexing="ij")
    spots = mask & ((x * 5).sin() * (y * 6).sin() * (z * 5).cos() > 0.85)
    labels = (mask * (1 + (x > 0).int() + 2 * (y > 0).int() + 4 * (z > 0).int())).int()
    estimate = 0.9 * chi + 0.004 * torch.sin(9 * x) * mask
    return board | {
        "estimate": estimate,
        "labels": labels,
        "spots": spots,
        "angle": (z.abs() * 90) * mask,
        "echoes": board["magnitude"],
        "box": mask & (x.abs() < 0.2) & (y.abs() < 0.2) & (z.abs() < 0.2),
    }


MEASURES = {
    "nrmse": lambda b: [accuracy.nrmse(b["estimate"], b["chi"], b["mask"], kind=k) for k in ("plain", "demeaned", "detrended")],
    "correlation": lambda b: accuracy.correlation(b["estimate"], b["chi"], b["mask"]),
    "slope": lambda b: accuracy.slope(b["estimate"], b["chi"], b["mask"]),
    "bias": lambda b: accuracy.bias(b["estimate"], b["chi"], b["mask"]),
    "xsim": lambda b: accuracy.xsim(b["estimate"], b["chi"], b["mask"]),
    "region means": lambda b: list(accuracy.region_means(b["chi"], b["labels"], b["mask"]).values()),
    "region slope": lambda b: accuracy.region_slope(b["estimate"], b["chi"], b["labels"], b["mask"]),
    "hfen": lambda b: similarity.hfen(b["estimate"], b["chi"], b["mask"]),
    "ssim": lambda b: similarity.ssim(b["estimate"], b["chi"], b["mask"]),
    "psnr": lambda b: similarity.psnr(b["estimate"], b["chi"], b["mask"], peak=0.3),
    "leak": lambda b: separation.leak(b["chi"].abs(), b["region"]),
    "mspe": lambda b: separation.mspe(b["estimate"], b["chi"], b["labels"], b["mask"]),
    "mspe by angle": lambda b: separation.mspe_by_angle(b["estimate"] + 1, b["chi"] + 1, b["angle"], b["mask"]),
    "harmonic residue": lambda b: results.harmonic_residue(b["local_field"], b["mask"], b["grid"]),
    "consistency": lambda b: list(results.consistency(b["local_field"], b["chi"], b["mask"], b["grid"], b["noise"])),
    "streaks": lambda b: results.streaks(b["chi"], b["mask"], b["grid"]),
    "rim": lambda b: results.rim(b["chi"], b["mask"]),
    "skewness": lambda b: results.skewness(b["chi"], b["mask"]),
    "iron": lambda b: results.iron_follows_decay(b["chi"], b["r2star"], b["mask"]),
    "volume": lambda b: inputs.mask_volume(b["mask"], b["grid"]),
    "cut": lambda b: inputs.cut(b["mask"]),
    "saturation": lambda b: inputs.saturation(b["magnitude"]),
    "snr": lambda b: inputs.snr(b["magnitude"], b["mask"]),
    "low frequencies": lambda b: inputs.low_frequencies(b["phase"], b["mask"], b["grid"]),
    "wraps": lambda b: inputs.residual_wraps(b["unwrapped"], b["mask"]).tolist(),
    "calcification": lambda b: list(calcification(b["estimate"] - 1.0 * b["box"], b["chi"] - 1.2 * b["box"], b["box"])),
    "lesions": lambda b: [flat(one) for one in lesions.lesions(lesions.components(b["spots"]), {"chi": b["chi"]}, b["mask"], b["grid"])],
    "quality": lambda b: [finding.value for finding in judge(b)],
    "score": lambda b: list(vars_of(challenge.score(b["estimate"], b["chi"], b["mask"])).values()),
    "linearity": lambda b: challenge.deep_grey_linearity(b["estimate"], b["chi"], b["labels"]),
}


def vars_of(thing):
    return thing if isinstance(thing, dict) else thing._asdict() if hasattr(thing, "_asdict") else asdict(thing)


def flat(thing):
    return repr(thing)


def alike(found, expected):
    if isinstance(expected, (list, tuple)):
        return len(found) == len(expected) and all(alike(a, b) for a, b in zip(found, expected, strict=True))
    if isinstance(expected, float):
        return math.isclose(found, expected, rel_tol=1e-5, abs_tol=1e-9) or (math.isnan(found) and math.isnan(expected))
    return found == expected


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_is_the_same_there(name, judged, device):
    measure = MEASURES[name]
    expected, found = measure(judged), measure(moved(judged, device))
    assert alike(found, expected), (found, expected)


def test_resampling_comes_back_to_the_device(board, device):
    affine, onto = np.diag([7.0, 6.6, 7.4, 1.0]), np.diag([6.0, 6.0, 7.0, 1.0])
    image, mask = board["chi"], board["mask"]
    expected = resample(image, affine, (20, 22, 21), onto, mask=mask)
    same(resample(image.to(device), affine, (20, 22, 21), onto, mask=mask.to(device)), expected, device)


FAST = """
two_pass = {two_pass}
[mask]
method = "quality"
[unwrap]
method = "romeo"
mode = "template"
[fieldmap]
method = "linear"
[relaxometry]
method = "arlo"
[background]
method = "vsharp"
[inversion]
method = "tkd"
[reference]
method = "csf"
[separation]
method = "r2star_qsm"
[contrast]
method = "swi"
"""


def maps_of(outcome):
    return {name: value for name, value in outcome.maps.items() if isinstance(value, Tensor)}


@pytest.mark.parametrize("two_pass", ["false", "true"])
@pytest.mark.parametrize("given", [False, True], ids=["mask found", "mask given"])
def test_a_run_computes_there_and_keeps_its_results(two_pass, given, board, device, tmp_path):
    text = FAST.format(two_pass=two_pass)
    protocol = Protocol.parse(text if given else text.replace('"csf"', '"whole_brain"'), "fast")
    data = {name: board[name] for name in ("phase", "magnitude", "grid", "scan", *(["mask"] if given else []))}
    if not given:
        data["invalid"] = torch.zeros(board["mask"].shape, dtype=torch.bool)
        data["invalid"][12:14, 15, 12] = True
    expected = execute(protocol, data)
    found = execute(protocol, data, Store(tmp_path), device="cuda")
    assert found.messages == expected.messages
    assert not any("left out" in message for message in found.messages)
    again = execute(protocol, data, Store(tmp_path), device=device)
    assert all(step.cached for step in again.steps if step.stage != twopass.STAGE)
    for outcome in (found, again):
        assert maps_of(outcome).keys() == maps_of(expected).keys()
        for name, value in maps_of(expected).items():
            same(outcome.maps[name], value, device, 1e-5)


def test_the_inverse_transform_of_a_device_is_that_of_the_cpu(device, monkeypatch):
    """There it is torch's own; elsewhere in these tests both go by planes, so that they round alike."""
    spectrum = rfftn(torch.randn(2, *SMALL.shape, generator=torch.Generator().manual_seed(1)))
    monkeypatch.setattr("paradia.fft.BY_PLANES", ("cpu",))
    found = irfftn(spectrum.to(device), SMALL.shape)
    assert found.device.type == device.type
    torch.testing.assert_close(found.cpu(), irfftn(spectrum, SMALL.shape))


def test_a_comparison_comes_back(board, device):
    candidates = {name: Protocol.parse(f'[inversion]\nmethod = "{name}"\n', name) for name in ("tkd", "tikhonov")}
    data = {name: board[name] for name in ("local_field", "mask", "grid")}
    expected, found = (compare(candidates, data, truth=board["chi"], device=place) for place in ("cpu", device))
    for one, other in zip(found.candidates, expected.candidates, strict=True):
        assert torch.equal(one.image, other.image)  # on the CPU, both
    rows = [[v for k, v in row.items() if "seconds" not in k] for c in (found, expected) for row in table(c, data)]
    assert alike(rows[:2], rows[2:])


@pytest.mark.parametrize(
    ("step", "knob"), [(Step("inversion", "tkd"), "threshold"), (Step("background", "sharp", {"radius": 2.5}), "threshold")]
)
def test_a_sweep_measures_the_same(step, knob, board, device):
    fine = board | {"grid": Grid(board["grid"].shape, (1.0, 1.0, 1.0))}
    values = (0.03, 0.06, 0.1, 0.15, 0.2)
    expected, found = (tune(step, moved(fine, place), "threshold", values, refine=0) for place in ("cpu", device))
    pairs = [[(sample.misfit, sample.roughness) for sample in tuned.samples] for tuned in (found, expected)]
    assert alike(*pairs)


@pytest.mark.slow
def test_anatomy_is_made_there(device):
    grid = Grid((18, 22, 18), (10.0, 10.0, 10.0))
    expected, found = anatomical(grid, seed=3), anatomical(grid, seed=3, device=device)
    for name in ("labels", "mask", "veins", "detail"):
        same(getattr(found, name), getattr(expected, name), device, 1e-4)


def test_scans_are_simulated_there(onion, device):
    person = subject(2, grid=Grid((26, 31, 24), (7.0, 6.6, 7.4), (0.1, -0.25, 0.96)), anatomy=onion)
    there = moved(person, device)._replace(anatomy=moved(person.anatomy, device))
    for acquisition in (Gre(echo_times=(0.005, 0.02)), SpinEcho()):
        expected, found = (scan(who, acquisition, seed=5, errors=Errors.training()) for who in (person, there))
        assert found.images.device == device
        difference = (found.images.cpu() - expected.images).abs().max()
        assert float(difference) < 1e-5 * float(expected.images.abs().max())


@pytest.mark.parametrize("procedural", [pytest.param(0.0, marks=pytest.mark.slow), 1.0])
def test_batches_are_made_there(procedural, device):
    recipe = Recipe(voxel_size=(6.0, 6.0), procedural=procedural, procedural_side=16)
    for total in (False, True):
        expected, found = (
            next(batches(recipe, crop=12, batch=2, crops=2, seed=7, total=total, coarse=True, device=place))
            for place in ("cpu", str(device))
        )
        for name, value in expected.items():
            same(found[name], value, device, 1e-4)
