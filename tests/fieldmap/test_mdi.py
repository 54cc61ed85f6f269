"""Echoes and coils integrated: the published formula, the likelihood's maximum, and noise that is as stated."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from paradia.errors import GeometryError, InputError, MaskError, MetadataError
from paradia.fieldmap.mdi import mdi
from paradia.fieldmap.nonlinear import nonlinear
from paradia.grid import Grid
from paradia.scan import Scan

GRID = Grid((22, 19, 15), (1.6, 1.2, 2.0), (0.2, -0.3, 0.93))
SCAN = Scan((0.004, 0.009, 0.014, 0.019, 0.024), 3.0)
MASK = torch.ones(GRID.shape, dtype=torch.bool)


def places():
    return torch.meshgrid(*[torch.linspace(-1, 1, n) for n in GRID.shape], indexing="ij")


def scanned(scan=SCAN, coils=6, snr=50.0, seed=0, strength=1.0, alternation=0.0):
    """Coils of unlike phase and sensitivity over a field that turns more than once between echoes."""
    x, y, z = places()
    field = strength * (1.1 * x + 0.6 * y * z + 0.3 * torch.sin(6 * x * z))
    times = torch.tensor(scan.echo_times)[:, None, None, None]
    sign = torch.tensor([(-1.0) ** n for n in range(len(times))])[:, None, None, None]
    clean = torch.polar(torch.exp(-(20 + 15 * y) * times), scan.rad_per_ppm(1.0) * field * times + sign * alternation * x)
    angle = torch.arange(coils) * 2.0
    near = [torch.exp(-((x - math.cos(a)) ** 2 + (y - math.sin(a)) ** 2)) for a in angle]
    maps = torch.stack([torch.polar(n, a + 2 * x * math.sin(a) + 1.5 * y * z) for n, a in zip(near, angle, strict=True)])
    generator = torch.Generator().manual_seed(seed)
    noise = torch.complex(*torch.randn(2, len(times), coils, *GRID.shape, generator=generator)) / snr
    return field, clean[:, None] * maps + noise, (clean[:, None] * maps).abs().square().sum(1)


def bound(power, scan, snr, groups=(slice(None),)):
    """Cramér–Rao bound of the field for a free offset in every voxel and coil, and for each group of echoes."""
    times, information = torch.tensor(scan.echo_times)[:, None, None, None], 0
    for group in groups:
        w, t = power[group], times[group]
        information = information + (w * t.square()).sum(0) - (w * t).sum(0).square() / w.sum(0)
    return 1 / snr / information.sqrt() / scan.rad_per_ppm(1.0)


def test_two_echoes_give_the_published_ratio_summed_by_a_loop():
    scan = Scan(SCAN.echo_times[:2], 3.0)
    _, images, _ = scanned(scan, strength=0.2)
    ratio = np.zeros(GRID.shape, complex)
    for coil in images.numpy().transpose(1, 0, 2, 3, 4):
        for early, late in pairwise(coil):
            ratio += early.conj() * late
    expected = torch.from_numpy(np.angle(ratio) / 0.005 / scan.rad_per_ppm(1.0)).float()
    torch.testing.assert_close(mdi(MASK, GRID, scan, images).total_field, expected, atol=1e-5, rtol=1e-5)


def test_many_echoes_give_the_maximum_of_the_likelihood_found_by_search():
    _, images, _ = scanned(snr=12.0)
    fit = mdi(MASK, GRID, SCAN, images).total_field
    times = torch.tensor(SCAN.echo_times, dtype=torch.float64)
    for place in ((3, 4, 5), (11, 9, 7), (20, 2, 13)):
        signal = images[(..., *place)].to(torch.complex128)
        decay = signal.abs().square().sum(1).sqrt()
        near = float(fit[place]) + torch.linspace(-0.05, 0.05, 4001, dtype=torch.float64)
        turned = torch.polar(torch.ones(1, dtype=torch.float64), -SCAN.rad_per_ppm(1.0) * near[:, None] * times)
        explained = ((decay * turned) @ signal).abs().square().sum(1)
        assert float(near[explained.argmax()]) == pytest.approx(float(fit[place]), abs=5e-5)


@pytest.mark.parametrize("alternation", [0.0, 0.4])
def test_the_noise_is_the_spread_of_repeats_and_the_cramer_rao_bound(alternation):
    groups = (slice(None),) if alternation == 0 else (slice(0, None, 2), slice(1, None, 2))
    errors, given = [], []
    for seed in range(16):
        field, images, power = scanned(snr=25.0, seed=seed, alternation=alternation, strength=0.5)
        fit = mdi(MASK, GRID, SCAN, images)
        errors.append(fit.total_field - field)
        given.append(fit.noise)
    z = torch.stack(errors) / torch.stack(given)
    count = z.numel()
    assert float(z.mean()) == pytest.approx(0, abs=3 / count**0.5)
    assert float(z.square().mean()) == pytest.approx(1, abs=3 * (2 / count) ** 0.5 + 0.02)  # weak voxels are not quite Gaussian
    assert float((torch.stack(errors) / bound(power, SCAN, 25.0, groups)).square().mean().sqrt()) < 1.06


def test_two_echoes_know_their_noise():
    scan = Scan(SCAN.echo_times[:2], 3.0)
    field, images, power = scanned(scan, snr=60.0, strength=0.5)
    fit = mdi(MASK, GRID, scan, images)
    assert float((fit.noise / bound(power, scan, 60.0)).median()) == pytest.approx(1, abs=0.08)
    assert float(((fit.total_field - field) / fit.noise).square().mean().sqrt()) == pytest.approx(1, abs=0.08)


def test_what_the_coils_add_does_not_matter():
    _, images, _ = scanned(snr=math.inf)
    generator = torch.Generator().manual_seed(3)
    factor = torch.polar(torch.ones(1, images.shape[1], *GRID.shape), 6 * torch.rand(1, images.shape[1], *GRID.shape, generator=generator))
    plain, turned = (mdi(MASK, GRID, SCAN, given).total_field for given in (images, images * factor))
    torch.testing.assert_close(plain, turned, atol=1e-5, rtol=1e-5)


def test_combined_echoes_are_one_coil():
    _, images, _ = scanned(coils=1)
    one = mdi(MASK, GRID, SCAN, images)
    two = mdi(MASK, GRID, SCAN, phase=images[:, 0].angle(), magnitude=images[:, 0].abs())
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert mdi(MASK, GRID, SCAN, phase=images[:, 0].angle()).total_field.isfinite().all()


def test_late_echoes_are_used():
    field, images, _ = scanned(snr=25.0)
    published = torch.zeros(GRID.shape, dtype=torch.complex64)
    for early, late in pairwise(images):
        published += (early.conj() * late).sum(0)
    truth = torch.polar(torch.ones(GRID.shape), SCAN.rad_per_ppm(0.005) * field)
    short = (published * truth.conj()).angle() / SCAN.rad_per_ppm(0.005)
    assert float((mdi(MASK, GRID, SCAN, images).total_field - field).std()) < 0.9 * float(short.std())


@pytest.mark.parametrize("alternation", [0.2, 1.5])
def test_bipolar_readouts_are_seen_in_the_coils(alternation):
    field, images, power = scanned(alternation=alternation, strength=0.5)
    limit = bound(power, SCAN, 50.0, (slice(0, None, 2), slice(1, None, 2)))
    error = mdi(MASK, GRID, SCAN, images).total_field - field
    assert float((error / limit).square().mean().sqrt()) < 1.1
    torch.testing.assert_close(mdi(MASK, GRID, SCAN, images, bipolar=True).total_field, mdi(MASK, GRID, SCAN, images).total_field)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"scan": Scan((0.004, 0.009, 0.014, 0.019, 0.026))}, MetadataError, "evenly spaced"),
        ({"scan": Scan((0.004, 0.009))}, MetadataError, "5 echoes and 2 echo times"),
        ({"coil_images": None}, InputError, "coil images, or the phase"),
        ({"mask": torch.zeros_like(MASK)}, MaskError, "empty"),
        ({"grid": Grid((4, 5, 6))}, GeometryError, "differ in shape"),
        ({"coil_images": None, "phase": torch.zeros(5, *GRID.shape), "magnitude": torch.ones(4, *GRID.shape)}, Exception, "shape|echo"),
    ],
)
def test_data_that_do_not_fit_are_refused(change, error, message):
    given = {"mask": MASK, "grid": GRID, "scan": SCAN, "coil_images": scanned()[1]}
    with pytest.raises(error, match=message):
        mdi(**{**given, **change})


def test_too_few_echoes_are_refused():
    _, images, _ = scanned()
    with pytest.raises(MetadataError, match="there is one"):
        mdi(MASK, GRID, Scan((0.004,)), images[:1])
    with pytest.raises(MetadataError, match="at least three"):
        mdi(MASK, GRID, Scan((0.004, 0.009)), images[:2], bipolar=True)


def test_agrees_with_the_nonlinear_fit_of_a_free_offset():
    """One coil: another method of this stage, written apart, on phase that was unwrapped by knowing the answer."""
    field, images, _ = scanned(coils=1, snr=60.0, strength=0.4)
    x, y, z = places()
    times = torch.tensor(SCAN.echo_times)[:, None, None, None]
    truth = SCAN.rad_per_ppm(1.0) * field * times + 2 * x * math.sin(0.0) + 1.5 * y * z
    measured = images[:, 0].angle()
    unwrapped = measured + 2 * math.pi * ((truth - measured) / (2 * math.pi)).round()
    other = nonlinear(unwrapped, images[:, 0].abs(), MASK, GRID, SCAN, offset="voxel", bipolar=False, max_iter=30)
    difference = mdi(MASK, GRID, SCAN, images, bipolar=False).total_field - other.total_field
    strong = images[-1, 0].abs() > 0.3  # where noise is large the other keeps the offset of a straight line
    assert float(difference[strong].abs().quantile(0.99)) < 1e-4
    assert float(difference.abs().median()) < 1e-4
