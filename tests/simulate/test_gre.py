import math

import pytest
import torch

from paradia.errors import InputError, MetadataError
from paradia.grid import Grid
from paradia.operators.dipole import Dipole
from paradia.scan import Scan
from paradia.simulate._tissue import NAMES
from paradia.simulate.gre import gre
from paradia.simulate.head import Head, head

GRID = Grid((66, 75, 54), (3.0, 3.0, 3.2), (0.2, -0.3, 0.93))
SCAN = Scan((0.004, 0.011, 0.020), 3.0)


@pytest.fixture(scope="module")
def truth():
    return head(GRID, seed=1)


def of(chi, grid):
    """A head of one susceptibility map that neither decays nor has an offset."""
    field = Dipole(grid, padding=2) @ chi
    ones, zeros = torch.ones_like(chi), torch.zeros_like(chi)
    return Head(chi, ones > 0, zeros.to(torch.uint8), NAMES, ones, zeros, field, field, zeros, grid, 3.0)


def test_noise_has_the_level_asked_for(truth):
    clean, noisy = gre(truth, SCAN, snr=math.inf), gre(truth, SCAN, snr=50.0)
    sigma = float(clean[0].abs().max()) / 50
    for part in ((noisy - clean).real, (noisy - clean).imag):
        assert float(part.std()) == pytest.approx(sigma, rel=0.01)
        assert abs(float(part.mean())) < 0.01 * sigma


def test_noise_is_the_seed_s(truth):
    assert torch.equal(gre(truth, SCAN, seed=3), gre(truth, SCAN, seed=3))
    assert not torch.equal(gre(truth, SCAN, seed=3), gre(truth, SCAN, seed=4))


def test_phase_is_offset_and_field(truth):
    signal = gre(truth, SCAN, snr=math.inf, dephasing=False)
    for n, echo_time in enumerate(SCAN.echo_times):
        expected = truth.offset + SCAN.rad_per_ppm(echo_time) * truth.total_field
        rest = torch.angle(signal[n] * torch.polar(torch.ones_like(expected), -expected))[truth.mask]
        assert float(rest.abs().max()) < 1e-3


def test_magnitude_decays_with_r2star(truth):
    signal = gre(truth, SCAN, snr=math.inf, dephasing=False).abs()
    rate = torch.log(signal[0] / signal[2]) / (SCAN.echo_times[2] - SCAN.echo_times[0])
    torch.testing.assert_close(rate[truth.mask], truth.r2star[truth.mask], atol=0.05, rtol=1e-3)


def test_dephasing_darkens_where_the_field_is_steep(truth):
    ratio = gre(truth, SCAN, snr=math.inf)[2].abs() / gre(truth, SCAN, snr=math.inf, dephasing=False)[2].abs().clamp(min=1e-6)
    steep = sum(g.square() for g in torch.gradient(truth.total_field)).sqrt()
    inside = truth.mask
    assert float(ratio[inside & (steep > 0.25)].mean()) < 0.8
    assert float(ratio[inside & (steep < 0.02)].mean()) > 0.97


def test_readout_of_the_other_polarity_adds_a_ramp(truth):
    plain, alternating = (gre(truth, SCAN, snr=math.inf, bipolar=b) for b in (0.0, 0.8))
    step = torch.angle(alternating * plain.conj())
    assert float(step[0][truth.mask].abs().max()) < 1e-4
    ramp = torch.linspace(-0.8, 0.8, GRID.shape[0])[:, None, None].expand(GRID.shape)
    torch.testing.assert_close(step[1][truth.mask], ramp[truth.mask], atol=1e-3, rtol=0)


def test_sphere_through_the_whole_chain():
    grid = Grid((60, 51, 58), (1.0, 1.2, 1.1), (0.0, 0.6, 0.8))
    axes = [(torch.arange(n) - n // 2) * v for n, v in zip(grid.shape, grid.voxel_size, strict=True)]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    r = (x.square() + y.square() + z.square()).sqrt()
    radius, chi = 9.0, 0.5
    signal = gre(of(chi * (0.5 + (radius - r)).clamp(0, 1), grid), SCAN, snr=math.inf, dephasing=False)
    field = torch.angle(signal[1] * signal[0].conj()) / (SCAN.rad_per_ppm(SCAN.echo_times[1]) - SCAN.rad_per_ppm(SCAN.echo_times[0]))
    cosine = (0.6 * y + 0.8 * z) / r.clamp(min=0.1)
    expected = chi / 3 * (radius / r.clamp(min=0.1)).pow(3) * (3 * cosine.square() - 1)
    outside = (r > radius + 2) & (r < 20)
    slope = float((field * expected)[outside].sum() / expected[outside].square().sum())
    assert slope == pytest.approx(1.0, abs=0.03)
    assert abs(float(field[r < radius - 3].mean())) < 0.01


def test_field_strengths_must_agree(truth):
    with pytest.raises(MetadataError, match="Make the head with b0=7"):
        gre(truth, Scan((0.01,), 7.0))


def test_noise_must_be_possible(truth):
    with pytest.raises(InputError, match="must be positive"):
        gre(truth, SCAN, snr=0.0)
