"""R2* freed from dephasing: exact where the model holds, unbiased over the sinuses of a simulated head."""

from __future__ import annotations

import math

import pytest
import torch

from paradia.grid import Grid
from paradia.relaxometry.nonlinear import nonlinear
from paradia.relaxometry.r2star import r2star
from paradia.scan import Scan
from paradia.simulate.gre import gre
from paradia.simulate.head import head

SCAN = Scan((0.004, 0.010, 0.016, 0.022, 0.028), 3.0)


def box_decay(rate, field, scan, samples=101):
    """Average the signal over the voxel itself, sample by sample: independent of any sinc."""
    offsets = (torch.arange(samples) + 0.5) / samples - 0.5
    echoes = []
    for time in scan.echo_times:
        weak = torch.ones_like(field)
        for axis in range(3):
            change = torch.gradient(field, dim=axis)[0]
            turns = 2 * math.pi * scan.hz_per_ppm * time * change[..., None] * offsets
            weak = weak * torch.complex(turns.cos(), turns.sin()).mean(-1).abs()
        echoes.append(500 * torch.exp(-time * rate) * weak)
    return torch.stack(echoes)


@pytest.fixture
def sloped(grid, generator):
    """A field that is linear along each axis, so that slopes are known up to the edge."""
    x, y, z = torch.meshgrid(*[torch.arange(float(n)) for n in grid.shape], indexing="ij")
    field = 0.03 * x - 0.05 * y + 0.08 * z
    rate = 5 + 60 * torch.rand(grid.shape, generator=generator)
    mask = torch.zeros(grid.shape, dtype=torch.bool)
    mask[3:-3, 2:-4, 4:-2] = True
    mask[12:15, 10:14, 9] = False
    return rate, field, mask


def test_undoes_an_average_over_the_voxel_that_was_summed_by_brute_force(sloped):
    rate, field, mask = sloped
    data = box_decay(rate, field, SCAN)
    fitted = r2star(data, mask, SCAN, field).r2star
    plain = r2star(data, mask, SCAN).r2star
    assert (fitted - rate)[mask].abs().max() < 0.3
    assert (plain - rate)[mask].mean() > 6


def test_is_the_plain_fit_without_a_field_without_slopes_or_switched_off(sloped):
    rate, field, mask = sloped
    data = box_decay(rate, field, SCAN)
    plain = nonlinear(data, mask, SCAN)
    for fit in (r2star(data, mask, SCAN), r2star(data, mask, SCAN, field, correct=False), r2star(data, mask, SCAN, 0 * field + 3)):
        for got, want in zip(fit, plain, strict=True):
            assert torch.equal(got, want)


def test_what_the_field_is_outside_the_mask_does_not_matter(sloped):
    rate, field, mask = sloped
    data = box_decay(rate, field, SCAN)
    wild = torch.where(mask, field, 1e3)
    assert torch.equal(r2star(data, mask, SCAN, wild).r2star, r2star(data, mask, SCAN, field).r2star)


def test_stated_noise_is_the_noise_and_half_of_the_correction(sloped, generator):
    """In squares: without its share of the correction it is the spread of the errors where the field is known."""
    rate, field, mask = sloped
    clean = box_decay(rate, field, SCAN)
    data = torch.complex(clean + 2 * torch.randn(clean.shape, generator=generator), 2 * torch.randn(clean.shape, generator=generator)).abs()
    result = r2star(data, mask, SCAN, field)
    correction = r2star(data, mask, SCAN, field, correct=False).r2star - result.r2star
    assert float(correction[mask].median()) > 5
    square = result.r2star_noise.square() - (correction / 2).square()
    score = ((result.r2star - rate) / square.clamp_min(1e-6).sqrt())[mask]
    assert 0.9 < float(score.std()) < 1.1
    assert abs(float(score.mean())) < 0.1


@pytest.mark.parametrize("rician", [False, True])
def test_the_bias_over_the_sinuses_of_a_simulated_head_falls(rician):
    truth = head(Grid((48, 54, 40), (4.0, 4.0, 4.0), (0.1, 0.0, 0.99)), seed=2)
    echoes = gre(truth, SCAN, snr=200.0, seed=1).abs()
    change = sum(torch.gradient(truth.total_field, dim=axis)[0].square() for axis in range(3)).sqrt()
    plain, fitted = (r2star(echoes, truth.mask, SCAN, truth.total_field, correct=flag, rician=rician).r2star for flag in (False, True))
    steep = truth.mask & (change > 0.1) & (change < 0.3)
    assert int(steep.sum()) > 200
    before, after = (float((fit - truth.r2star)[steep].median()) for fit in (plain, fitted))
    assert before > 5
    assert abs(after) < 0.2 * before
    everywhere = [float((fit - truth.r2star)[truth.mask].abs().mean()) for fit in (plain, fitted)]
    assert everywhere[1] < everywhere[0]
