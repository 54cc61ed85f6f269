"""R2 from spin echoes: what imperfect refocusing does to a plain fit, and that the graphs undo it."""

from __future__ import annotations

import math

import pytest
import torch

from paradia.epg import cpmg
from paradia.errors import ConvergenceWarning, InputError, MaskError, MetadataError, NonFiniteError
from paradia.relaxometry._train import spacing_of
from paradia.relaxometry.nonlinear import nonlinear
from paradia.relaxometry.r2_epg import r2_epg
from paradia.relaxometry.r2_two_echo import r2_two_echo
from paradia.scan import Scan

TRAIN = Scan(tuple(0.0095 * n for n in range(1, 11)), 3.0)
SHAPE = (21, 20, 16)


def spin_echoes(r2, degrees, height, numbers, r1=1.0, spacing=0.0095):
    echoes = cpmg(r2, torch.deg2rad(degrees), r1, spacing=spacing, echoes=max(numbers))
    return height * echoes[[n - 1 for n in numbers]]


def noisy(clean, generator, sigma=1.0):
    noise = torch.complex(torch.randn(clean.shape, generator=generator), torch.randn(clean.shape, generator=generator))
    return (clean + sigma * noise).abs()


@pytest.fixture
def case(generator):
    rate = 4 + 46 * torch.rand(SHAPE, generator=generator)
    degrees = 100 + 78 * torch.rand(SHAPE, generator=generator)
    height = 200 + 800 * torch.rand(SHAPE, generator=generator)
    mask = torch.rand(SHAPE, generator=generator) > 0.2
    return rate, degrees, height, mask


@pytest.mark.parametrize("scan", [TRAIN, Scan(tuple(0.0065 * n for n in range(1, 25)))], ids=["10 echoes", "24 echoes"])
def test_is_exact_without_noise_whatever_the_angle(scan, case):
    rate, degrees, height, mask = case
    numbers = range(1, len(scan.echo_times) + 1)
    fit = r2_epg(spin_echoes(rate, degrees, height, numbers, spacing=scan.echo_times[0]), mask, scan)
    error = ((fit.r2 - rate).abs() / rate)[mask]
    assert float(error.max()) < 3e-3
    assert float(error.median()) < 1.2e-5
    assert not fit.r2[~mask].any()
    assert not fit.r2_noise[~mask].any()


@pytest.mark.parametrize("transmit", [0.6, 0.8, 0.95, 1.0, 1.15])
def test_a_plain_fit_is_biased_by_weak_pulses_and_this_is_not(transmit, generator):
    """At 80 % of the nominal angle stimulated echoes hide a twentieth of R2 and more from a mono-exponential."""
    rate = torch.full(SHAPE, 14.0)
    clean = spin_echoes(rate, torch.full(SHAPE, 180.0 * transmit), torch.full(SHAPE, 100.0), range(1, 11))
    data, mask = noisy(clean, generator), torch.ones(SHAPE, dtype=torch.bool)
    mended, plain = (float(r.mean()) / 14 - 1 for r in (r2_epg(data, mask, TRAIN).r2, nonlinear(data, mask, TRAIN).r2star))
    assert abs(mended) < 0.01
    if transmit <= 0.8:
        assert plain < -0.05


@pytest.mark.parametrize("t1", [0.5, 2.0])
def test_t1_matters_little(t1, case):
    rate, degrees, height, mask = case
    fit = r2_epg(spin_echoes(rate, degrees.clamp_min(130), height, range(1, 11), r1=1 / t1), mask, TRAIN)
    assert float(((fit.r2 - rate).abs() / rate)[mask].median()) < 0.02


def test_echoes_may_be_left_out(case):
    rate, degrees, height, mask = case
    numbers = [2, 3, 5, 8, 10]
    fit = r2_epg(spin_echoes(rate, degrees, height, numbers), mask, Scan(tuple(0.0095 * n for n in numbers)))
    assert float(((fit.r2 - rate).abs() / rate)[mask].quantile(0.99)) < 5e-3


@pytest.mark.parametrize("spacing", [3.04, 5.35, 6.67, 9.53, 10.67, 11.25])
@pytest.mark.parametrize("numbers", [range(1, 6), range(1, 33), range(2, 33), (2, 3, 5, 8, 10)], ids=["5", "32", "without 1", "some"])
def test_echo_times_may_be_rounded_to_a_tenth_of_a_millisecond(spacing, numbers):
    found, which = spacing_of(tuple(round(spacing * n, 1) / 1000 for n in numbers))
    assert which == tuple(numbers)
    assert found == pytest.approx(spacing / 1000, rel=4e-3)


def test_rounded_echo_times_hardly_move_the_rate(case):
    rate, degrees, height, mask = case
    numbers = range(1, 17)
    fit = r2_epg(
        spin_echoes(rate, degrees, height, numbers, spacing=0.00667), mask, Scan(tuple(round(6.67 * n, 1) / 1000 for n in numbers))
    )
    assert float(((fit.r2 - rate).abs() / rate)[mask].quantile(0.99)) < 3e-3


@pytest.mark.parametrize("seen", [range(9), range(1, 10), (0, 1, 3, 5, 7, 9), (0, 1, 2)], ids=["no last", "no first", "some", "three"])
def test_an_echo_that_is_zero_in_a_voxel_is_left_out_there(seen, case, generator):
    """As a fit of the other echoes alone, in these voxels and in no others."""
    rate, degrees, height, mask = case
    data = noisy(spin_echoes(rate, degrees, height, range(1, 11)), generator, 5.0)
    part = data.clone()
    part[[echo for echo in range(10) if echo not in seen], :6] = 0
    got, whole = r2_epg(part, mask, TRAIN), r2_epg(data, mask, TRAIN)
    alone = r2_epg(data[list(seen)], mask, Scan(tuple(TRAIN.echo_times[echo] for echo in seen)))
    torch.testing.assert_close(got.r2[6:], whole.r2[6:], rtol=1e-3, atol=1e-3)
    assert float((got.r2 - alone.r2)[:6][mask[:6]].abs().quantile(0.98)) < 0.1
    if len(seen) > 3:
        assert float((got.r2_noise / alone.r2_noise)[:6][mask[:6]].median()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("rician", [False, True])
def test_two_echoes_of_a_train_are_a_guess(rician, case):
    rate, degrees, height, mask = case
    data = spin_echoes(rate, degrees, height, range(1, 11))
    data[2:, :6] = 0
    got = r2_epg(data, mask, TRAIN, rician=rician)
    torch.testing.assert_close(got.r2_noise[:6][mask[:6]], torch.full_like(got.r2_noise[:6][mask[:6]], 200 / 12**0.5))
    assert not bool(got.r2[:6].any())


def test_the_ratio_is_that_of_the_first_and_the_last_echo_measured(case):
    rate, _, height, mask = case
    scan = Scan((0.01, 0.03, 0.06, 0.1))
    data = torch.stack([height * torch.exp(-t * rate) for t in scan.echo_times])
    data[3, :6] = 0
    data[0, 6:9] = 0
    data[[0, 1, 3], 9] = 0
    got = r2_two_echo(data, mask, scan)
    torch.testing.assert_close(got.r2[:9], (rate * mask)[:9], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(r2_two_echo(data, mask, scan, skip=1).r2[6:9], (rate * mask)[6:9], rtol=1e-4, atol=1e-4)
    assert not bool(got.r2[9].any())
    torch.testing.assert_close(got.r2_noise[9][mask[9]], torch.full_like(got.r2_noise[9][mask[9]], 200 / 12**0.5))


@pytest.mark.parametrize("degrees", [115.0, 145.0, 165.0])
def test_stated_noise_is_the_spread_of_repeats(degrees, generator):
    """Monte Carlo: the standard deviation given is right within a tenth."""
    rate = torch.full(SHAPE, 16.0)
    clean = spin_echoes(rate, torch.full(SHAPE, degrees), torch.full(SHAPE, 100.0), range(1, 11))
    fit = r2_epg(noisy(clean, generator), torch.ones(SHAPE, dtype=torch.bool), TRAIN)
    score = (fit.r2 - 16) / fit.r2_noise
    assert 0.9 < float(score.std()) < 1.1
    assert abs(float(score.mean())) < 0.1


def test_at_ideal_refocusing_the_noise_stated_is_no_less_than_the_spread(generator):
    clean = spin_echoes(torch.full(SHAPE, 16.0), torch.full(SHAPE, 180.0), torch.full(SHAPE, 100.0), range(1, 11))
    fit = r2_epg(noisy(clean, generator), torch.ones(SHAPE, dtype=torch.bool), TRAIN)
    assert 0.85 < float(((fit.r2 - 16) / fit.r2_noise).std()) < 1.02
    assert float(fit.r2.mean()) == pytest.approx(16, rel=0.01)


def test_rician_fit_has_less_bias_where_echoes_are_weak(generator):
    rate = torch.full(SHAPE, 35.0)
    data = noisy(spin_echoes(rate, torch.full(SHAPE, 150.0), torch.full(SHAPE, 25.0), range(1, 11)), generator)
    mask = torch.ones(SHAPE, dtype=torch.bool)
    plain, mended = (abs(float(r2_epg(data, mask, TRAIN, rician=flag).r2.median()) - 35) for flag in (False, True))
    assert mended < 0.5 * plain


@pytest.mark.parametrize("scale", [1e-18, 1e-5, 1e12])
@pytest.mark.parametrize("fit", [r2_epg, r2_two_echo])
def test_scale_and_order_of_axes_make_no_difference(fit, scale, case, generator):
    rate, degrees, height, mask = case
    data = noisy(spin_echoes(rate, degrees, height, range(1, 11)), generator, 5.0)
    plain = fit(data, mask, TRAIN)
    turned = fit(scale * data.permute(0, 3, 1, 2).contiguous(), mask.permute(2, 0, 1).contiguous(), TRAIN)
    torch.testing.assert_close(turned.r2, plain.r2.permute(2, 0, 1), rtol=2e-3, atol=1e-2)
    torch.testing.assert_close(turned.r2_noise, plain.r2_noise.permute(2, 0, 1), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("fit", [r2_epg, r2_two_echo])
def test_noise_alone_and_zeros_stay_in_range(fit, generator):
    data = noisy(torch.zeros(10, *SHAPE), generator)
    data[:, :4] = 0
    data[1:, 4] = 0
    for image in fit(data, torch.ones(SHAPE, dtype=torch.bool), TRAIN, maximum=100.0):
        assert bool(torch.isfinite(image).all())
        assert 0 <= float(image.min()) <= float(image.max()) <= 100
        assert image.dtype == torch.float32


def test_two_echoes_give_the_ratio_and_its_noise(generator):
    scan = Scan((0.011, 0.099))
    clean = torch.stack([100 * torch.exp(-12.0 * torch.full(SHAPE, t)) for t in scan.echo_times])
    mask = torch.ones(SHAPE, dtype=torch.bool)
    torch.testing.assert_close(r2_two_echo(clean, mask, scan).r2, torch.full(SHAPE, 12.0), rtol=1e-5, atol=0)
    fit = r2_two_echo(noisy(clean, generator), mask, scan)
    assert float(((fit.r2 - 12) / fit.r2_noise).std()) == pytest.approx(1, abs=0.1)


def test_the_first_echo_can_be_left_out():
    """Without it the ratio keeps less of the jump that stimulated echoes make from the first echo to the second."""
    data = spin_echoes(torch.full(SHAPE, 14.0), torch.full(SHAPE, 150.0), torch.full(SHAPE, 100.0), range(1, 11))
    mask = torch.ones(SHAPE, dtype=torch.bool)
    all_of_them, without = (float(r2_two_echo(data, mask, TRAIN, skip=skip).r2.mean()) for skip in (0, 1))
    assert all_of_them < without
    expected = math.log(float(data[1, 0, 0, 0] / data[-1, 0, 0, 0])) / (TRAIN.echo_times[-1] - TRAIN.echo_times[1])
    assert without == pytest.approx(expected, rel=1e-5)


def test_reports_progress(case):
    rate, degrees, height, mask = case
    heard = []
    r2_epg(spin_echoes(rate, degrees, height, range(1, 11)), mask, TRAIN, callback=lambda i, change: heard.append((i, change)))
    assert heard[0][0] == 1
    assert heard[-1][1] < 0.05


@pytest.mark.parametrize("numbers", [range(1, 11), range(2, 11)], ids=["all", "without 1"])
def test_steps_in_noise_end_at_the_least_squares(numbers, generator):
    """Against a search over a fine grid of rates and angles: plain Gauss-Newton steps circle it where the residual is large."""
    shape = (9, 8, 7)
    rates, degrees = 8 + 20 * torch.rand(shape, generator=generator), 100 + 70 * torch.rand(shape, generator=generator)
    scan, mask = Scan(tuple(0.0095 * n for n in numbers)), torch.ones(shape, dtype=torch.bool)
    data = noisy(spin_echoes(rates, degrees, torch.full(shape, 1.0), numbers), generator, 0.05)
    fit = r2_epg(data, mask, scan)
    log_rate, angle = torch.linspace(math.log(0.2), math.log(200), 400), torch.linspace(80, 180, 101)
    rate, angles = torch.cartesian_prod(log_rate.exp(), angle).T
    atoms = torch.nn.functional.normalize(spin_echoes(rate, angles, 1.0, numbers), dim=0)
    along = atoms.T @ data.flatten(1)
    best = along.amax(0)
    near = (log_rate[:, None, None] - fit.r2.flatten().log()).abs() <= 0.02
    here = torch.where(near, along.unflatten(0, (400, 101)), 0.0).amax((0, 1))
    power = data.flatten(1).square().sum(0)
    assert float(((power - here.square()) / (power - best.square()) > 1.01).float().mean()) < 0.02


def test_says_when_it_was_stopped(case, generator):
    rate, degrees, height, mask = case
    data = noisy(spin_echoes(rate, degrees, height, range(1, 11)), generator, 20.0)
    with pytest.warns(ConvergenceWarning, match=r"r2_epg stopped after 2 steps, when [3-9]\d% of the voxels still moved"):
        r2_epg(data, mask, TRAIN, max_iter=2)


@pytest.mark.parametrize("fit", [r2_epg, r2_two_echo])
def test_refuses_what_cannot_be_fitted(fit, case):
    rate, degrees, height, mask = case
    data = spin_echoes(rate, degrees, height, range(1, 11))
    with pytest.raises(MetadataError, match=f"{fit.__name__} needs at least"):
        fit(data[:1], mask, Scan((0.0095,)))
    with pytest.raises(MetadataError, match="10 echoes"):
        fit(data, mask, Scan((0.01, 0.02, 0.03)))
    with pytest.raises(MaskError, match="empty"):
        fit(data, mask & False, TRAIN)
    with pytest.raises(NonFiniteError, match="inside the mask"):
        fit(data / 0, mask, TRAIN)
    with pytest.raises(InputError, match="maximum"):
        fit(data, mask, TRAIN, maximum=0.0)


def test_refuses_trains_that_are_none(case):
    rate, degrees, height, mask = case
    data = spin_echoes(rate, degrees, height, (1, 2, 3))
    with pytest.raises(MetadataError, match="no multiples of one spacing"):
        r2_epg(data, mask, Scan((0.01, 0.02, 0.0377)))
    with pytest.raises(InputError, match="least_angle must lie between"):
        r2_epg(data, mask, Scan((0.01, 0.02, 0.03)), least_angle=180.0)
    with pytest.raises(InputError, match="t1 must be a positive time"):
        r2_epg(data, mask, Scan((0.01, 0.02, 0.03)), t1=0.0)
    with pytest.raises(InputError, match=r"skip must leave two of 3 echoes, got 2"):
        r2_two_echo(data, mask, Scan((0.01, 0.02, 0.03)), skip=2)
