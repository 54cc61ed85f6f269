"""What every susceptibility weighting keeps, and what each does to a vein."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch

from paradia.contrast._filter import LowPass
from paradia.contrast._projection import projection, slices
from paradia.errors import GeometryError, InputError, MaskError, MetadataError, NonFiniteError
from paradia.grid import Grid
from paradia.pipeline.step import Step
from paradia.registry import methods
from paradia.scan import Scan

METHODS = methods("contrast")
SCAN = Scan((0.008, 0.016, 0.024), 3.0)


class Case(NamedTuple):
    magnitude: torch.Tensor
    field: torch.Tensor
    mask: torch.Tensor
    vein: torch.Tensor
    grid: Grid

    def board(self, field=None, **more):
        """All data by name."""
        field = self.field if field is None else field
        unwrapped = torch.stack([SCAN.rad_per_ppm(t) * field for t in SCAN.echo_times])
        phase = torch.atan2(unwrapped.sin(), unwrapped.cos())
        return {"magnitude": self.magnitude, "phase": phase, "mask": self.mask, "grid": self.grid, "scan": SCAN, **more}


@pytest.fixture
def case():
    """A vein along an axis of its own in even tissue, on a background field of several turns."""
    grid = Grid((44, 37, 30), (0.8, 0.9, 1.5), (0.1, -0.2, 0.97))
    x, y, z = torch.meshgrid(*[(torch.arange(n) - n / 2) * d for n, d in zip(grid.shape, grid.voxel_size, strict=True)], indexing="ij")
    vein = (x + 0.5).square() + y.square() < 1.5**2
    mask = (x / 15).square() + (y / 14).square() + (z / 19).square() < 1
    field = 0.06 * vein + 0.004 * x + 0.003 * z
    generator = torch.Generator().manual_seed(3)
    decay = torch.tensor([math.exp(-25 * t) for t in SCAN.echo_times])[:, None, None, None]
    magnitude = 100 * decay * (1 + 0.01 * torch.randn((3, *grid.shape), generator=generator))
    return Case(magnitude, field, mask, vein & mask, grid)


def run(name, board, **knobs):
    result = Step("contrast", name, knobs).run(board)
    return result["swi"], result["minip"]


@pytest.mark.parametrize("name", METHODS)
def test_a_vein_is_darkened_and_the_tissue_is_not(name, case):
    plain, _ = run(name, case.board(torch.zeros_like(case.field)))
    swi, _ = run(name, case.board())
    deep = case.mask & ~case.vein & (case.field.abs() < 1)
    assert swi[case.vein].mean() < 0.8 * plain[case.vein].mean()
    assert float(swi[deep].median()) == pytest.approx(float(plain[deep].median()), rel=0.08)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("constant", [0.0, 1.3])
def test_a_uniform_phase_leaves_the_magnitude(name, case, constant):
    board = case.board()
    board["phase"] = torch.full_like(board["phase"], constant)
    knobs = {} if name == "swi" else {"sensitivity": 0.0, "softplus": False}
    swi, _ = run(name, board, **knobs)
    weights = case.magnitude[:, case.mask].mean(1) if name == "clearswi" else torch.ones(3)
    expected = torch.tensordot(weights / weights.sum(), case.magnitude, dims=1) * case.mask
    torch.testing.assert_close(swi, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_shape_precision_and_mask(name, case):
    for image in run(name, case.board()):
        assert image.shape == case.grid.shape
        assert image.dtype == torch.float32
        assert image.isfinite().all()
        assert image.min() >= 0
    swi, minip = run(name, case.board())
    assert not swi[~case.mask].any()
    assert (minip[case.mask] <= swi[case.mask]).all()


@pytest.mark.parametrize("name", METHODS)
def test_turns_with_the_axes_and_scales_with_the_magnitude(name, case):
    swi, minip = run(name, case.board())
    board, axes = case.board(), (2, 0, 1)
    turned = {
        "magnitude": 7 * board["magnitude"].permute(0, 3, 1, 2).contiguous(),
        "phase": board["phase"].permute(0, 3, 1, 2).contiguous(),
        "mask": case.mask.permute(axes).contiguous(),
        "grid": case.grid.permute(axes),
        "scan": SCAN,
    }
    for got, want in zip(run(name, turned), (swi, minip), strict=True):
        torch.testing.assert_close(got, 7 * want.permute(axes), rtol=1e-3, atol=2e-2)


@pytest.mark.parametrize("name", METHODS)
def test_works_without_a_mask_and_the_input_is_left_alone(name, case):
    board = case.board()
    before = {key: value.clone() for key, value in board.items() if isinstance(value, torch.Tensor)}
    run(name, board)
    assert all(torch.equal(board[key], value) for key, value in before.items())
    del board["mask"]
    swi, _ = run(name, board)
    assert (swi[case.mask] > 0).float().mean() > 0.9


@pytest.mark.parametrize("name", METHODS)
def test_silence_gives_zero(name, case):
    board = case.board(magnitude=torch.zeros_like(case.magnitude))
    assert not any(image.any() for image in run(name, board))


@pytest.mark.parametrize("name", METHODS)
def test_what_does_not_fit_is_refused(name, case):
    with pytest.raises(MaskError, match="empty"):
        run(name, case.board(mask=case.mask & False))
    with pytest.raises(GeometryError, match="mask has shape"):
        run(name, case.board(grid=case.grid.with_shape((45, 37, 30))))
    with pytest.raises(NonFiniteError, match="magnitude is NaN"):
        run(name, case.board(magnitude=case.magnitude / 0))
    with pytest.raises(InputError, match="slab must be"):
        run(name, case.board(), slab=0.0)
    with pytest.raises(InputError, match="width must"):
        run(name, case.board(), width=-1.0)


def test_clearswi_says_what_it_lacks(case):
    board = case.board()
    del board["phase"]
    with pytest.raises(InputError, match="needs the phase"):
        run("clearswi", board)
    with pytest.raises(MetadataError, match="1 echo times"):
        run("clearswi", {**case.board(), "scan": Scan((0.01,), 3.0)})
    with pytest.raises(InputError, match="strength must be a positive number"):
        run("clearswi", case.board(), strength=0.0)


def test_clearswi_sees_the_same_vein_in_wrapped_unwrapped_and_local_field(case):
    wrapped = case.board()
    unwrapped = {**wrapped, "unwrapped": torch.stack([SCAN.rad_per_ppm(t) * case.field for t in SCAN.echo_times])}
    local = {**wrapped, "local_field": 0.06 * case.vein}
    images = [run("clearswi", board)[0][case.mask] for board in (wrapped, unwrapped, local)]
    for image in images[1:]:
        assert torch.corrcoef(torch.stack([images[0], image]))[0, 1] > 0.85


def test_clearswi_evens_out_the_coils(case):
    x = torch.linspace(0.5, 1.5, case.grid.shape[0])[:, None, None]
    board = case.board(torch.zeros_like(case.field), magnitude=case.magnitude * x)
    spread = {s: float((i := run("clearswi", board, sensitivity=s, softplus=False)[0][case.mask]).std() / i.mean()) for s in (0.0, 12.0)}
    assert spread[12.0] < 0.75 * spread[0.0]


def test_swi_mask_is_the_formula_of_haacke(case):
    """A phase too fast for the low-pass comes through whole: every other voxel at ±1, so that the slow part is the real axis."""
    sign = torch.ones(case.grid.shape)
    sign[1::2] = -1
    even = torch.full((1, *case.grid.shape), 50.0)
    swi = Step("contrast", "swi", {"power": 3.0})(even, sign[None], case.grid).swi
    inner = (slice(8, -8),) * 3
    expected = 50 * (1 - sign.clamp_min(0) / math.pi) ** 3
    torch.testing.assert_close(swi[inner], expected[inner], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("slab", [1.0, 4.0, 12.0, 1000.0])
@pytest.mark.parametrize("b0", [(0.0, 0.1, 0.99), (0.99, 0.1, 0.0)])
def test_projection_equals_a_brute_force_loop(slab, b0, generator):
    grid = Grid((9, 8, 13), (1.5, 1.2, 1.3), b0)
    image, mask = torch.rand(grid.shape, generator=generator), torch.rand(grid.shape, generator=generator) > 0.6
    axis = 2 if b0[2] > 0.5 else 0
    half = max(round((slab / grid.voxel_size[axis] - 1) / 2), 0)
    expected = torch.zeros(grid.shape)
    for x in range(9):
        for y in range(8):
            for z in range(13):
                place = [x, y, z]
                values = []
                for shift in range(-half, half + 1):
                    there = list(place)
                    there[axis] += shift
                    if 0 <= there[axis] < grid.shape[axis] and mask[tuple(there)]:
                        values.append(float(image[tuple(there)]))
                expected[x, y, z] = min(values, default=0.0)
    torch.testing.assert_close(projection(image, grid, slab, mask), expected)
    assert slices(grid, slab) == (axis, 2 * half + 1)


def test_low_pass_equals_a_convolution_in_space(generator):
    """Independent: the discrete kernel of the windows, laid out in space and summed with scipy."""
    from scipy.ndimage import convolve1d

    grid = Grid((24, 21, 18), (1.0, 1.2, 1.5))
    image = torch.rand(grid.shape, generator=generator)
    low_pass = LowPass(grid, 4.0, image)
    expected = torch.nn.functional.pad(image, [0, low_pass.padded[2] - 18, 0, low_pass.padded[1] - 21, 0, low_pass.padded[0] - 24]).double()
    for axis, (n, d) in enumerate(zip(low_pass.padded, grid.voxel_size, strict=True)):
        k = torch.fft.fftfreq(n, d, dtype=torch.float64)
        window = torch.where(k.abs() < 1 / 8, 0.5 * (1 + torch.cos(2 * math.pi * k * 4.0)), 0.0)
        kernel = torch.fft.fftshift(torch.fft.ifft(window).real)
        if n % 2 == 0:
            kernel = torch.cat([kernel, kernel[:1]])
            kernel[0] /= 2
            kernel[-1] /= 2
        expected = torch.from_numpy(convolve1d(expected.numpy(), kernel.numpy(), axis=axis, mode="wrap"))
    torch.testing.assert_close(low_pass(image), expected[:24, :21, :18].float(), rtol=1e-4, atol=1e-5)


def test_homodyne_filter_takes_a_slow_ramp_away_and_minds_no_wraps(case):
    board = case.board(0.02 * torch.arange(44.0)[:, None, None].expand(case.grid.shape))
    low_pass = LowPass(case.grid, 4.0, case.magnitude)
    fast = low_pass.without_slow_phase(case.magnitude[2], board["phase"][2])
    inner = (slice(12, -12), slice(8, -8), slice(6, -6))
    assert board["phase"][2].abs().max() > 3
    assert fast[inner].abs().max() < 0.05


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_outside_the_mask_is_as_dark_as_nothing(name, case, value):
    board = case.board()
    outside = {**board, "magnitude": board["magnitude"] * case.mask}
    for spoilt in ("magnitude", "phase"):
        given = {**board, spoilt: torch.where(case.mask, board[spoilt], value)}
        for one, other in zip(run(name, given), run(name, outside), strict=True):
            assert torch.allclose(one, other, rtol=1e-5, atol=1e-3 if name == "swi" or spoilt == "magnitude" else 1.0)
