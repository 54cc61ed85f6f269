"""What both learned separations keep, whatever their weights, and that each network of random weights is asked."""

from __future__ import annotations

import hashlib
import inspect
import json
from typing import NamedTuple

import pytest
import torch

from paradia.errors import GeometryError, InputError, MaskError, NonFiniteError, ParadiaWarning, WeightsError
from paradia.grid import Grid
from paradia.inversion.l1bayes import l1bayes
from paradia.inversion.nltv import nltv
from paradia.nets import store
from paradia.nets.separated import R2_SPREAD, TYPICAL_R2
from paradia.nets.unet import UNet3d
from paradia.operators.dipole import Dipole
from paradia.registry import load
from paradia.scan import Scan
from paradia.separation.closed_form import closed_form

NAMES = ("sepnet_r2prime", "sepnet_r2star")
SHAPES = {"sepnet": (10, 4)}
DR = {"dr_pos": 150.0, "dr_neg": 110.0}
QUICK = {"stages": 1}


class Case(NamedTuple):
    board: dict
    chi_pos: torch.Tensor
    chi_neg: torch.Tensor


@pytest.fixture(scope="module")
def case():
    """Lumps of either kind in tissue of both, at 3 T."""
    grid = Grid((28, 27, 22), (1.4, 1.6, 2.2), (0.2, -0.3, 0.93))
    generator = torch.Generator().manual_seed(7)
    places = torch.meshgrid(*((torch.arange(n) + 0.5) / n - 0.5 for n in grid.shape), indexing="ij")

    def ball(centre, radius):
        return sum((p - c).square() for p, c in zip(places, centre, strict=True)) < radius**2

    mask = ball((0, 0, 0), 0.42)
    pos, neg = torch.full(grid.shape, 0.02), torch.full(grid.shape, 0.03)
    pos[ball((-0.18, 0, 0), 0.13)], neg[ball((0.16, -0.1, 0.05), 0.13)] = 0.12, 0.1
    pos, neg = pos * mask, neg * mask
    draws = torch.randn((3, *grid.shape), generator=generator)
    rate = DR["dr_pos"] * pos + DR["dr_neg"] * neg + 0.5 * draws[0]
    board = {
        "local_field": (Dipole(grid, padding=2)(pos - neg) + 0.002 * draws[1]) * mask,
        "r2prime": rate.clamp_min(0) * mask,
        "r2star": (rate + 13 + 0.5 * draws[2]).clamp_min(0) * mask,
        "r2prime_noise": torch.full(grid.shape, 0.5) * mask,
        "r2star_noise": torch.full(grid.shape, 0.5) * mask,
        "noise": torch.full(grid.shape, 0.002) * mask,
        "chi": (pos - neg) * mask,
        "mask": mask,
        "grid": grid,
        "scan": Scan((0.005, 0.01, 0.015), 3.0),
    }
    return Case(board, pos, neg)


@pytest.fixture(scope="module", autouse=True)
def random_weights(tmp_path_factory):
    """Let the methods ask networks of random weights, the last layer too."""
    folder = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "FOLDER", folder)
        save(folder)
        yield folder
    store.network.cache_clear()


def save(folder, **about):
    lines = []
    for name, (inputs, outputs) in SHAPES.items():
        torch.manual_seed(3)
        architecture = {"inputs": inputs, "outputs": outputs, "widths": (8, 16)}
        net = UNet3d(**architecture)
        torch.nn.init.normal_(net.head.weight, std=0.02)
        content = store.pack(net, architecture, task=name, **about.get(name, {}))
        (folder / f"{name}.safetensors").write_bytes(content)
        lines.append(f'[{name}]\nfile = "{name}.safetensors"\nsha256 = "{hashlib.sha256(content).hexdigest()}"\n')
    (folder / "weights.toml").write_text("\n".join(lines))
    store.network.cache_clear()


@pytest.fixture
def use(random_weights):
    """Write more into the headers of the weights, and take it away afterwards."""
    yield lambda **about: save(random_weights, **about)
    save(random_weights)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def rate_of(name):
    return name.removeprefix("sepnet_")


def separate(name, board, without=(), unchecked=False, **knobs):
    method = load("separation", name)
    data = {key: board[key] for key in method.takes if key in board and key not in without}
    function = inspect.unwrap(method.function) if unchecked else method.function
    return function(**data, **{**QUICK, **DR, **knobs})


def images(result):
    return {key: value for key, value in result._asdict().items() if value is not None and value.ndim == 3}


def test_keeps_shape_precision_signs_and_mask(name, case):
    result = separate(name, case.board)
    assert result._fields == load("separation", name).gives
    assert set(images(result)) == {*result._fields} - {"source_novelty", "chi_pos_band", "chi_neg_band"}
    for image in images(result).values():
        assert image.shape == case.board["mask"].shape
        assert image.dtype == torch.float32
        assert torch.isfinite(image).all()
        assert not image[~case.board["mask"]].any()
    for key in ("chi_pos", "chi_neg", "closed_pos", "closed_neg", "disagreement"):
        assert getattr(result, key).min() >= 0
    for key in ("chi_pos_noise", "chi_neg_noise"):
        assert getattr(result, key)[case.board["mask"]].min() > 0


def test_the_network_is_asked(name, case):
    """Without a χ it begins as in the training, with a short `l1bayes` and a short `nltv`; a silent one leaves the first guess."""
    board = case.board
    asked = separate(name, board)
    own = separate(name, board, without=("chi",))
    assert not torch.equal(own.chi_pos, asked.chi_pos)
    given = board["local_field"], board["mask"], board["grid"], board["noise"]
    start = (l1bayes(*given, max_iter=7, tol=torch.inf) + nltv(*given, max_iter=24, tol=torch.inf)) / 2
    again = separate(name, {**board, "chi": start}).chi_pos
    assert (again - own.chi_pos).norm() < 0.02 * own.chi_pos.norm()  # the inversion's own window is another
    torch.nn.init.zeros_(store.network("sepnet", "cpu").head.weight)
    silent = separate(name, board)
    store.network.cache_clear()
    assert (silent.chi_pos - asked.chi_pos).norm() > 0.01 * asked.chi_pos.norm()
    assert not torch.equal(separate(name, board, stages=2).chi_pos, asked.chi_pos)


def test_the_closed_form_takes_a_decay_below_the_typical_r2_for_none(case):
    """In fluid, say: all of χ is one source then, and no negative rate takes some of it away."""
    board = {**case.board, "r2star": torch.full_like(case.board["r2star"], 5.0)}
    mask = board["mask"]
    want = closed_form(board["chi"], torch.zeros_like(board["r2star"]), mask, board["grid"], board["scan"], **DR)
    got = separate("sepnet_r2star", board)
    torch.testing.assert_close(got.closed_pos, want.chi_pos)
    torch.testing.assert_close(got.closed_neg, want.chi_neg)


def test_the_closed_form_is_that_of_its_method(case):
    """For χ with the mean that it came with."""
    board = case.board
    mask = board["mask"]
    want = closed_form(board["chi"], board["r2prime"], mask, board["grid"], board["scan"], **DR)
    got = separate("sepnet_r2prime", board)
    torch.testing.assert_close(got.closed_pos, want.chi_pos)
    torch.testing.assert_close(got.closed_neg, want.chi_neg)
    apart = ((got.chi_pos - want.chi_pos).square() + (got.chi_neg - want.chi_neg).square()) / 2
    torch.testing.assert_close(got.disagreement, apart.sqrt())


def test_the_residuals_are_what_both_maps_leave(name, case):
    board = case.board
    mask, result = board["mask"], separate(name, case.board)
    dipole = Dipole(board["grid"], padding=2)
    left = (board["local_field"] - dipole(result.chi_pos - result.chi_neg))[mask]
    body, _ = torch.linalg.qr(torch.stack([dipole(mask.float())[mask], torch.ones(int(mask.sum()))], 1))
    found = result.field_residual[mask]
    assert found.mean().abs() < 0.1 * found.std()
    left, found = (image - body @ (body.T @ image) for image in (left, found))  # what nobody knows: an even χ, and a constant
    assert (left - found).norm() < 0.08 * left.norm()  # the window's margin is narrower
    rate = board["r2prime"] if name == "sepnet_r2prime" else (board["r2star"] - TYPICAL_R2).clamp_min(0)
    want = (rate - DR["dr_pos"] * result.chi_pos - DR["dr_neg"] * result.chi_neg) * mask
    torch.testing.assert_close(result.rate_residual, want, atol=1e-4, rtol=1e-4)


def test_r2star_is_r2prime_that_is_known_less_well(case):
    """Both ask one network in the same way."""
    board, typical = case.board, R2_SPREAD * TYPICAL_R2
    prime = {
        **board,
        "r2prime": (board["r2star"] - TYPICAL_R2).clamp_min(0),
        "r2prime_noise": board["r2star_noise"].hypot(torch.tensor(typical)),
    }
    for a, b in zip(separate("sepnet_r2prime", prime), separate("sepnet_r2star", board), strict=True):
        assert a is b is None or torch.equal(a, b)


def test_nothing_gives_nothing(name, case):
    board = {**case.board, **{key: 0 * case.board[key] for key in ("local_field", "chi", rate_of(name))}}
    result = separate(name, board, band=0.2)
    assert not any(image.any() for image in result)
    if name == "sepnet_r2prime":
        assert not any(image.any() for image in images(separate(name, board, without=("chi",))).values())


def test_what_lies_outside_the_mask_does_not_matter(name, case):
    mask = case.board["mask"]
    spoilt = {
        key: torch.where(mask, value, torch.nan) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for key, value in case.board.items()
    }
    for key, image in images(separate(name, spoilt, without=("chi",))).items():
        torch.testing.assert_close(image, getattr(separate(name, case.board, without=("chi",)), key))


def test_is_the_same_every_time_and_leaves_the_input_alone(name, case):
    before = {key: value.clone() for key, value in case.board.items() if isinstance(value, torch.Tensor)}
    first, second = separate(name, case.board), separate(name, case.board)
    assert all(torch.equal(a, b) for a, b in zip(images(first).values(), images(second).values(), strict=True))
    assert all(torch.equal(case.board[key], value) for key, value in before.items())


def test_noises_are_judged_where_they_are_not_given(name, case):
    """From what the images show: close to what was put in, so that the answer hardly changes."""
    known, judged = separate(name, case.board), separate(name, case.board, without=("noise", f"{rate_of(name)}_noise"))
    assert 0 < (known.chi_pos - judged.chi_pos).norm() < 0.1 * known.chi_pos.norm()


def test_noises_are_judged_in_a_single_slice_too(name, case):
    middle = 11
    board = {k: v[:, :, middle : middle + 1] if isinstance(v, torch.Tensor) else v for k, v in case.board.items()}
    board["grid"] = case.board["grid"].with_shape((28, 27, 1))
    known, judged = separate(name, board), separate(name, board, without=("noise", f"{rate_of(name)}_noise"))
    assert 0 < (known.chi_pos - judged.chi_pos).norm() < 0.5 * known.chi_pos.norm()


def test_a_band_is_half_of_what_the_relaxivities_move(name, case):
    board, share = case.board, 0.2
    result = separate(name, board, band=share)
    several = [separate(name, board, dr_pos=f * DR["dr_pos"], dr_neg=f * DR["dr_neg"]) for f in (1 - share, 1, 1 + share)]
    for key in ("chi_pos", "chi_neg"):
        every = torch.stack([getattr(one, key) for one in several])
        want = (every.amax(0) - every.amin(0)) / 2
        assert (getattr(result, f"{key}_band") - want).norm() < 0.05 * want.norm()  # the network rounds to half precision
        assert want[board["mask"]].mean() > 1e-3


def test_default_relaxivity_is_the_stated_one_at_any_field_strength(name, case):
    board = {**case.board, "scan": Scan((0.005,), 7.0)}
    usual = separate(name, board, dr_pos=None, dr_neg=None)
    stated = separate(name, board, dr_pos=137 * 7 / 3, dr_neg=137 * 7 / 3)
    assert torch.equal(usual.chi_pos, stated.chi_pos)
    assert not torch.equal(usual.chi_pos, separate(name, board).chi_pos)
    with pytest.raises(InputError, match="no relaxivity is known at 14.1 T"):
        separate(name, {**case.board, "scan": Scan((0.005,), 14.1)}, dr_pos=None)


def test_calibration_multiplies_the_deviations(name, case, use):
    plain = separate(name, case.board)
    use(sepnet={"calibration": "[1.7, 0.6]"})
    other = separate(name, case.board)
    assert torch.equal(plain.chi_pos, other.chi_pos)
    torch.testing.assert_close(1.7 * plain.chi_pos_noise, other.chi_pos_noise)
    torch.testing.assert_close(0.6 * plain.chi_neg_noise, other.chi_neg_noise)


def test_voxels_beyond_the_training_are_told(name, case, use):
    use(sepnet={"voxel_size": json.dumps([0.9, 2.0])})
    with pytest.warns(ParadiaWarning, match=r"voxels of 1.4 × 1.6 × 2.2 mm: the network sepnet was trained with"):
        separate(name, case.board)


def test_refuses_what_does_not_fit(name, case):
    board, image = case.board, rate_of(name)
    with pytest.raises(GeometryError, match=rf"{image} has shape \(28, 27, 21\), but the grid \(28, 27, 22\)"):
        separate(name, {**board, image: board[image][..., :-1].contiguous()}, unchecked=True)
    with pytest.raises(MaskError, match="the mask is empty"):
        separate(name, {**board, "mask": board["mask"] & False})
    for key in ("local_field", image, "chi", "noise", f"{image}_noise"):
        broken = board[key].clone()
        broken[14, 13, 11] = torch.nan
        with pytest.raises(NonFiniteError, match=f"{key} is NaN or Inf in 1 voxels"):
            separate(name, {**board, key: broken})


def test_refuses_units_that_cannot_be(name, case):
    board, rate = case.board, rate_of(name)
    with pytest.raises(InputError, match="chi must be in ppm"):
        separate(name, {**board, "chi": 1e3 * (board["chi"] + 0.05)})
    with pytest.raises(InputError, match="in another unit. Divide Hz by 42.577"):
        separate(name, {**board, "local_field": 127.7 * board["local_field"]})
    with pytest.raises(InputError, match=f"{rate} must be in 1/s, but 99 % .* can only be 1/ms"):
        separate(name, {**board, rate: 1e-3 * board[rate]})
    with pytest.raises(InputError, match=f"{rate} is negative in .*% of the mask"):
        separate(name, {**board, rate: -board[rate]})
    with pytest.warns(ParadiaWarning, match=f"{rate} is negative in .* more than noise makes"):
        separate(name, {**board, rate: board[rate] - 300 * (board["chi"] < -0.05)})


def test_the_zero_of_chi_is_kept_as_far_as_asked(name, case):
    """Whole with anchor 1; of the rest the network's own zero, which an offset of χ does not reach."""
    mask = case.board["mask"]
    moved = {**case.board, "chi": case.board["chi"] + 0.004 * mask}

    def middle(board, anchor):
        found = separate(name, board, anchor=anchor)
        return float((found.chi_pos - found.chi_neg)[mask].mean())

    assert middle(moved, 1.0) == pytest.approx(float(moved["chi"][mask].mean()), abs=3e-4)
    assert middle(moved, 0.0) == pytest.approx(middle(case.board, 0.0), abs=1e-5)
    assert middle(moved, 0.5) - middle(case.board, 0.5) == pytest.approx(0.002, abs=3e-4)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"stages": 0}, "stages must be 1 or more"),
        ({"trust": -1.0}, "trust must be zero or"),
        ({"trust": float("nan")}, "trust must be zero or"),
        ({"trust": float("inf")}, "trust must be zero or"),
        ({"refine": -1}, "refine must be zero or"),
        ({"anchor": -0.1}, "anchor must be a share from 0 to 1"),
        ({"anchor": 1.1}, "anchor must be a share from 0 to 1"),
        ({"band": -0.1}, "band must be a share"),
        ({"band": 1.0}, "band must be a share"),
        ({"dr_neg": 0.0}, "dr_neg must be a positive relaxivity"),
    ],
)
def test_knobs_that_make_no_sense_are_refused(name, knobs, message, case):
    with pytest.raises(InputError, match=message):
        separate(name, case.board, **knobs)


def test_changed_weights_are_refused(name, case, use, random_weights):
    path = random_weights / "sepnet.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    store.network.cache_clear()
    with pytest.raises(WeightsError, match="not the released ones"):
        separate(name, case.board)


def test_noises_that_are_zero_are_unknown(name, case):
    board, rate = case.board, f"{rate_of(name)}_noise"
    hole = torch.zeros_like(board["mask"])
    hole[tuple(slice(n // 2 - 2, n // 2 + 2) for n in hole.shape)] = True
    for key in ("noise", rate):
        zero, sure, doubtful = (separate(name, {**board, key: board[key].masked_fill(hole, value)}) for value in (0.0, 1e-6, 1e3))
        assert all(image.isfinite().all() for image in images(zero).values())
        assert (zero.chi_pos - doubtful.chi_pos)[hole].norm() < (sure.chi_pos - doubtful.chi_pos)[hole].norm()
        nowhere, absent = separate(name, {**board, key: torch.zeros_like(board[key])}), separate(name, board, without=(key,))
        assert torch.equal(nowhere.chi_pos, absent.chi_pos)
