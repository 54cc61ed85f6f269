"""Scans against the equations they are said to follow, each reckoned here in another way."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from paradia.epg import cpmg
from paradia.errors import GeometryError, InputError, MetadataError
from paradia.grid import Grid
from paradia.operators.dipole import Dipole
from paradia.relaxometry.nonlinear import nonlinear
from paradia.relaxometry.r2_epg import r2_epg
from paradia.simulate._signal import averaged, encoded
from paradia.simulate.acquire import FAT, orientations, scan
from paradia.simulate.acquisition import Acquisition, Gre, SpinEcho, T1w
from paradia.simulate.imperfect import LARGEST_SHIFT, Errors
from paradia.simulate.subject import subject

GRID = Grid((50, 57, 46), (4.0, 4.0, 4.4), (0.1, -0.25, 0.96))
CLEAN = {"snr": math.inf, "transmit": 0.0, "receive": 0.0, "receiver_phase": 0.0}
PLAIN = Gre(**CLEAN, dephasing=False, fat=False)


@pytest.fixture(scope="module")
def person():
    return subject(2, grid=GRID)


@pytest.fixture(scope="module")
def block(person):
    """The same person made of one stuff, in no field."""
    one = torch.ones(GRID.shape)
    return person._replace(
        density=0.8 * one, r1=one, r2=14 * one, r2prime=6 * one, r2star=20 * one, fat=0 * one, total_field=0 * one, local_field=0 * one
    )


def test_noise_has_the_level_and_the_ratio_asked_for(person):
    plain, noisy = (scan(person, replace(PLAIN, snr=snr), seed=1) for snr in (math.inf, 80.0))
    sigma = float(noisy.noise[0, 0, 0])
    assert float(noisy.noise.max()) == sigma
    assert float(plain.images[0].abs()[noisy.mask].mean()) / sigma == pytest.approx(80, rel=1e-4)
    for part in ((noisy.images - plain.images).real, (noisy.images - plain.images).imag):
        assert float(part.std()) == pytest.approx(sigma, rel=0.01)
        assert abs(float(part.mean())) < 0.01 * sigma
    assert not plain.noise.any()


def test_seeds_reproduce(person):
    gre, errors = Gre(echo_times=(0.005, 0.02)), Errors.training()
    one, two, other = (scan(person, gre, seed=seed, errors=errors) for seed in (5, 5, 6))
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    assert not torch.equal(one.images, other.images)
    assert not torch.equal(one.offset, other.offset)


def test_phase_is_offset_and_field(person):
    found = scan(person, replace(PLAIN, receiver_phase=1.0), seed=3)
    for image, echo_time in zip(found.images, found.scan.echo_times, strict=True):
        expected = found.offset + found.scan.rad_per_ppm(echo_time) * person.total_field
        rest = torch.angle(image * torch.polar(torch.ones_like(expected), -expected))[found.mask]
        assert float(rest.abs().max()) < 2e-3
    assert torch.equal(found.total_field, person.total_field)
    assert torch.equal(found.mask, person.mask)
    assert torch.equal(found.rough_mask, person.mask)
    assert not found.residual.any()


def test_r2star_fitted_to_the_signal_is_the_map(person):
    found = scan(person, PLAIN)
    fit = nonlinear(found.images.abs(), person.mask, found.scan)
    torch.testing.assert_close(fit.r2star[person.mask], person.r2star[person.mask], rtol=2e-3, atol=0.02)


@pytest.mark.parametrize(("flip", "tr"), [(15.0, 0.04), (40.0, 0.1)])
def test_the_steady_state_is_the_one_that_pulses_reach(block, flip, tr):
    """Two hundred pulses, what is transverse spoiled after each."""
    along, angle, left = 1.0, math.radians(flip), math.exp(-tr * 1.0)
    for _ in range(400):
        seen, along = along * math.sin(angle), 1 - (1 - along * math.cos(angle)) * left
    found = scan(block, replace(PLAIN, echo_times=(0.005, 0.01), flip=flip, tr=tr))
    expected = 0.8 * seen * math.exp(-20 * 0.005)
    torch.testing.assert_close(found.images[0].abs(), torch.full(GRID.shape, expected), rtol=1e-4, atol=0)


def test_inversions_reach_their_steady_state_and_show_white_matter_brightest(person, block):
    along = 1.0
    for _ in range(60):
        seen = 1 - (1 + along) * math.exp(-0.9)
        along = 1 - (1 + along) * math.exp(-2.3)
    found = scan(block, T1w(**CLEAN))
    torch.testing.assert_close(found.images[0].real, torch.full(GRID.shape, 0.8 * seen * math.exp(-0.003 * 20)), rtol=1e-4, atol=0)
    image = scan(person, T1w(**CLEAN)).images[0].abs()
    white, grey, fluid = (float(image[person.region(name)].mean()) for name in ("white_matter", "grey_matter", "csf"))
    assert white > 1.5 * grey > 1.5 * fluid


def test_spin_echoes_of_ideal_pulses_decay_with_r2_and_feel_no_field(person):
    train = SpinEcho(**CLEAN)
    found = scan(person, train)
    inside = person.mask & (person.density > 0.3)
    first = person.density * (1 - torch.exp(-(3.0 - 0.1) * person.r1))
    for n, echo_time in enumerate(train.echo_times):
        torch.testing.assert_close(found.images[n].real[inside], (first * torch.exp(-echo_time * person.r2))[inside], rtol=1e-3, atol=1e-5)
        assert float(found.images[n].imag.abs().max()) < 1e-6


def test_transmit_bias_changes_excitation_and_refocusing_alike(block):
    found = scan(block, SpinEcho(**(CLEAN | {"transmit": 1.0}), refocusing=160.0), seed=4)
    for place in ((25, 28, 23), (4, 20, 30)):
        bias = float(found.transmit[place])
        echoes = cpmg(torch.tensor(14.0), torch.tensor(math.radians(160) * bias), 1.0, spacing=0.01, echoes=10)
        expected = 0.8 * math.sin(bias * math.pi / 2) * (1 - math.exp(-2.9)) * echoes
        torch.testing.assert_close(found.images[(slice(None), *place)].real, expected, rtol=1e-4, atol=1e-6)
    assert float(found.transmit[25, 28, 23]) > 1 > float(found.transmit[25, 2, 23])


def test_r2_comes_back_from_a_whole_scan_and_a_plain_fit_is_biased(person):
    found = scan(person, SpinEcho(snr=150.0, refocusing=150.0), seed=1)
    tissue = person.mask & (person.labels == person.labels[person.region("white_matter")][0])
    fit, plain = r2_epg(found.images.abs(), tissue, found.scan), nonlinear(found.images.abs(), tissue, found.scan)
    truth = person.r2[tissue]
    assert float((fit.r2[tissue] - truth).median() / truth.median()) == pytest.approx(0, abs=0.02)
    assert float((plain.r2star[tissue] - truth).median() / truth.median()) < -0.04


def test_dephasing_is_that_of_a_voxel_made_of_finer_ones(block):
    """A field that is linear along x: the mean over a voxel of four is a sinc, whether k-space is cropped or not."""
    slope = 0.02  # ppm a voxel
    field = (slope * torch.arange(50.0))[:, None, None].expand(GRID.shape).contiguous()
    at = {"echo_times": (0.02,), "tr": 0.04}
    whole = scan(block._replace(total_field=field), replace(PLAIN, **at, dephasing=True)).images[0].abs()
    straight = scan(block._replace(total_field=field), replace(PLAIN, **at)).images[0].abs()
    across = 42.577 * 3.0 * 0.02 * slope
    torch.testing.assert_close(whole[5:-5], straight[5:-5] * math.sin(math.pi * across) / (math.pi * across), rtol=1e-4, atol=0)


def test_bipolar_readout_adds_a_ramp_to_every_second_echo(person):
    straight, turned = scan(person, PLAIN), scan(person, replace(PLAIN, bipolar=0.7, readout=1))
    step = torch.angle(turned.images * straight.images.conj())
    ramp = torch.linspace(-0.7, 0.7, GRID.shape[1])[None, :, None].expand(GRID.shape)
    for n in range(5):
        expected = n % 2 * ramp[person.mask]
        torch.testing.assert_close(step[n][person.mask], expected, atol=2e-3, rtol=0)


def fat_ball(block):
    """Water everywhere with a ball of fat in it."""
    axes = [torch.arange(n) - n // 2 for n in GRID.shape]
    ball = (axes[0].square()[:, None, None] + axes[1].square()[:, None] + axes[2].square()) < 20
    return block._replace(fat=ball.float(), density=ball * 1.0), ball


def test_fat_turns_slower(block):
    person, ball = fat_ball(block)
    found = scan(person, replace(PLAIN, fat=True, echo_times=(0.002, 0.004)))
    turned = torch.angle(found.images[1] * found.images[0].conj())[ball]
    assert FAT == -3.4
    np.testing.assert_allclose(turned.numpy(), 2 * math.pi * (1 - 42.577478518 * 3 * 3.4 * 0.002), atol=1e-3)  # most of a turn back
    assert torch.equal(scan(person, PLAIN).images, scan(person._replace(fat=0 * person.fat), replace(PLAIN, fat=True)).images)


def test_transmit_bias_turns_the_flip_angle(block):
    found = scan(block, Gre(**(CLEAN | {"transmit": 1.0}), echo_times=(0.005,), dephasing=False, flip=10.0, tr=0.5), seed=4)
    for place in ((25, 28, 23), (4, 20, 30)):
        angle, left = math.radians(10) * float(found.transmit[place]), math.exp(-0.5)
        expected = 0.8 * math.sin(angle) * (1 - left) / (1 - math.cos(angle) * left) * math.exp(-0.1)
        assert float(found.images[(0, *place)].abs()) == pytest.approx(expected, rel=1e-4)


def test_displacement_is_counted_in_the_voxels_of_the_scan(block):
    """Half a voxel of 16 mm is two of the subject's."""
    person, _ = fat_ball(block)
    gre = replace(PLAIN, fat=True, bandwidth=2 * 42.577478518 * 3 * 3.4, echo_times=(0.002,), voxel_size=(16.0, 4.0, 4.4))
    displaced, straight = (scan(person, one).images[0].sum((1, 2)) for one in (gre, replace(gre, bandwidth=math.inf)))
    turn = torch.angle(torch.fft.fft(displaced)[1] / torch.fft.fft(straight)[1])
    assert -float(turn) * 200 / (2 * math.pi) == pytest.approx(-0.5 * 200 / 12, rel=0.02)


@pytest.mark.parametrize("readout", [0, 2])
def test_fat_is_displaced_by_its_frequency_over_the_bandwidth(block, readout):
    person, ball = fat_ball(block)
    hertz = 42.577478518 * 3 * -3.4
    gre = replace(PLAIN, fat=True, bandwidth=abs(hertz) / 3.0, readout=readout, bipolar=0.0, echo_times=(0.002, 0.004))
    found = scan(person, gre).images.abs()
    place = torch.arange(GRID.shape[readout]).float().view([-1 if a == readout else 1 for a in range(3)])
    middle = float((place * ball).sum() / ball.sum())
    for echo, sign in ((0, -1), (1, 1)):
        assert float((place * found[echo]).sum() / found[echo].sum()) == pytest.approx(middle + 3 * sign, abs=0.02)
        assert float(found[echo].sum()) == pytest.approx(
            float(scan(person, replace(gre, bandwidth=math.inf)).images[echo].abs().sum()), 0.02
        )


def test_signal_is_neither_made_nor_lost_where_the_field_squeezes_it(block):
    wave = torch.sin(torch.arange(50.0) * (2 * math.pi / 50))[:, None, None].expand(GRID.shape).contiguous()
    gre = replace(PLAIN, echo_times=(1e-5, 0.01), bandwidth=42.577 * 3.0 / 2)  # two voxels a ppm
    image = scan(block._replace(total_field=wave, r2star=0 * wave), gre).images[0].abs()
    assert float(image.mean()) == pytest.approx(float(scan(block, replace(gre, bandwidth=math.inf)).images[0].abs().mean()), rel=0.01)
    assert float(image[25].mean() / image[0].mean()) > 1.4  # the field falls in the middle, towards which all moves


def test_larger_voxels_are_the_middle_of_k_space_over_the_same_field_of_view(person):
    fine, coarse = scan(person, PLAIN), scan(person, replace(PLAIN, voxel_size=(8.0, 5.7, 9.0)))
    assert coarse.grid.shape == (25, 40, 22)
    assert coarse.grid.extent == pytest.approx(GRID.extent)
    assert coarse.grid.b0_dir == pytest.approx(GRID.b0_dir)
    assert coarse.images[0].mean().abs() == pytest.approx(float(fine.images[0].mean().abs()), rel=1e-4)
    for name in ("total_field", "mask", "offset", "transmit", "noise", "local_field"):
        assert getattr(coarse, name).shape == coarse.grid.shape
    assert float(coarse.mask.sum()) * coarse.grid.voxel_volume == pytest.approx(float(person.mask.sum()) * GRID.voxel_volume, rel=0.05)


def test_cropped_k_space_lies_where_averages_do():
    """A Gaussian wide enough for both grids has the same middle and width in both, sampled anywhere."""
    grid = Grid((48, 60, 45))
    axes = [(torch.arange(n) + 0.5 - n / 2 - s) / w for n, s, w in zip(grid.shape, (3.3, -4.1, 0.7), (6.0, 7.0, 6.0), strict=True)]
    blob = torch.exp(-0.5 * (axes[0].square()[:, None, None] + axes[1].square()[:, None] + axes[2].square()))
    shape = (24, 24, 15)
    got = encoded(blob.to(torch.complex64), shape)
    coarse = [
        ((torch.arange(m) + 0.5) * n / m - n / 2 - s) / w
        for n, m, s, w in zip(grid.shape, shape, (3.3, -4.1, 0.7), (6.0, 7.0, 6.0), strict=True)
    ]
    expected = torch.exp(-0.5 * (coarse[0].square()[:, None, None] + coarse[1].square()[:, None] + coarse[2].square()))
    assert float((got - expected).abs().max()) < 2e-3
    assert float((averaged(blob, shape) - expected).abs().max()) < 0.04
    moved = encoded(blob.to(torch.complex64), grid.shape, (2.0, 0.0, -3.0))
    torch.testing.assert_close(moved.real, blob.roll((2, -3), (0, 2)), atol=2e-4, rtol=0)
    assert averaged(torch.ones(grid.shape), (20, 7, 45)).sub(1).abs().max() < 1e-5


def test_turned_heads_have_the_fields_of_their_direction(person):
    directions = [(0.0, 0.0, 1.0), (0.0, 0.6, 0.8)]
    turned = orientations(person, directions)
    for one, direction in zip(turned, directions, strict=True):
        assert one.grid.b0_dir == pytest.approx(direction)
        assert one.anatomy.grid == one.grid
        expected = Dipole(one.grid, padding=2) @ (one.chi * one.mask)
        assert float((one.local_field - expected)[one.mask].abs().max()) < 1e-3
        assert torch.equal(one.chi, person.chi)
    assert float((turned[0].total_field - turned[1].total_field)[person.mask].std()) > 0.02
    with pytest.raises(GeometryError, match="b0_dir must be a direction"):
        orientations(person, [(0.0, 0.0, 0.0)])


def test_no_errors_are_no_errors(person):
    gre = Gre(echo_times=(0.005, 0.02))
    assert torch.equal(scan(person, gre, seed=1).images, scan(person, gre, seed=1, errors=Errors.none()).images)


def test_each_error_does_what_it_says_and_nothing_else(person):
    gre = Gre(echo_times=(0.005, 0.02))
    plain = scan(person, gre, seed=1)
    spoilt = {name: scan(person, gre, seed=1, errors=Errors(**{name: 1.0})) for name in Errors.__dataclass_fields__}
    changed = {name: not torch.equal(found.images, plain.images) for name, found in spoilt.items()}
    assert changed == {name: name not in ("background", "mask") for name in changed}
    for name, found in spoilt.items():
        assert torch.equal(found.total_field, plain.total_field) == (name not in ("frequency", "flow", "mismatch"))
        assert torch.equal(found.rough_mask, plain.rough_mask) == (name != "mask")
        assert torch.equal(found.residual, plain.residual) == (name != "background")
        assert (float(found.noise.std() / found.noise.mean()) > 0.05) == (name == "noise")
        assert torch.equal(found.offset, plain.offset)
    shift = spoilt["frequency"].local_field - plain.local_field
    assert 1e-3 < float(shift.abs().max()) <= 1.01 * LARGEST_SHIFT
    torch.testing.assert_close(spoilt["frequency"].total_field - plain.total_field, shift, atol=1e-5, rtol=0)


def test_dropout_darkens_where_the_field_is_steep(person):
    gre = replace(PLAIN, echo_times=(0.005, 0.02), dephasing=True)
    ratio = scan(person, gre, errors=Errors(dropout=1.0)).images[1].abs() / scan(person, gre).images[1].abs().clamp(min=1e-6)
    steep = sum(g.square() for g in torch.gradient(person.total_field)).sqrt()
    assert float(ratio[person.mask & (steep > 0.15) & (steep < 0.3)].mean()) < 0.9
    assert float(ratio[person.mask & (steep < 0.02)].mean()) > 0.97


def test_ringing_keeps_the_noise_level(person):
    found, plain = (scan(person, replace(PLAIN, snr=snr), errors=Errors(gibbs=1.0)) for snr in (50.0, math.inf))
    assert float((found.images - plain.images).real.std()) == pytest.approx(float(found.noise.mean()), rel=0.02)
    spectrum = torch.fft.fftn(plain.images[0])
    assert float(spectrum[25].abs().max()) < 1e-5 * float(spectrum.abs().max())


def test_a_drifting_head_moves_the_later_echoes_by_tenths_of_millimetres(person):
    """Read from the phase of the lowest waves of the image, as a movement turns it."""
    gre = replace(PLAIN, echo_times=(0.005, 0.006))
    still = torch.fft.fftn(scan(person, gre).images, dim=(1, 2, 3))
    waves, places, turns = ((1, 0, 0), (0, 1, 0), (0, 0, 1)), [], []
    for seed in range(12):
        moving = torch.fft.fftn(scan(person, gre, seed=seed, errors=Errors(motion=3.0)).images, dim=(1, 2, 3))
        ratio = moving / still
        torch.testing.assert_close(ratio[0, 0, 0, 0], torch.tensor(1.0 + 0j), atol=1e-4, rtol=0)
        turns.append(float(torch.angle(ratio[1, 0, 0, 0])))
        for axis, wave in enumerate(waves):
            turn = torch.angle(ratio[(1, *wave)] * ratio[1, 0, 0, 0].conj())
            places.append(-float(turn) * GRID.extent[axis] / (2 * math.pi))
    assert np.std(places) == pytest.approx(0.3, rel=0.35)
    assert np.std(turns) == pytest.approx(0.15, rel=0.6)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: Gre(echo_times=(0.01, 0.05), tr=0.04),
            MetadataError,
            r"last echo, at 0\.05 s, comes after the repetition time of 0\.04 s",
        ),
        (lambda: Gre(echo_times=(4.0, 8.0)), MetadataError, "must be in seconds"),
        (lambda: Gre(tr=-1.0), MetadataError, "repetition time must be a positive number"),
        (lambda: Gre(snr=-5.0), InputError, "signal-to-noise ratio must be positive, got -5"),
        (lambda: Gre(snr=math.nan), InputError, "signal-to-noise ratio must be positive, got nan"),
        (lambda: Gre(b0=0.0), MetadataError, "field strength must be in tesla"),
        (lambda: Gre(flip=0.0), InputError, "flip must lie above 0"),
        (lambda: Gre(bandwidth=0.0), InputError, "bandwidth must be at least 10 Hz"),
        (lambda: Gre(readout=3), InputError, "readout is axis 0, 1 or 2, got 3"),
        (lambda: Gre(bipolar=math.inf), InputError, "bipolar is a phase in rad"),
        (lambda: Gre(transmit=-0.1), InputError, "transmit is a strength from 0 to 3"),
        (lambda: Gre(receive=1.1), InputError, "receive is a strength from 0 to 1"),
        (lambda: Gre(voxel_size=(1.0, -1.0, 1.0)), GeometryError, "three positive numbers in mm"),
        (lambda: Gre(voxel_size=(1.0, 1.0, 250.0)), GeometryError, "coarser than a head has parts"),
        (lambda: SpinEcho(echo_times=(0.01, 0.02, 0.04)), MetadataError, "1, 2, 3 … times the first"),
        (lambda: SpinEcho(refocusing=200.0), InputError, "refocusing must lie above 0 and not above 180"),
        (lambda: SpinEcho(tr=0.09), MetadataError, "comes after the repetition time"),
        (lambda: T1w(inversion_time=2.5), MetadataError, "inversion time must lie between 0 and the repetition time"),
    ],
)
def test_impossible_scans_are_refused_when_they_are_made(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_scans_that_do_not_fit_the_subject_are_refused(person):
    with pytest.raises(MetadataError, match="Draw the subject with b0=7"):
        scan(person, Gre(b0=7.0))
    with pytest.raises(GeometryError, match=r"voxels of 1 mm are finer than the subject's of 4 mm"):
        scan(person, Gre(voxel_size=(1.0, 1.0, 1.0)))
    with pytest.raises(GeometryError, match="leave 1 along a field of view"):
        Gre(voxel_size=(20.0, 4.0, 4.4)).grid(Grid((6, 57, 46), (4.0, 4.0, 4.4)))
    with pytest.raises(InputError, match="is a Gre, a SpinEcho or a T1w, got Acquisition"):
        scan(person, Acquisition())
