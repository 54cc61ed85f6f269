"""R2*: exact without noise, honest about noise, and never garbage."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
import torch

from paradia.errors import InputError, MaskError, MetadataError, NonFiniteError
from paradia.registry import load, methods
from paradia.relaxometry._checks import check
from paradia.relaxometry.nonlinear import nonlinear
from paradia.scan import Scan

EVEN = Scan((0.004, 0.010, 0.016, 0.022, 0.028))
STAR = [name for name in methods("relaxometry") if "r2star" in load("relaxometry", name).gives]
FROM_ECHOES = [name for name in methods("relaxometry") if "magnitude" in load("relaxometry", name).needs]
UNEVEN = Scan((0.004, 0.009, 0.0175, 0.024, 0.035))


def fit(name, *args, **knobs):
    return load("relaxometry", name).function(*args, **knobs)


@pytest.fixture
def case(grid, generator):
    rate = 5 + 70 * torch.rand(grid.shape, generator=generator)
    height = 200 + 800 * torch.rand(grid.shape, generator=generator)
    mask = torch.rand(grid.shape, generator=generator) > 0.2
    return rate, height, mask


def decay(rate, height, scan):
    return torch.stack([height * torch.exp(-t * rate) for t in scan.echo_times])


def noisy(clean, sigma, generator):
    return torch.complex(
        clean + sigma * torch.randn(clean.shape, generator=generator), sigma * torch.randn(clean.shape, generator=generator)
    ).abs()


@pytest.mark.parametrize("scan", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("name", STAR)
def test_is_exact_without_noise(name, scan, case):
    rate, height, mask = case
    result = fit(name, decay(rate, height, scan), mask, scan)
    assert float((result.r2star - rate)[mask].abs().max()) < 0.1
    assert bool((result.r2star[~mask] == 0).all())
    assert bool((result.r2star_noise[~mask] == 0).all())
    assert result.r2star.dtype == torch.float32


@pytest.mark.parametrize("scan", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("name", STAR)
def test_stated_noise_is_the_noise(name, scan, case, generator):
    rate, height, mask = case
    result = fit(name, noisy(decay(rate, height, scan), 3.0, generator), mask, scan)
    score = ((result.r2star - rate) / result.r2star_noise)[mask]
    assert 0.9 < float(score.std()) < 1.1
    assert abs(float(score.mean())) < 0.1


@pytest.mark.parametrize("name", STAR)
def test_stated_noise_is_the_noise_where_echoes_are_uneven_and_decays_fast(name, generator):
    """What a closed form leaves beside noise, since it is not the least squares, is no noise."""
    scan, shape = Scan((0.003, 0.0075, 0.010, 0.021, 0.033)), (21, 20, 19)
    clean = decay(torch.full(shape, 150.0), 100.0, scan)
    result = fit(name, noisy(clean, 0.5, generator), torch.ones(shape, dtype=torch.bool), scan)
    assert float(result.r2star_noise.median() / result.r2star.std()) == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("scale", [1e-18, 1e-6, 1e12])
@pytest.mark.parametrize("name", STAR)
def test_does_not_care_for_scale_or_order_of_axes(name, scale, case, generator):
    rate, height, mask = case
    data = noisy(decay(rate, height, EVEN), 5.0, generator)
    plain = fit(name, data, mask, EVEN)
    scaled = fit(name, scale * data, mask, EVEN)
    turned = fit(name, data.permute(0, 3, 1, 2).contiguous(), mask.permute(2, 0, 1).contiguous(), EVEN)
    torch.testing.assert_close(scaled.r2star, plain.r2star, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(turned.r2star, plain.r2star.permute(2, 0, 1), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", FROM_ECHOES)
def test_half_precision_is_fitted_in_single_precision(name, case, generator):
    rate, height, mask = case
    scan = Scan((0.01, 0.02, 0.03, 0.04, 0.05))
    data = noisy(decay(rate, height, scan), 5.0, generator).half()
    for got, want in zip(fit(name, data, mask, scan), fit(name, data.float(), mask, scan), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize("name", STAR)
def test_noise_alone_and_zeros_stay_in_range(name, grid, generator):
    data = noisy(torch.zeros(5, *grid.shape), 1.0, generator)
    data[:, :4] = 0
    result = fit(name, data, torch.ones(grid.shape, dtype=torch.bool), EVEN, maximum=300.0)
    for image in result:
        assert bool(torch.isfinite(image).all())
        assert 0 <= float(image.min()) <= float(image.max()) <= 300


@pytest.mark.parametrize("name", STAR)
def test_what_does_not_decay_gives_numbers_too(name, case):
    rate, height, mask = case
    data = decay(rate, height, EVEN)
    data[:, 0] = 0  # no signal at all
    data[1:, 1] = 0  # gone after the first echo
    data[:, 2] = data[:, 2].flip(0)  # grows
    for image in fit(name, data, mask, EVEN):
        assert bool(torch.isfinite(image).all())
        assert bool((image >= 0).all())
        assert not bool(image[~mask].any())


@pytest.mark.parametrize("name", FROM_ECHOES)
def test_voxels_without_a_signal_are_a_guess_and_make_no_others_look_certain(name, generator):
    """Most of the mask lies beyond the field of view of these echoes."""
    scan, shape = Scan((0.01, 0.02, 0.03, 0.04, 0.05)), (14, 9, 12)
    data = noisy(decay(torch.full(shape, 15.0), 100.0, scan), 1.0, generator)
    mask = torch.ones(shape, dtype=torch.bool)
    whole = fit(name, data, mask, scan)
    seen = mask.clone()
    seen[:, :, :8] = False
    part = fit(name, data * seen, mask, scan)
    torch.testing.assert_close(part[0][seen], whole[0][seen], rtol=1e-4, atol=1e-5)  # how sums are rounded hangs on the neighbours
    assert float(part[1][seen].median() / whole[1][seen].median()) == pytest.approx(1, abs=0.15)
    maximum = load("relaxometry", name).knobs["maximum"]
    torch.testing.assert_close(part[1][~seen], torch.full_like(part[1][~seen], maximum / 12**0.5))


@pytest.mark.parametrize("bad", [0.0, -1.0])
@pytest.mark.parametrize("name", STAR)
def test_an_echo_that_is_zero_was_not_measured(name, bad, case, generator):
    """As in a slice that was lost: the others tell the rate, and the deviation is that of fewer echoes."""
    rate, height, mask = case
    data = noisy(decay(rate, height, EVEN), 2.0, generator)
    whole = fit(name, data, mask, EVEN)
    for echoes in ([0], [2], [4], [1, 3], [2, 3], [0, 1, 2]):
        part = data.clone()
        part[echoes, :6] = bad
        got = fit(name, part, mask, EVEN)
        torch.testing.assert_close(got.r2star[6:], whole.r2star[6:], rtol=1e-3, atol=1e-2)
        torch.testing.assert_close(got.r2star_noise[6:], whole.r2star_noise[6:], rtol=0.1, atol=0.01)
        score = ((got.r2star - rate) / got.r2star_noise)[:6][mask[:6]]
        assert 0.8 < float(score.square().mean().sqrt()) < 1.25
        assert bool((got.r2star_noise[:6] >= whole.r2star_noise[:6])[mask[:6]].float().mean() > 0.95)


@pytest.mark.parametrize("name", STAR)
def test_an_echo_that_is_zero_everywhere_is_as_good_as_not_there(name, case, generator):
    rate, height, mask = case
    data = noisy(decay(rate, height, EVEN), 2.0, generator)
    less = fit(name, data[[0, 1, 2, 4]], mask, Scan(tuple(EVEN.echo_times[echo] for echo in (0, 1, 2, 4))))
    data[3] = 0
    for got, want in zip(fit(name, data, mask, EVEN), less, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", STAR)
def test_one_echo_alone_tells_no_rate(name, case):
    rate, height, mask = case
    for echo in range(5):
        data = decay(rate, height, EVEN)
        data[[other for other in range(5) if other != echo], 4] = 0
        got = fit(name, data, mask, EVEN, maximum=300.0)
        torch.testing.assert_close(got.r2star_noise[4][mask[4]], torch.full_like(got.r2star_noise[4][mask[4]], 300 / 12**0.5))
        assert not bool(got.r2star[4].any())


@pytest.mark.parametrize("name", STAR)
def test_refuses_what_cannot_be_fitted(name, case):
    rate, height, mask = case
    data = decay(rate, height, EVEN)
    with pytest.raises(MetadataError, match="at least"):
        fit(name, data[:1], mask, Scan((0.004,)))
    with pytest.raises(MetadataError, match="5 echoes"):
        fit(name, data, mask, Scan((0.004, 0.008, 0.012)))
    with pytest.raises(MaskError, match="empty"):
        fit(name, data, mask & False, EVEN)
    with pytest.raises(NonFiniteError, match="inside the mask"):
        fit(name, data / 0, mask, EVEN)
    for maximum in (0.0, float("inf")):
        with pytest.raises(InputError, match=f"maximum must be a positive rate in 1/s, got {maximum}"):
            fit(name, data, mask, EVEN, maximum=maximum)


@pytest.mark.parametrize("name", [name for name in FROM_ECHOES if name not in ("arlo", "r2_epg")])
def test_anatomy_is_not_noise_where_only_two_echoes_tell_it(name, generator):
    """Edges and textures that both echoes share; second differences of one echo told twice the noise here."""
    scan, shape = Scan((0.006, 0.02)), (40, 36, 30)
    blocks = (torch.rand((5, 6, 5), generator=generator) > 0.5).float()
    rate = 15 + 5 * torch.nn.functional.interpolate(blocks[None, None], shape, mode="nearest")[0, 0]
    height = 100 + 3 * torch.randn(shape, generator=generator) + 20 * torch.linspace(0, 9, 40).sin()[:, None, None]
    mask = torch.ones(shape, dtype=torch.bool)
    found = fit(name, noisy(decay(rate, height, scan), 1.0, generator), mask, scan)
    assert float(((found[0] - rate) / found[1]).std()) == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize("name", [name for name in FROM_ECHOES if "max_iter" in load("relaxometry", name).knobs])
def test_steps_that_do_not_begin_and_tolerances_that_are_none_are_refused(name, case):
    rate, height, mask = case
    scan = Scan((0.01, 0.02, 0.03, 0.04, 0.05))
    for knob, values in {"max_iter": (0, -3), "tol": (-1.0, float("nan"))}.items():
        for value in values:
            with pytest.raises(InputError, match=knob):
                fit(name, decay(rate, height, scan), mask, scan, **{knob: value})


def test_arlo_is_free_of_simpsons_bias(grid):
    rate = torch.full(grid.shape, 100.0)
    scan = Scan((0.005, 0.015, 0.025))
    result = fit("arlo", decay(rate, rate, scan), torch.ones(grid.shape, dtype=torch.bool), scan)
    assert float(result.r2star.mean()) == pytest.approx(100, rel=1e-4)


def test_two_echoes_do_for_the_nonlinear_fit(case, generator):
    rate, height, mask = case
    smooth = torch.full_like(height, 900.0)
    scan = Scan((0.005, 0.025))
    result = nonlinear(noisy(decay(0 * rate + 30, smooth, scan), 9.0, generator), torch.ones_like(mask), scan)
    assert abs(float((result.r2star - 30).mean())) < 0.1
    assert 0.85 < float((result.r2star - 30).std() / result.r2star_noise.median()) < 1.15


def test_rician_fit_has_less_bias_where_echoes_are_weak(case, generator):
    rate, _, mask = case
    data = noisy(decay(0 * rate + 90, 0 * rate + 1000, UNEVEN), 40.0, generator)
    plain, mended = (nonlinear(data, mask, UNEVEN, rician=flag).r2star[mask].median() - 90 for flag in (False, True))
    assert abs(float(mended)) < abs(float(plain))


def test_reports_progress(case):
    rate, height, mask = case
    heard = []
    nonlinear(decay(rate, height, EVEN), mask, EVEN, callback=lambda i, change: heard.append((i, change)))
    assert heard[0][0] == 1
    assert heard[-1][1] < 1e-4


def test_shapes_must_fit():
    with pytest.raises(InputError, match="differ in shape"):
        check("arlo", torch.ones(3, 4, 5, 6), torch.ones(4, 5, 7, dtype=torch.bool), Scan((0.01, 0.02, 0.03)), 2, 300.0)


def test_methods_agree_on_a_real_brain(shared_data):
    folder = shared_data / "multi-te-magnitude"
    data = torch.from_numpy(np.asarray(nibabel.load(folder / "magnitude.nii.gz").dataobj, dtype=np.float32)).movedim(-1, 0).contiguous()
    scan = Scan(tuple(json.loads((folder / "scan.json").read_text())["EchoTime"]), 3.0)
    mask = data[0] > 150
    one, two = (fit(name, data, mask, scan).r2star[mask] for name in ("arlo", "nonlinear"))
    assert 12 < float(two.median()) < 40
    assert float((one - two).abs().median()) < 2
