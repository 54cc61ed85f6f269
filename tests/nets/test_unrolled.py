"""The data step against dense algebra, and the turn of network and field."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from paradia.fft import Window
from paradia.grid import Grid
from paradia.nets.unet import UNet3d
from paradia.nets.unrolled import FLOOR, LEAST, Estimate, centred, clear, consult, invert, problem, propose, unexplained, unit_of
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


@pytest.fixture
def estimate(held, generator):
    held, start = held
    deviation = 0.05 * (0.5 + torch.rand(GRID.shape, generator=generator)) * held.mask
    return Estimate(start, deviation)


def matrix(dipole):
    n = math.prod(GRID.shape)
    return dipole(torch.eye(n).reshape(n, *GRID.shape)).reshape(n, n).T.double().numpy()


def test_a_data_step_run_to_its_end_is_dense_least_squares(held, estimate):
    """Rows of the field over its noise and of χ over its deviation, stacked, by numpy."""
    held, trust = held[0], 0.4
    inside = held.mask.flatten().numpy()
    dipole = matrix(held.dipole)[np.ix_(inside, inside)]
    sigma = np.sqrt(held.noise[held.mask].numpy().astype(float) ** 2 + FLOOR**2)
    tau, z = (image[held.mask].double().numpy() for image in (estimate.deviation, estimate.value))
    rows = np.concatenate([np.sqrt(trust) * dipole / sigma[:, None], np.diag(1 / tau)])
    right = np.concatenate([np.sqrt(trust) * held.field[held.mask].numpy() / sigma, z / tau])
    chi, *_ = np.linalg.lstsq(rows, right, rcond=None)
    got = consult(estimate, held, trust, iterations=200)
    np.testing.assert_allclose(got[held.mask].numpy(), chi - chi.mean(), atol=3e-4 * np.abs(chi).max() + 1e-6, rtol=3e-3)
    assert got[~held.mask].abs().max() == 0


def test_no_trust_leaves_the_proposal(held, estimate):
    torch.testing.assert_close(consult(estimate, held[0], 0.0), estimate.value)


def test_more_trust_leaves_less_of_the_field(held, estimate):
    held = held[0]
    left = [float(unexplained(consult(estimate, held, trust), held.field, held.mask, held.dipole).norm()) for trust in (0.01, 0.1, 1.0)]
    assert left[0] > left[1] > left[2]


def test_where_the_network_is_sure_nothing_moves(held, estimate):
    held = held[0]
    sure = estimate._replace(deviation=estimate.deviation.clone())
    sure.deviation[3] = 0
    moved = consult(sure, held, 1.0) - sure.value
    constant = moved[3][held.mask[3]]
    assert constant.std() < 1e-6  # all moves together: the mean over the mask is taken away
    assert moved[4][held.mask[4]].std() > 1e-4


def test_the_normal_operator_of_the_data_step_is_symmetric(held, generator):
    """Conjugate gradients ask for it: the dipole is its own adjoint on this grid, even axes and B0 oblique."""
    a, b = torch.randn((2, *GRID.shape), generator=generator).unbind()
    dipole = held[0].dipole
    torch.testing.assert_close((a * dipole(b)).sum(), (dipole(a) * b).sum(), rtol=1e-4, atol=1e-4)


def test_the_mean_of_chi_is_nobodys(held, estimate):
    held = held[0]
    assert abs(float(centred(estimate.value + 3.0, held.mask)[held.mask].mean())) < 1e-6
    chi = estimate.value
    lifted = unexplained(chi + 0.7 * held.mask, held.field, held.mask, held.dipole)
    torch.testing.assert_close(lifted, unexplained(chi, held.field, held.mask, held.dipole), rtol=1e-3, atol=1e-5)


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


def test_stages_ask_the_network_and_the_field_in_turn(held):
    held, start = held
    net = Told(0.0)
    first = propose(net, start, held)
    by_hand = propose(net, consult(first, held, 0.3), held)
    net.asked = 0
    torch.testing.assert_close(invert(net, start, held, stages=2, trust=0.3).value, by_hand.value)
    assert net.asked == 3  # in the last stage of the mirror image too
    refined = invert(net, start, held, stages=2, trust=0.3, refine=4)
    torch.testing.assert_close(refined.value, consult(by_hand, held, 0.3, 4))


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


def test_a_flat_start_has_a_unit_all_the_same(generator):
    """More than half of the voxels alike: their median distance from the median is zero."""
    mask = torch.ones(GRID.shape, dtype=torch.bool)
    start = torch.zeros(GRID.shape)
    start[:2] = 0.1 * torch.randn((2, *GRID.shape[1:]), generator=generator)
    assert float(unit_of(start, mask)) == pytest.approx(LEAST * float((start - start.mean()).square().mean().sqrt()))
