"""What the network sees, and what its answers are worth."""

from __future__ import annotations

import math

import pytest
import torch

from paradia.fft import Window
from paradia.grid import Grid
from paradia.nets import unrolled
from paradia.nets.unet import UNet3d
from paradia.nets.unrolled import LEAST, centred, clear, problem, propose, unexplained, unit_of
from paradia.operators.dipole import Dipole

GRID = Grid((8, 6, 10), (1.0, 1.2, 1.5), (0.2, -0.3, 0.93))


@pytest.fixture
def held(generator):
    """A field with noise in a box, and a start that is off."""
    mask = torch.zeros(GRID.shape, dtype=torch.bool)
    mask[1:7, 1:5, 2:8] = True
    chi = torch.randn(GRID.shape, generator=generator) * 0.1 * mask
    noise = (0.005 * (1 + torch.rand(GRID.shape, generator=generator))) * mask
    field = Dipole(GRID)(chi) + noise * torch.randn(GRID.shape, generator=generator)
    start = chi + 0.05 * torch.randn(GRID.shape, generator=generator) * mask
    return problem(field, start, mask, noise, GRID)


def test_the_mean_of_chi_is_nobodys(held):
    held, chi = held
    assert abs(float(centred(chi + 3.0, held.mask)[held.mask].mean())) < 1e-6
    lifted = unexplained(chi + 0.7 * held.mask, held.field, held.mask, held.dipole)
    torch.testing.assert_close(lifted, unexplained(chi, held.field, held.mask, held.dipole), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("constant", [-0.002, 0.01])
def test_a_constant_of_the_field_is_not_shown(generator, constant):
    mask = torch.zeros(GRID.shape, dtype=torch.bool)
    mask[1:7, 1:5, 2:8] = True
    chi = centred(torch.randn(GRID.shape, generator=generator) * 0.1, mask)
    noise = torch.full(GRID.shape, 0.005)
    noise[2] = torch.inf  # what is not known tells no constant
    field = Dipole(GRID)(chi) + torch.where(noise.isfinite(), 0.0, 3.0)
    one, other = (problem(field + lifted, chi, mask, noise, GRID)[0].field for lifted in (0.0, constant))
    torch.testing.assert_close(other, one)
    known = mask & noise.isfinite()
    torch.testing.assert_close(one[known], Dipole(GRID)(chi)[known], atol=1e-6, rtol=1e-4)


def test_an_untrained_network_proposes_what_it_is_shown(held):
    held, start = held
    proposal = propose(UNet3d(6, 2, (4, 8)).eval().requires_grad_(False), start, held)
    torch.testing.assert_close(proposal.value, start, rtol=1e-5, atol=1e-7)
    assert proposal.deviation[held.mask].min() >= held.scale
    assert proposal.novelty == 0


class Told(UNet3d):
    """A network that answers the same change everywhere, and counts how often it is asked."""

    def __init__(self, change, inputs=6):
        super().__init__(inputs, 2, (4,))
        self.change, self.asked, self.seen = change, 0, []
        self.eval().requires_grad_(False)

    def forward(self, x):
        self.asked += 1
        self.seen.append(x)
        return torch.stack([torch.full_like(x[:, 0], self.change), torch.full_like(x[:, 0], -1.0)], 1)


def test_an_answer_is_worth_what_the_slope_of_the_squashing_says(held):
    """A change of one where χ is zero is one unit, far away as much more as squashing compressed."""
    held, _ = held
    chi = torch.zeros(GRID.shape)
    chi[3, 2, 4] = 30 * held.scale
    answer = Told(0.1)
    got = propose(answer, chi, held).value
    change = got - centred(chi, held.mask)
    change = change - change[5, 3, 6]
    assert float(change[3, 2, 4]) == pytest.approx(0.1 * float(held.scale) * (math.sqrt(1 + 900) - 1), rel=1e-2)


def test_clear_corrects_the_local_field(generator):
    mask = torch.zeros(GRID.shape, dtype=torch.bool)
    mask[1:7, 1:5, 2:8] = True
    window = Window.around(mask, GRID, 5.0)
    chi, rest = (0.05 * torch.randn(window.grid.shape, generator=generator) * window.mask for _ in range(2))
    local = Dipole(window.grid)(chi) * window.mask
    total = local + 0.5 * window.mask
    noise = 0.004 * window.mask.float()
    same = clear(Told(0.0, 7), total, local, chi, rest, noise, window)
    torch.testing.assert_close(same.value, local)
    more = clear(Told(0.2, 7), total, local, chi, rest, noise, window)
    assert (more.value > local)[window.mask].all()
    assert more.value[~window.mask].abs().max() == 0


@pytest.mark.parametrize(("strange", "share"), [(0.5, 1.0), (2.0, 0.5), (5.0, 0.2)])
def test_of_an_answer_on_a_strange_volume_less_is_taken(held, monkeypatch, generator, strange, share):
    """Of both networks; how far to trust them is told as before."""
    monkeypatch.setattr(unrolled, "novelty", lambda *_: 0.0)
    known, start = held
    whole = propose(Told(0.3), start, known)
    window = Window.around(known.mask, GRID, 3.0)
    total, local, chi, rest = (torch.randn(window.grid.shape, generator=generator) * window.mask for _ in range(4))
    cleared = clear(Told(0.3, 7), total, local, chi, rest, 0.1 * window.mask, window)
    monkeypatch.setattr(unrolled, "novelty", lambda *_: strange)
    less = propose(Told(0.3), start, known)
    torch.testing.assert_close(less.value - start, share * (whole.value - start))
    torch.testing.assert_close(less.deviation, whole.deviation)
    cleared_less = clear(Told(0.3, 7), total, local, chi, rest, 0.1 * window.mask, window)
    torch.testing.assert_close(cleared_less.value - local, share * (cleared.value - local))
    assert less.novelty == cleared_less.novelty == strange


def test_a_flat_start_has_a_unit_all_the_same(generator):
    """More than half of the voxels alike: their median distance from the median is zero."""
    mask = torch.ones(GRID.shape, dtype=torch.bool)
    start = torch.zeros(GRID.shape)
    start[:2] = 0.1 * torch.randn((2, *GRID.shape[1:]), generator=generator)
    assert float(unit_of(start, mask)) == pytest.approx(LEAST * float((start - start.mean()).square().mean().sqrt()))
