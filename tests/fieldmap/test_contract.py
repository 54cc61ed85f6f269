import math

import pytest
import torch

from paradia.errors import GeometryError, InputError, MaskError, MetadataError, NonFiniteError, ParadiaWarning
from paradia.fieldmap._echoes import prepare
from paradia.fieldmap._reliable import reliable
from paradia.grid import Grid
from paradia.pipeline.step import Step
from paradia.registry import load, methods
from paradia.scan import Scan

GRID = Grid((44, 51, 38), (1.6, 1.2, 2.0), (0.2, -0.3, 0.93))
EVEN = Scan((0.004, 0.012, 0.020, 0.028), 3.0)
ODD = Scan((0.003, 0.0085, 0.0155, 0.024, 0.035), 7.0)
every = pytest.mark.parametrize("name", methods("fieldmap"))
unwrapping = pytest.mark.parametrize("name", [name for name in methods("fieldmap") if "unwrapped" in load("fieldmap", name).needs])


def fit_to(name, data, mask, scan, grid=GRID, **knobs):
    """Give a method what it asks for by name; those that unwrap by themselves get the wrapped phase."""
    unwrapped, magnitude = data
    phase = unwrapped - 2 * math.pi * (unwrapped / (2 * math.pi)).round()
    board = {"unwrapped": unwrapped, "phase": phase, "magnitude": magnitude, "mask": mask, "grid": grid, "scan": scan}
    method = load("fieldmap", name)
    return Step("fieldmap", name, {k: v for k, v in knobs.items() if k in method.knobs})(
        **{key: board[key] for key in method.takes if key in board}
    )


def free(name):
    """Whether a method leaves the offset free in every voxel, whatever is asked for."""
    return "offset" not in load("fieldmap", name).knobs


def places():
    axes = [torch.linspace(-1, 1, n) for n in GRID.shape]
    return torch.meshgrid(*axes, indexing="ij")


def truth(scan):
    """A smooth field with a hot spot, a receiver's phase, a magnitude with structure, and a round mask."""
    x, y, z = places()
    mask = x.square() + y.square() + z.square() < 0.85
    spot = torch.exp(-((x - 0.1).square() + (y - 0.6).square() + (z + 0.2).square()) / 0.02)
    field = 0.15 * x * y - 0.1 * z + 0.4 * spot + 0.02 * torch.sin(9 * x) * torch.cos(8 * z)
    offset = 1.2 * x - 0.8 * y * z + 0.9 * x.square() - 0.7 * z**3 * y + 0.4
    amplitude = 0.8 + 0.2 * torch.sin(7 * x + 5 * y) * torch.cos(6 * z)
    times = torch.tensor(scan.echo_times)[:, None, None, None]
    return field, offset, amplitude * torch.exp(-25 * times), mask


def measured(scan, snr, seed=1, alternation=None):
    """Echoes with complex noise, unwrapped by knowing the answer: congruent to what was measured."""
    field, offset, magnitude, mask = truth(scan)
    times = torch.tensor(scan.echo_times)[:, None, None, None]
    phase = offset + scan.rad_per_ppm(1.0) * field * times
    if alternation is not None:
        phase = phase + torch.tensor([(-1.0) ** n for n in range(len(times))])[:, None, None, None] * alternation
    generator = torch.Generator().manual_seed(seed)
    noise = torch.complex(*torch.randn(2, *phase.shape, generator=generator)) / snr
    signal = torch.polar(magnitude, phase) + noise
    turns = 2 * math.pi * ((phase - signal.angle()) / (2 * math.pi)).round()
    return (signal.angle() + turns) * mask, signal.abs()


def bound(scan, snr, *, free):
    """Cramér–Rao bound of the field, ppm, for an offset that is known or free."""
    _, _, magnitude, mask = truth(scan)
    times = torch.tensor(scan.echo_times)[:, None, None, None]
    weight = magnitude.square()
    information = (weight * times.square()).sum(0)
    if free:
        information = information - (weight * times).sum(0).square() / weight.sum(0)
    return (1 / snr / information.sqrt() / scan.rad_per_ppm(1.0))[mask]


def apart(scan, snr):
    """Cramér–Rao bound where odd and even echoes have free offsets of their own."""
    _, _, magnitude, mask = truth(scan)
    times = torch.tensor(scan.echo_times)[:, None, None, None]
    information = 0
    for part in (slice(0, None, 2), slice(1, None, 2)):
        weight, time = magnitude[part].square(), times[part]
        information = information + (weight * time.square()).sum(0) - (weight * time).sum(0).square() / weight.sum(0)
    return (1 / snr / information.sqrt() / scan.rad_per_ppm(1.0))[mask]


@every
@pytest.mark.parametrize("scan", [EVEN, ODD])
@pytest.mark.parametrize("offset", ["smooth", "voxel"])
def test_the_fit_reaches_the_cramer_rao_bound_and_knows_its_noise(name, scan, offset):
    if free(name) and (offset == "smooth" or scan is ODD):
        pytest.skip("knows no smooth offset, and even echoes only")
    field, _, _, mask = truth(scan)
    fit = fit_to(name, measured(scan, 60), mask, scan, offset=offset)
    error = (fit.total_field - field)[mask]
    limit = bound(scan, 60, free=offset == "voxel")
    assert (error / limit).square().mean().sqrt() < 1.1
    assert abs(error.mean()) < 0.15 * limit.mean()
    assert (fit.noise[mask] / limit).median() == pytest.approx(1, abs=0.1)
    assert (error / fit.noise[mask]).square().mean().sqrt() == pytest.approx(1, abs=0.1)


@every
def test_the_noise_map_is_the_spread_of_repeats(name):
    """Monte Carlo over noise: right within 10 %, voxel classes of bright and dark signal apart."""
    _, _, magnitude, mask = truth(EVEN)
    fits = [fit_to(name, measured(EVEN, 40, seed), mask, EVEN) for seed in range(12)]
    spread = torch.stack([f.total_field for f in fits]).var(0)
    given = torch.stack([f.noise for f in fits]).square().mean(0)
    for part in (magnitude[0] < 0.7, magnitude[0] > 0.8):
        ratio = (given[part & mask].mean() / spread[part & mask].mean()).sqrt()
        assert ratio == pytest.approx(1, abs=0.1)


@every
def test_the_offset_is_found_up_to_whole_turns(name):
    _, offset, _, mask = truth(EVEN)
    fit = fit_to(name, measured(EVEN, 100), mask, EVEN)
    error = (fit.offset - offset)[mask]
    error = error - 2 * math.pi * (error / (2 * math.pi)).round()
    assert error.square().mean().sqrt() < (0.03 if free(name) else 0.005)


@every
def test_whole_turns_of_an_echo_make_no_difference(name):
    _, _, _, mask = truth(EVEN)
    unwrapped, magnitude = measured(EVEN, 100)
    turned = unwrapped + 2 * math.pi * torch.tensor([1.0, -1.0, 2.0, 0.0])[:, None, None, None] * mask
    straight = fit_to(name, (unwrapped, magnitude), mask, EVEN)
    assert torch.allclose(fit_to(name, (turned, magnitude), mask, EVEN).total_field, straight.total_field, atol=2e-5)


@unwrapping
def test_voxels_unwrapped_wrongly_are_mended(name):
    field, _, _, mask = truth(EVEN)
    unwrapped, magnitude = measured(EVEN, 80)
    generator = torch.Generator().manual_seed(5)
    broken = mask & (torch.rand(GRID.shape, generator=generator) < 0.01)
    unwrapped[2:] += 2 * math.pi * broken
    unwrapped[1] -= 2 * math.pi * (broken & (torch.rand(GRID.shape, generator=generator) < 0.5))
    fit = fit_to(name, (unwrapped, magnitude), mask, EVEN)
    assert ((fit.total_field - field)[broken].abs() > 0.02).float().mean() < (0.02 if name == "nonlinear" else 0.05)


@every
@pytest.mark.parametrize("strength", [0.3, 1.5])
def test_bipolar_readouts_are_seen_and_corrected(name, strength):
    field, _, _, mask = truth(EVEN)
    x, _, _ = places()
    unwrapped, magnitude = measured(EVEN, 80, alternation=strength * x)
    fit = fit_to(name, (unwrapped, magnitude), mask, EVEN)
    error = (fit.total_field - field)[mask]
    limit = apart(EVEN, 80) if free(name) else bound(EVEN, 80, free=False)
    assert error.std() < 1.15 * limit.square().mean().sqrt()
    left = fit_to(name, (unwrapped, magnitude), mask, EVEN, bipolar=False)
    assert (left.total_field - field)[mask].std() > 1.5 * error.std()


def test_a_bipolar_readout_of_two_echoes_is_warned_of():
    _, _, _, mask = truth(EVEN)
    scan = Scan(EVEN.echo_times[:2], 3.0)
    with pytest.warns(ParadiaWarning, match="three are needed"):
        Step("fieldmap", "linear", {"bipolar": True})(*measured(scan, 80), mask, GRID, scan)


@every
def test_odd_in_the_phase_and_nothing_outside_the_mask(name):
    _, _, _, mask = truth(EVEN)
    unwrapped, magnitude = measured(EVEN, 60)
    fit = fit_to(name, (unwrapped, magnitude), mask, EVEN)
    mirrored = fit_to(name, (-unwrapped, magnitude), mask, EVEN)
    assert torch.allclose(mirrored.total_field, -fit.total_field, atol=1e-5)
    for part in fit:
        assert part.shape == GRID.shape
        assert part.dtype == (torch.bool if part is fit.mask else torch.float32)
        assert torch.isfinite(part).all()
        assert not part[~mask].any()


@every
def test_axes_may_be_permuted_with_the_grid(name):
    _, _, _, mask = truth(EVEN)
    unwrapped, magnitude = measured(EVEN, 60)
    order = (2, 0, 1)
    echoes = (0, *(a + 1 for a in order))
    fit = fit_to(name, (unwrapped, magnitude), mask, EVEN)
    moved = (unwrapped.permute(echoes).contiguous(), magnitude.permute(echoes).contiguous())
    turned = fit_to(name, moved, mask.permute(order), EVEN, GRID.permute(order))
    assert (turned.total_field - fit.total_field.permute(order)).abs().max() < 2e-4


@unwrapping
def test_one_echo_gives_a_field_and_its_noise(name):
    field, offset, _, mask = truth(EVEN)
    scan = Scan((0.02,), 3.0)
    unwrapped, magnitude = measured(scan, 50)
    fit = fit_to(name, (unwrapped, magnitude), mask, scan)
    expected = field + offset / scan.rad_per_ppm(0.02)
    difference = (fit.total_field - expected)[mask]
    difference = difference - difference.median()
    assert difference.square().mean().sqrt() == pytest.approx(fit.noise[mask].square().mean().sqrt().item(), rel=0.25)
    assert not fit.offset.any()


@every
def test_voxels_without_signal_have_a_number_and_large_noise(name):
    _, _, _, mask = truth(EVEN)
    unwrapped, magnitude = measured(EVEN, 60)
    magnitude[:, 20:22, 25, 18] = 0
    fit = fit_to(name, (unwrapped, magnitude), mask, EVEN)
    assert torch.isfinite(fit.total_field).all()
    assert fit.noise[20, 25, 18] > 100 * fit.noise[mask].median()


@every
@pytest.mark.parametrize("times", [(0.0025, 0.0225), (0.015, 0.020)])
def test_two_echoes_with_an_offset_in_every_voxel_know_their_noise(name, times):
    scan = Scan(times, 3.0)
    field, _, _, mask = truth(scan)
    fit = fit_to(name, measured(scan, 60), mask, scan, offset="voxel")
    assert (fit.noise[mask] / bound(scan, 60, free=True)).median() == pytest.approx(1, abs=0.08)
    error = (fit.total_field - field)[mask]
    assert ((error - error.median()) / fit.noise[mask]).square().mean().sqrt() == pytest.approx(1, abs=0.08)


@every
@pytest.mark.parametrize("scan", [EVEN, Scan(EVEN.echo_times[:2]), Scan(EVEN.echo_times[:1])])
def test_voxels_without_signal_do_not_lower_the_noise_of_others(name, scan):
    """A mask that is two thirds air, set to zero by the scanner, and one echo that is dropped in half of the rest."""
    if name == "mdi" and len(scan.echo_times) == 1:
        pytest.skip("compares echoes")
    _, _, _, mask = truth(scan)
    unwrapped, magnitude = measured(scan, 60)
    whole = fit_to(name, (unwrapped, magnitude), mask, scan, bipolar=False)
    magnitude[..., 15:] = 0
    if scan is EVEN:
        magnitude[2, ..., :10] = 0
    partly = fit_to(name, (unwrapped, magnitude), mask, scan, bipolar=False)
    bright = mask & (torch.arange(GRID.shape[2]) >= 10) & (torch.arange(GRID.shape[2]) < 14)
    assert (partly.noise[bright] / whole.noise[bright]).median() == pytest.approx(1, abs=0.05)


@every
@pytest.mark.parametrize("offset", ["none", "voxel"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_is_no_noise(name, offset, dtype):
    """Echoes without any noise, of phases that span many turns: nothing tells one voxel from another."""
    field, _, magnitude, mask = truth(EVEN)
    phase = torch.stack([EVEN.rad_per_ppm(t) * (field + 2 * places()[0]).to(dtype) for t in EVEN.echo_times])
    fit = fit_to(name, (phase, magnitude.to(dtype)), mask, EVEN, offset=offset)
    assert torch.equal(fit.mask, mask)
    assert 0 < fit.noise[mask].median() < 1e-4


@every
def test_what_the_echoes_do_not_tell_is_peeled_off_the_edge_and_kept_inside(name):
    _, _, _, mask = truth(EVEN)
    unwrapped, magnitude = measured(EVEN, 60)
    magnitude[:, :, :, 30:] *= 0.001  # signal lost beside air
    magnitude[:, 20:23, 24:27, 17:19] *= 0.001  # and in a bleeding
    fit = fit_to(name, (unwrapped, magnitude), mask, EVEN)
    assert not fit.mask[:, :, 30:].any()
    assert fit.mask[20:23, 24:27, 17:19].all()
    assert torch.equal(fit.mask[:, :, :29], mask[:, :, :29])
    everything = fit_to(name, (unwrapped, magnitude), mask, EVEN, noise_limit=math.inf)
    assert torch.equal(everything.mask, mask)


def test_a_fit_of_no_steps_is_refused():
    _, _, _, mask = truth(EVEN)
    with pytest.raises(InputError, match="max_iter must be 1 or more, got 0"):
        fit_to("nonlinear", measured(EVEN, 60), mask, EVEN, max_iter=0)


@pytest.mark.parametrize("name", ["linear", "nonlinear"])
def test_a_smooth_offset_needs_a_width(name):
    _, _, _, mask = truth(EVEN)
    with pytest.raises(InputError, match="smoothing must be positive, got 0"):
        fit_to(name, measured(EVEN, 60), mask, EVEN, smoothing=0.0)
    assert fit_to(name, measured(EVEN, 60), mask, EVEN, smoothing=0.0, offset="voxel").total_field.isfinite().all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"magnitude": torch.ones(3, *GRID.shape)}, GeometryError, "differ in shape. Give images of one scan"),
        ({"scan": Scan((0.004, 0.008))}, MetadataError, "4 echoes and 2 echo times"),
        ({"mask": torch.ones(3, 3, 3, dtype=torch.bool)}, GeometryError, "differ in shape"),
        ({"mask": torch.zeros(GRID.shape, dtype=torch.bool)}, MaskError, "the mask is empty"),
    ],
)
def test_data_that_do_not_fit_are_refused(change, error, message):
    given = {
        "unwrapped": torch.zeros(4, *GRID.shape),
        "magnitude": torch.ones(4, *GRID.shape),
        "mask": torch.ones(GRID.shape, dtype=torch.bool),
        "grid": GRID,
        "scan": EVEN,
    }
    with pytest.raises(error, match=message):
        prepare(**{**given, **change})


CORNER = (..., slice(0, 25), slice(11, 36), slice(6, 28))
SMALL = Grid((25, 25, 22), GRID.voxel_size, GRID.b0_dir)


def corner(images):
    """A part of the head with a piece of its edge, for what can be told from little."""
    return tuple(image[CORNER].clone() for image in images)


@unwrapping
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_lies_outside_the_mask_does_not_matter_even_where_it_is_no_number(name, value):
    _, _, _, mask = corner(truth(EVEN))
    unwrapped, magnitude = corner(measured(EVEN, 60))
    clean = fit_to(name, (unwrapped, magnitude), mask, EVEN, SMALL)
    spoilt = (torch.where(mask, unwrapped, value), torch.where(mask, magnitude, value))
    for one, other in zip(clean, fit_to(name, spoilt, mask, EVEN, SMALL), strict=True):
        assert torch.equal(one, other)


@every
def test_what_is_no_number_inside_the_mask_is_refused(name):
    _, _, _, mask = corner(truth(EVEN))
    for spoilt in (0, 1):
        data = corner(measured(EVEN, 60))
        data[spoilt][1, 15, 12, 12] = math.nan
        with pytest.raises(NonFiniteError, match="NaN or Inf in 1 voxels inside the mask"):
            fit_to(name, data, mask, EVEN, SMALL)


@every
@pytest.mark.parametrize("scan", [EVEN, Scan(EVEN.echo_times[:3])])
@pytest.mark.parametrize("empty", [0, 1, 2])
def test_an_echo_without_signal_does_not_count(name, empty, scan):
    """As if it had not been measured: a dropped read-out, or all of it dephased."""
    if name == "mdi" and empty == 1 and scan is not EVEN:
        pytest.skip("what is left are two echoes two spacings apart")
    field, _, _, mask = corner(truth(scan))
    unwrapped, magnitude = corner(measured(scan, 60))
    magnitude[empty], unwrapped[empty] = 0, 0
    fit = fit_to(name, (unwrapped, magnitude), mask, scan, SMALL)
    error = (fit.total_field - field)[mask]
    assert float(error.abs().median()) < 0.01


@every
def test_a_mask_without_any_signal_is_refused(name):
    _, _, _, mask = corner(truth(EVEN))
    unwrapped, magnitude = corner(measured(EVEN, 60))
    with pytest.raises(InputError, match="zero in all of the mask"):
        fit_to(name, (unwrapped, magnitude * ~mask), mask, EVEN, SMALL)


@every
def test_double_precision_gives_the_same(name):
    _, _, _, mask = corner(truth(EVEN))
    data = corner(measured(EVEN, 60))
    single, double = fit_to(name, data, mask, EVEN, SMALL), fit_to(name, tuple(part.double() for part in data), mask, EVEN, SMALL)
    assert {part.dtype for part in double[:3]} == {torch.float64}
    assert torch.allclose(double.total_field.float(), single.total_field, atol=1e-4)


@every
def test_a_magnitude_of_another_precision_takes_that_of_the_phase(name):
    _, _, _, mask = corner(truth(EVEN))
    unwrapped, magnitude = corner(measured(EVEN, 60))
    one, two = (fit_to(name, (unwrapped, given), mask, EVEN, SMALL) for given in (magnitude, magnitude.double()))
    for a, b in zip(one, two, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@every
@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan])
def test_a_limit_that_nothing_meets_is_refused(name, limit):
    _, _, _, mask = corner(truth(EVEN))
    method = load("fieldmap", name)
    data = dict(zip(("unwrapped", "magnitude"), corner(measured(EVEN, 60)), strict=True))
    board = {**data, "phase": data["unwrapped"], "mask": mask, "grid": SMALL, "scan": EVEN}
    with pytest.raises(InputError, match="noise_limit must be positive"):
        method.function(**{key: board[key] for key in method.takes if key in board}, noise_limit=limit)


def test_without_a_limit_all_stays_even_where_the_noise_is_nothing():
    mask = torch.ones(3, 4, 5, dtype=torch.bool)
    assert reliable(mask, torch.zeros(mask.shape), math.inf).all()


def test_what_is_noisy_inside_a_single_slice_stays():
    mask, noise = torch.ones(7, 6, 1, dtype=torch.bool), torch.ones(7, 6, 1)
    noise[3, 3], noise[0, 2] = 50.0, 50.0
    believed = reliable(mask, noise, 4.0)
    assert believed[3, 3].all()
    assert not believed[0, 2].any()
    assert reliable(mask[:1, :1], noise[:1, :1], 4.0).all()


@unwrapping
def test_bipolar_readouts_are_corrected_without_an_offset_too(name):
    """What combinations that take the offset out leave in the phase."""
    field, offset, _, mask = corner(truth(EVEN))
    ramp = 0.6 * places()[0]
    (x,) = corner(places()[:1])
    unwrapped, magnitude = corner(measured(EVEN, 60, alternation=ramp))
    error = (fit_to(name, (unwrapped - offset * mask, magnitude), mask, EVEN, SMALL, offset="none").total_field - field)[mask]
    across = x[mask] - x[mask].mean()  # what is the same everywhere stays: it is no sign of a readout
    assert abs(float((error * across).sum() / across.square().sum())) < 5e-4
