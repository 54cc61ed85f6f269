import pytest
import torch

from paradia.errors import GeometryError, InputError, MaskError, MetadataError, NonFiniteError
from paradia.pipeline.step import Step
from paradia.registry import load, methods
from paradia.relaxometry._checks import check
from paradia.scan import Scan

SHAPE = (14, 9, 12)
EVEN = Scan((0.004, 0.012, 0.020, 0.028), 3.0)
ODD = Scan((0.002, 0.007, 0.009, 0.018, 0.030), 3.0)

STAR = [name for name in methods("relaxometry") if "r2star" in load("relaxometry", name).gives]
"""Methods that read R2* from gradient echoes; those of R2 and R2′ have tests of their own."""

every = pytest.mark.parametrize("name", STAR)


def truth(generator):
    """R2* of tissue from fluid to pallidum, and a mask with a hole."""
    rate = 2 + 60 * torch.rand(SHAPE, generator=generator)
    amplitude = 300 + 700 * torch.rand(SHAPE, generator=generator)
    mask = torch.ones(SHAPE, dtype=torch.bool)
    mask[4:6, 3:5, 2:4] = False
    return rate, amplitude, mask


def decays(rate, amplitude, scan):
    times = torch.tensor(scan.echo_times)[:, None, None, None]
    return amplitude * torch.exp(-rate * times)


@every
@pytest.mark.parametrize("scan", [EVEN, ODD])
def test_a_noiseless_decay_is_read_exactly(name, scan, generator):
    rate, amplitude, mask = truth(generator)
    fit = Step("relaxometry", name)(decays(rate, amplitude, scan), mask, scan)
    error = (fit.r2star - rate)[mask].abs() / rate[mask]
    assert error.max() < (2e-3 if name == "nonlinear" or scan is EVEN else 2e-2)  # Simpson's rule at uneven spacing


@every
def test_nothing_outside_the_mask_and_numbers_inside(name, generator):
    rate, amplitude, mask = truth(generator)
    magnitude = decays(rate, amplitude, EVEN)
    magnitude[:, 0] = 0  # no signal at all
    magnitude[1:, 1] = 0  # gone after the first echo
    magnitude[:, 2] = magnitude[:, 2].flip(0)  # grows
    fit = Step("relaxometry", name)(magnitude, mask, EVEN)
    for value in fit:
        assert value.shape == SHAPE
        assert value.dtype == torch.float32
        assert torch.isfinite(value).all()
        assert (value >= 0).all()
        assert not value[~mask].any()


@every
def test_scale_and_order_of_axes_make_no_difference(name, generator):
    rate, amplitude, mask = truth(generator)
    magnitude = decays(rate, amplitude, EVEN) + torch.randn(4, *SHAPE, generator=generator).abs()
    fit = Step("relaxometry", name)(magnitude, mask, EVEN)
    turned = Step("relaxometry", name)(7 * magnitude.permute(0, 3, 1, 2).contiguous(), mask.permute(2, 0, 1), EVEN)
    assert torch.allclose(turned.r2star, fit.r2star.permute(2, 0, 1), rtol=1e-3, atol=1e-2)


@every
def test_the_noise_map_is_the_spread_of_repeats(name, generator):
    """Monte Carlo: the standard deviation given is right within 10 %."""
    shape = (40, 40, 40)
    rate, amplitude = torch.full(shape, 25.0), torch.full(shape, 100.0)
    noise = torch.randn(2, 4, *shape, generator=generator)
    clean = decays(rate, amplitude, EVEN)
    magnitude = ((clean + noise[0]).square() + noise[1].square()).sqrt()
    fit = Step("relaxometry", name)(magnitude, torch.ones(shape, dtype=torch.bool), EVEN)
    assert fit.r2star_noise.mean() == pytest.approx(fit.r2star.std().item(), rel=0.1)
    assert fit.r2star.mean() == pytest.approx(25, rel=0.01)


@pytest.mark.parametrize("name", [name for name in methods("relaxometry") if "magnitude" in load("relaxometry", name).needs])
def test_voxels_without_a_signal_are_a_guess_and_make_no_others_look_certain(name, generator):
    """Most of the mask lies beyond the field of view of these echoes."""
    scan = Scan((0.01, 0.02, 0.03, 0.04, 0.05))
    clean = decays(torch.full(SHAPE, 15.0), torch.full(SHAPE, 100.0), scan)
    magnitude, mask = (clean + torch.randn(5, *SHAPE, generator=generator)).abs(), torch.ones(SHAPE, dtype=torch.bool)
    whole = Step("relaxometry", name)(magnitude, mask, scan)
    seen = mask.clone()
    seen[:, :, :8] = False
    part = Step("relaxometry", name)(magnitude * seen, mask, scan)
    torch.testing.assert_close(part[0][seen], whole[0][seen])
    assert float(part[1][seen].median() / whole[1][seen].median()) == pytest.approx(1, abs=0.15)
    maximum = load("relaxometry", name).knobs["maximum"]
    torch.testing.assert_close(part[1][~seen], torch.full_like(part[1][~seen], maximum / 12**0.5))


def test_the_noise_floor_does_not_pass_for_slow_decay(generator):
    """At a signal of five noise levels the last echoes are floor; the Rician model keeps R2* within 2 %."""
    shape = (30, 30, 30)
    scan = Scan((0.004, 0.012, 0.020, 0.028, 0.036, 0.044), 3.0)
    noise = torch.randn(2, 6, *shape, generator=generator)
    clean = decays(torch.full(shape, 60.0), torch.full(shape, 10.0), scan)
    magnitude = ((clean + noise[0]).square() + noise[1].square()).sqrt()
    mask = torch.ones(shape, dtype=torch.bool)
    error = {
        rician: abs(load("relaxometry", "nonlinear").function(magnitude, mask, scan, rician=rician).r2star.median() - 60)
        for rician in (True, False)
    }
    assert error[True] < 0.5 * error[False]


def test_arlo_is_free_of_simpsons_bias(generator):
    rate = torch.full(SHAPE, 100.0)
    scan = Scan((0.005, 0.015, 0.025), 3.0)
    fit = load("relaxometry", "arlo").function(decays(rate, rate, scan), torch.ones(SHAPE, dtype=torch.bool), scan)
    assert fit.r2star.mean() == pytest.approx(100, rel=1e-4)


def test_two_echoes_suffice_for_the_nonlinear_fit(generator):
    rate, amplitude, mask = truth(generator)
    scan = Scan((0.004, 0.012))
    fit = load("relaxometry", "nonlinear").function(decays(rate, amplitude, scan), mask, scan)
    assert torch.allclose(fit.r2star[mask], rate[mask], rtol=1e-3)


@every
def test_one_echo_is_too_few(name):
    with pytest.raises(InputError, match=f"{name} needs at least . echoes, got 1"):
        Step("relaxometry", name)(torch.ones(1, *SHAPE), torch.ones(SHAPE, dtype=torch.bool), Scan((0.004,)))


@pytest.mark.parametrize(
    ("magnitude", "mask", "error", "message"),
    [
        (torch.ones(3, *SHAPE), torch.ones(SHAPE, dtype=torch.bool), MetadataError, "4 echo times and the magnitude 3 echoes"),
        (torch.ones(4, *SHAPE), torch.ones(3, 3, 3, dtype=torch.bool), GeometryError, "magnitude and mask differ in shape"),
        (torch.ones(4, *SHAPE), torch.zeros(SHAPE, dtype=torch.bool), MaskError, "the mask is empty"),
        (torch.full((4, *SHAPE), torch.nan), torch.ones(SHAPE, dtype=torch.bool), NonFiniteError, "the magnitude is NaN or Inf at"),
    ],
)
def test_data_that_do_not_fit_are_refused(magnitude, mask, error, message):
    with pytest.raises(error, match=message):
        check("any", magnitude, mask, EVEN, 2, 1000.0)


def test_real_decays_lie_where_brain_does(shared_data):
    """Twelve in-vivo echoes: both methods agree, and white matter decays as it does at 3 T."""
    import json

    import nibabel as nib

    folder = shared_data / "multi-te-magnitude"
    times = json.loads((folder / "scan.json").read_text())["EchoTime"]
    magnitude = torch.from_numpy(nib.load(folder / "magnitude.nii.gz").get_fdata(dtype="float32")).movedim(-1, 0).contiguous()
    mask = magnitude[0] > 0.2 * magnitude[0].quantile(0.98)
    fits = {name: Step("relaxometry", name)(magnitude, mask, Scan(tuple(times))).r2star[mask] for name in STAR}
    for fit in fits.values():
        assert 15 < fit.median() < 30
    tissue = fits["nonlinear"] < 60  # beyond that lie air, fat and the noise floor, where each goes its own way
    assert tissue.float().mean() > 0.7
    assert torch.corrcoef(torch.stack([fit[tissue] for fit in fits.values()]))[0, 1] > 0.95
