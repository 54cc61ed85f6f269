"""What the methods keep that ask a network, whatever its weights; a network is neither odd nor the same along all axes."""

from __future__ import annotations

import hashlib
import json
import math
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch

from paradia.errors import GeometryError, InputError, MaskError, NonFiniteError, ParadiaWarning, WeightsError
from paradia.grid import Grid
from paradia.nets import familiar, store, total
from paradia.nets.beginning import begin
from paradia.nets.unet import UNet3d
from paradia.operators.dipole import Dipole
from paradia.registry import load
from paradia.singlestep import nextqsm

METHODS = (("background", "bgnet"), ("inversion", "varnet"), ("singlestep", "nextqsm"))
CHANNELS = {"varnet": 6, "bgnet": 7}


class Case(NamedTuple):
    chi: torch.Tensor
    local: torch.Tensor
    total: torch.Tensor
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
    """Nuclei, a vein, texture and a source of air beside the mask."""
    grid = Grid((44, 41, 36), (1.0, 1.2, 1.5), (0.2, -0.3, 0.93))
    generator = torch.Generator().manual_seed(7)
    mask = ball(grid, (0.5, 0.5, 0.5), (0.38, 0.37, 0.38))
    chi = 0.02 * torch.randn(grid.shape, generator=generator)
    chi[ball(grid, (0.36, 0.5, 0.5), (0.08, 0.12, 0.1))] += 0.12
    chi[ball(grid, (0.64, 0.45, 0.55), (0.09, 0.1, 0.08))] += 0.18
    chi[20:22, 14:30, 24:26] += 0.3
    chi *= mask
    air = torch.zeros(grid.shape)
    air[ball(grid, (0.5, 0.94, 0.25), (0.16, 0.1, 0.18))] = 9.4
    dipole = Dipole(grid, padding=2)
    noise = torch.full(grid.shape, 0.01)
    local = dipole(chi) + noise * torch.randn(grid.shape, generator=generator)
    return Case(chi, local * mask, (local + dipole(air)) * mask, mask, grid, noise)


def save(folder, **about):
    """Write networks with random weights, the last layer too, so that they change what they are shown."""
    lines = []
    for name, inputs in CHANNELS.items():
        torch.manual_seed(3)
        architecture = {"inputs": inputs, "outputs": 2, "widths": (8, 16)}
        net = UNet3d(**architecture)
        torch.nn.init.normal_(net.head.weight, std=0.02)
        content = store.pack(net, architecture, task=name, **about)
        (folder / f"{name}.safetensors").write_bytes(content)
        lines.append(f'[{name}]\nfile = "{name}.safetensors"\nsha256 = "{hashlib.sha256(content).hexdigest()}"\n')
    (folder / "weights.toml").write_text("\n".join(lines))
    return folder


@pytest.fixture
def use(monkeypatch, tmp_path):
    """Let the methods ask networks of random weights, with more in their headers."""

    def use(**about):
        monkeypatch.setattr(store, "FOLDER", save(tmp_path, **about))
        store.network.cache_clear()

    yield use
    store.network.cache_clear()


@pytest.fixture(params=METHODS, ids=[name for _, name in METHODS])
def method(request, use):
    use()
    loaded = load(*request.param)
    short = {"start": 20, "rounds": 2, "max_iter": 5}

    def call(*data, **knobs):
        return loaded.function(*data, **{**{k: v for k, v in short.items() if k in loaded.knobs}, **knobs})

    call.name, call.takes, call.gives = loaded.name, loaded.takes, loaded.gives
    return call


def field_of(method, case):
    return case.local if "local_field" in method.takes else case.total


def images(result):
    return {name: value for name, value in result._asdict().items() if name != "mask" and value.ndim >= 3}


def test_the_network_is_asked(method, case, use):
    """Else every law below would be that of the start."""
    field = field_of(method, case)
    asked = method(field, case.mask, case.grid, case.noise)[0]
    store.network.cache_clear()
    for name in CHANNELS:
        torch.nn.init.zeros_(store.network(name, "cpu").head.weight)
    silent = method(field, case.mask, case.grid, case.noise)[0]
    assert (asked - silent)[case.mask].norm() > 0.01 * silent[case.mask].norm()


@pytest.mark.parametrize(("stage", "name"), [METHODS[0], METHODS[2]])
def test_the_centre_frequency_of_a_scan_is_no_source(stage, name, case, use):
    use()
    ask = load(stage, name).function
    here, far = (ask(case.total.double() + shift, case.mask, case.grid, case.noise)[0] for shift in (0.0, 0.1))
    torch.testing.assert_close(far, here, rtol=0, atol=1e-3 * float(here[case.mask].std()))


def test_keeps_shape_precision_and_mask(method, case):
    field = field_of(method, case)
    result = method(field, case.mask, case.grid)
    assert result._fields == method.gives
    for image in images(result).values():
        assert image.shape == field.shape
        assert image.dtype == torch.float32
        assert image[~case.mask].abs().max() == 0
        assert torch.isfinite(image).all()
        assert image[case.mask].std() > 0
    assert all(image.dtype == torch.float64 for image in images(method(field.double(), case.mask, case.grid)).values())
    for name, image in images(result).items():
        if name.endswith("_noise"):
            assert image[case.mask].min() > 0


def test_a_batch_changes_nothing(method, case):
    field = field_of(method, case)
    batch = torch.stack([field, 0.5 * field.flip(0)])[None]
    result = method(batch, case.mask, case.grid)
    for place, one in enumerate(batch[0]):
        alone = method(one, case.mask, case.grid)
        for name, image in alone._asdict().items():
            if name != "mask":
                torch.testing.assert_close(getattr(result, name)[0, place], image, rtol=1e-4, atol=1e-6)


def test_what_lies_outside_the_mask_does_not_matter(method, case):
    field = field_of(method, case)
    spoilt = method(torch.where(case.mask, field, 5.0), case.mask, case.grid)
    for name, image in images(method(field, case.mask, case.grid)).items():
        torch.testing.assert_close(getattr(spoilt, name), image)


def test_zero_gives_zero(method, case):
    for image in images(method(torch.zeros(case.grid.shape), case.mask, case.grid, case.noise)).values():
        assert image.abs().max() == 0


def test_is_the_same_every_time_and_leaves_its_input_alone(method, case):
    field, before = field_of(method, case), (case.total.clone(), case.local.clone(), case.mask.clone(), case.noise.clone())
    a, b = (method(field, case.mask, case.grid, case.noise) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    for given, kept in zip((case.total, case.local, case.mask, case.noise), before, strict=True):
        assert torch.equal(given, kept)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_scales_with_the_field(method, case, factor):
    """Noise ten times above the floor that every field is taken to have, so that this is not seen.

    The joint fit knows how strong tissue is, so that its answer scales as a whole, but not in each voxel.
    """
    field = field_of(method, case)
    knobs = {} if method.name == "varnet" else {"start": 60, "rounds": 3, "max_iter": 15}
    plain = method(field, case.mask, case.grid, case.noise, **knobs)
    scaled = method(factor * field, case.mask, case.grid, factor * case.noise, **knobs)
    for name, image in images(plain).items():
        one, other = image[case.mask], getattr(scaled, name)[case.mask]
        assert abs(float(one @ other / (one @ one)) / factor - 1) < 0.05, name
        if method.name == "varnet":
            assert (other - factor * one).norm() < 0.05 * factor * one.norm(), name


def test_the_residual_is_what_chi_leaves(method, case):
    """By a dipole of its own on a field of view twice as wide; both blind to the mean of χ."""
    if "residual" not in method.gives:
        pytest.skip("a background removal has no χ")
    result = method(field_of(method, case), case.mask, case.grid, case.noise)
    field = case.local if method.name == "varnet" else result.local_field
    dipole = Dipole(case.grid, padding=2)
    body = dipole(case.mask.float())[case.mask]
    left = (field - dipole(result.chi))[case.mask]
    got = result.residual[case.mask]
    if method.name == "varnet":
        left = left - body * (left @ body / (body @ body))
        assert (left - got).norm() < 0.15 * left.norm()  # the window's margin is narrower
    else:
        assert got.std() > left.std() * 0.5  # with the noise that the fit had left over


@pytest.mark.parametrize("name", ["varnet", "nextqsm"])
def test_more_trust_and_refinement_leave_less_of_the_field(name, case, use):
    use()
    method = load("inversion" if name == "varnet" else "singlestep", name).function
    field = case.local if name == "varnet" else case.total
    left = [float(method(field, case.mask, case.grid, case.noise, refine=r).residual.norm()) for r in (0, 2, 6)]
    assert left[0] > left[1] > left[2]
    once, twice = (method(field, case.mask, case.grid, case.noise, stages=s).chi for s in (1, 2))
    assert not torch.equal(once, twice)
    less, more = (method(field, case.mask, case.grid, case.noise, refine=4, trust=t).residual.norm() for t in (0.01, 1.0))
    assert more < less


def test_calibration_multiplies_the_deviation(case, use):
    varnet = load("inversion", "varnet").function
    use()
    plain = varnet(case.local, case.mask, case.grid, case.noise, refine=0)
    use(calibration="[1.7]")
    wider = varnet(case.local, case.mask, case.grid, case.noise, refine=0)
    assert torch.equal(plain.chi, wider.chi)
    torch.testing.assert_close(1.7 * plain.chi_noise, wider.chi_noise)


def test_a_strange_volume_is_flagged(case, use):
    """Known is this case with other noise; a field of noise alone is not."""
    varnet = load("inversion", "varnet").function
    rows, kept = [], familiar.statistics
    use(familiar=familiar.to_json(familiar.Familiar(torch.zeros(30), torch.ones(30), torch.eye(30), 1e9)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(familiar, "statistics", lambda *data: rows.append(kept(*data)) or rows[-1])
        for seed in range(8):
            extra = 0.003 * torch.randn(case.local.shape, generator=torch.Generator().manual_seed(seed))
            varnet((case.local + extra) * case.mask, case.mask, case.grid, case.noise, stages=1)
    use(familiar=familiar.to_json(familiar.learn(torch.stack(rows))))
    known = varnet(case.local, case.mask, case.grid, case.noise, stages=1)
    assert 0 < known.novelty < 2
    noise = 0.05 * torch.randn(case.local.shape, generator=torch.Generator().manual_seed(9)) * case.mask
    with pytest.warns(ParadiaWarning, match="varnet: this volume does not look like those"):
        assert varnet(noise, case.mask, case.grid, case.noise, stages=1).novelty > 3


def test_voxels_beyond_the_training_are_told(method, case, use):
    use(voxel_size=json.dumps([0.95, 1.6]))
    method(field_of(method, case), case.mask, case.grid)
    use(voxel_size=json.dumps([1.1, 1.6]))
    with pytest.warns(ParadiaWarning, match=r"voxels of 1 × 1.2 × 1.5 mm: the network .* was trained with edges from 1.1 to 1.6 mm"):
        method(field_of(method, case), case.mask, case.grid)


def test_a_field_in_hertz_is_refused(method, case):
    with pytest.raises(InputError, match="in another unit. Divide Hz by 42.577"):
        method(127.7 * field_of(method, case), case.mask, case.grid)


def test_nan_in_the_mask_is_refused(method, case):
    field = field_of(method, case).clone()
    field[22, 20, 18] = torch.nan
    with pytest.raises(NonFiniteError, match="NaN or Inf in the mask"):
        method(field, case.mask, case.grid)


def test_empty_mask_is_refused(method, case):
    with pytest.raises(MaskError, match="empty"):
        method(field_of(method, case), torch.zeros_like(case.mask), case.grid)


def test_shapes_that_do_not_fit_are_named(method, case):
    with pytest.raises(GeometryError, match=r"mask has shape \(43, 41, 36\), but the grid \(44, 41, 36\)"):
        method(field_of(method, case)[1:], case.mask[1:], case.grid)


@pytest.mark.parametrize("knobs", [{"stages": 0}, {"trust": -1.0}, {"trust": math.nan}, {"trust": math.inf}, {"refine": -1}])
@pytest.mark.parametrize("name", ["varnet", "nextqsm"])
def test_knobs_that_make_no_sense_are_refused(name, knobs, case):
    stage = "inversion" if name == "varnet" else "singlestep"
    with pytest.raises(InputError, match=f"{next(iter(knobs))} must be .* Leave it out for its default"):
        load(stage, name).function(case.total, case.mask, case.grid, **knobs)


def test_changed_weights_are_refused(method, case):
    for path in store.FOLDER.glob("*.safetensors"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    with pytest.raises(WeightsError, match="not the released ones"):
        method(field_of(method, case), case.mask, case.grid)


def test_between_its_networks_nextqsm_trusts_the_mended_field_as_far_as_the_first_does(case, use, monkeypatch):
    """What it inverts anew, with which noise, what the second network begins with, and that it sees what the fit left over."""
    use()
    seen, shown = {}, []
    pose, mend = total.problem, total.clear

    def inverted(field, mask, grid, noise):
        seen["field"], seen["noise"], seen["chi"] = field, noise, begin(field, mask, grid, noise)
        return seen["chi"]

    def posed(field, start, mask, noise, grid):
        shown.append((field, start, mask))
        return pose(field, start, mask, noise, grid)

    def mended(*given):
        seen["mended"], seen["rest"] = mend(*given), given[4]
        return seen["mended"]

    monkeypatch.setattr(total, "begin", inverted)
    monkeypatch.setattr(total, "problem", posed)
    monkeypatch.setattr(total, "clear", mended)
    result = nextqsm.nextqsm(case.total, case.mask, case.grid, case.noise, start=20, rounds=2, max_iter=5)
    field, start, inside = shown[0]
    torch.testing.assert_close(seen["noise"][inside], torch.hypot(case.noise, result.local_noise)[case.mask])
    assert seen["field"] is seen["mended"].value
    assert start is seen["chi"]
    torch.testing.assert_close(field, seen["mended"].value + seen["rest"])
    assert seen["rest"][inside].abs().mean() > 1e-4


def test_nextqsm_hands_both_sides_from_one_stage_to_the_next(case, use, monkeypatch):
    """What was found outside is where the next stage begins, and the network sees the χ, its field and what is left over."""
    use()
    settled, posed = [], []
    settle, pose = total.settle, total.problem

    def spied(estimate, outside, field, deviation, mask, dipole, **knobs):
        found = settle(estimate, outside, field, deviation, mask, dipole, **knobs)
        settled.append((outside, found, dipole(found.chi) * mask))
        return found

    def shown(field, start, *rest):
        posed.append((field, start))
        return pose(field, start, *rest)

    monkeypatch.setattr(total, "settle", spied)
    monkeypatch.setattr(total, "problem", shown)
    result = nextqsm.nextqsm(case.total, case.mask, case.grid, case.noise, start=20, rounds=2, max_iter=5, stages=3)
    assert len(settled) == 3
    assert len(posed) == 3
    for (_, found, _), (outside, _, _) in pairwise(settled):
        assert outside is found.outside
    for (_, found, local), (field, start) in zip(settled, posed[1:], strict=False):
        assert start is found.chi
        torch.testing.assert_close(field, local + found.rest)
    _, last, local = settled[-1]
    assert local.norm() == pytest.approx(float(result.local_field[case.mask].norm()), rel=1e-4)
    assert result.residual[case.mask].norm() == pytest.approx(float(last.rest.norm()), rel=1e-4)


def test_what_nextqsm_returns_belongs_together(case, use):
    """The local field is that of its χ; what is left of the total field beside that and the sources outside is noise."""
    use()
    result = nextqsm.nextqsm(case.total, case.mask, case.grid, case.noise, start=20, rounds=2, max_iter=5)
    dipole = Dipole(case.grid, padding=2)
    off = (dipole(result.chi) - result.local_field)[case.mask]
    assert off.norm() < 0.05 * result.local_field[case.mask].norm()  # the window's margin is narrower
    assert 0.3 < result.residual[case.mask].std() / case.noise[0, 0, 0] < 1.2  # noise, some of it fitted
    assert (case.total - result.local_field)[case.mask].std() > 10 * result.residual[case.mask].std()
    kept = nextqsm.nextqsm(case.total, case.mask, case.grid, case.noise, start=20, rounds=2, max_iter=5, residual=True)
    assert torch.equal(kept.chi, result.chi)
    torch.testing.assert_close(kept.local_field, result.local_field + result.residual)
    once = nextqsm.nextqsm(case.total, case.mask, case.grid, case.noise, start=20, rounds=2, max_iter=5, stages=1)
    assert (once.chi - result.chi).norm() > 1e-3 * once.chi.norm()


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_noise_that_is_zero_or_no_number_is_unknown_and_outside_the_mask_nothing(method, case, value):
    field = field_of(method, case)
    hole = case.mask & ball(case.grid, (0.5, 0.4, 0.5), (0.06, 0.06, 0.06))
    unknown = images(method(field, case.mask, case.grid, case.noise.masked_fill(hole, 0.0)))
    spoilt = images(method(field, case.mask, case.grid, case.noise.masked_fill(hole | ~case.mask, value)))
    for name, image in unknown.items():
        assert image.isfinite().all()
        assert torch.equal(spoilt[name], image)


@pytest.mark.parametrize("name", ["varnet", "nextqsm"])
def test_a_voxel_of_unknown_noise_is_not_taken_for_certain(name, case, use):
    use()
    hole = case.mask & ball(case.grid, (0.5, 0.4, 0.5), (0.05, 0.05, 0.05))
    loaded = load(*next(pair for pair in METHODS if pair[1] == name))
    wrong = torch.where(hole, 0.4, 0.0)
    field = (case.local if name == "varnet" else case.total) + wrong

    def stirred(noise):
        return (loaded.function(field, case.mask, case.grid, noise).chi[hole]).std()

    assert stirred(case.noise.masked_fill(hole, 0.0)) < 0.5 * stirred(case.noise.masked_fill(hole, 1e-4))


def test_noise_that_is_known_nowhere_is_none(method, case):
    field = field_of(method, case)
    given = images(method(field, case.mask, case.grid, torch.zeros_like(case.noise)))
    for name, image in images(method(field, case.mask, case.grid)).items():
        assert torch.equal(given[name], image)


@pytest.mark.parametrize("even", [False, True])
def test_a_mask_of_one_voxel_and_an_even_field_have_numbers(method, case, even):
    mask = case.mask if even else torch.zeros_like(case.mask)
    mask = mask.clone()
    mask[20, 20, 20] = True
    for image in images(method(torch.where(mask, 0.01, 0.0), mask, case.grid)).values():
        assert image.isfinite().all()
