"""A proposal and the sources outside, moved by the total field: against a dense solution, and where they must not move."""

from __future__ import annotations

import math

import pytest
import torch

from paradia.grid import Grid
from paradia.nets.features import spread
from paradia.nets.settled import AROUND, FEW, LEAST, MEAN, SURE, SURER, WIDE, invert, neighbours, remainder, settle
from paradia.nets.unet import UNet3d
from paradia.nets.unrolled import FLOOR, Estimate, problem, propose
from paradia.operators.dipole import Dipole

GRID = Grid((9, 8, 10), (1.0, 1.2, 1.5), (0.2, -0.3, 0.93))


@pytest.fixture
def given():
    generator = torch.Generator().manual_seed(3)

    def draw():
        return torch.randn(GRID.shape, generator=generator)

    mask = torch.zeros(GRID.shape, dtype=torch.bool)
    mask[2:-2, 2:-2, 3:-2] = True
    mask[3, 3, 3] = False
    estimate = Estimate(0.05 * draw() * mask, (0.02 + 0.01 * draw().abs()) * mask)
    deviation = torch.where(mask, 0.004 + 0.002 * draw().abs(), 0.0)
    return estimate, 0.5 * draw() * ~mask, 0.1 * draw() * mask, deviation, mask, Dipole(GRID)


def dense(operator):
    """Write a linear operator as a matrix."""
    units = torch.eye(math.prod(GRID.shape)).reshape(-1, *GRID.shape)
    return torch.stack([operator(unit).flatten() for unit in units], 1).double()


def test_it_ends_where_the_normal_equations_do(given):
    """The formula of the docstring with matrices, its means written as a matrix of their own."""
    estimate, outside, field, deviation, mask, dipole = given
    found = settle(*given, around=0.4, trust=0.7, iterations=600)
    inside = mask.flatten().double()
    means = torch.ones(1, 1, dtype=torch.float64)
    for n in GRID.shape:
        band = 0.5 * torch.eye(n, dtype=torch.float64)
        band += 0.25 * (torch.diag(torch.ones(n - 1, dtype=torch.float64), 1) + torch.diag(torch.ones(n - 1, dtype=torch.float64), -1))
        means = torch.kron(means, band)
    moves = torch.diag(0.7**0.5 * estimate.deviation.flatten().double() / MEAN**3) @ means @ torch.diag(inside)
    spread = moves + 0.4 * torch.diag(1 - inside)
    d = dense(dipole)
    both = (estimate.value + outside).flatten().double()
    left = field.flatten().double() - d @ both
    some = left[mask.flatten()]
    size = 1.4826 * (some - some.median()).abs().median()
    certain = torch.diag(torch.where(inside > 0, 1 / (deviation.flatten().double() ** 2 + size**2).sqrt(), 0.0))
    a = certain @ d @ spread
    right = certain @ left
    x = torch.linalg.solve(a.T @ a + torch.eye(a.shape[1], dtype=torch.float64), a.T @ right)
    both = both + spread @ x
    chi = torch.where(mask, both.reshape(GRID.shape), 0.0)
    chi = torch.where(mask, chi - chi[mask].mean(), 0.0)
    torch.testing.assert_close(found.chi.double(), chi, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(found.outside.double(), torch.where(mask, 0.0, both.reshape(GRID.shape)), atol=2e-3, rtol=1e-2)
    left = torch.where(mask, field.double() - (d @ both).reshape(GRID.shape), 0.0)
    torch.testing.assert_close(found.rest.double(), left, atol=2e-4, rtol=1e-2)


def test_without_iterations_it_only_reckons_what_is_left(given):
    estimate, outside, field, _, mask, dipole = given
    found = settle(*given, around=0.5, trust=0.5, iterations=0)
    torch.testing.assert_close(found.outside, outside)
    torch.testing.assert_close(found.rest, (field - dipole(estimate.value + outside)) * mask)
    torch.testing.assert_close(found.chi[mask], (estimate.value - estimate.value[mask].mean())[mask])
    assert not found.chi[~mask].any()


def test_without_trust_the_proposal_stays_and_the_sources_outside_give_way(given):
    estimate, outside, *_, mask, _ = given
    found = settle(*given, around=0.5, trust=0.0, iterations=30)
    torch.testing.assert_close(found.chi[mask], (estimate.value - estimate.value[mask].mean())[mask])
    assert (found.outside - outside).norm() > 0.1 * outside.norm()
    assert found.rest.norm() < settle(*given, around=0.5, trust=0.0, iterations=0).rest.norm()


def test_a_field_that_is_not_known_moves_nothing(given):
    estimate, outside, field, deviation, mask, dipole = given
    lost = torch.zeros_like(mask)
    lost[4, 4:6, 4:7] = True  # more than the median of what is left would forgive
    unknown = torch.where(lost, torch.inf, deviation)
    one, other = (
        settle(estimate, outside, torch.where(lost, wrong, field), unknown, mask, dipole, around=0.5, trust=0.5, iterations=20)
        for wrong in (0.0, 5.0)
    )
    torch.testing.assert_close(one.chi, other.chi)
    torch.testing.assert_close(one.outside, other.outside)


def test_means_of_neighbours_are_their_own_adjoint_and_have_the_stated_size():
    x, y = torch.randn(2, 24, 25, 26, generator=torch.Generator().manual_seed(1)).double()
    assert float((neighbours(x) * y).sum()) == pytest.approx(float((x * neighbours(y)).sum()))
    flat = neighbours(torch.ones(5, 6, 7))
    assert flat[1:-1, 1:-1, 1:-1].unique().tolist() == [1.0]
    assert float(neighbours(x)[1:-1, 1:-1, 1:-1].std()) == pytest.approx(MEAN**3, rel=0.1)
    assert neighbours(torch.ones(1, 1, 3)).tolist() == [[[0.1875, 0.25, 0.1875]]]


def test_what_a_background_removal_left_goes_to_sources_outside(given):
    """A local field with the field of a source outside still in it: with nothing free outside, χ takes it all."""
    estimate, _, _, deviation, mask, dipole = given
    source = torch.zeros(GRID.shape)
    source[0, 4, 5] = 2.0
    field, nothing = dipole(estimate.value + source) * mask, torch.zeros(GRID.shape)
    wrong = {}
    for around in (0.0, 0.5):
        found = settle(estimate, nothing, field, deviation, mask, dipole, around=around, trust=1.0, iterations=60)
        wrong[around] = float((found.chi - estimate.value)[mask].std())
        assert bool(found.outside.any()) == bool(around)
    assert wrong[0.5] < 0.5 * wrong[0.0]


def test_sources_left_outside_are_told_from_noise_and_from_a_wrong_proposal(given):
    estimate, _, _, deviation, mask, dipole = given
    estimate, deviation = estimate._replace(deviation=0.01 * estimate.deviation), 0.01 * deviation
    generator = torch.Generator().manual_seed(3)

    def drawn():
        return torch.randn(GRID.shape, generator=generator)

    noise, wrong = deviation * drawn(), neighbours(estimate.deviation * drawn() * mask) / MEAN**3
    clean = (dipole(estimate.value + wrong) + noise) * mask
    assert remainder(estimate, clean, deviation, mask, dipole, trust=1.0) == LEAST
    for strong in (0.003, 0.006):
        field = clean + dipole(torch.where(mask, 0.0, strong * drawn())) * mask
        found = remainder(estimate, field, deviation, mask, dipole, trust=1.0)
        assert 0.5 * WIDE * strong < found < 1.5 * WIDE * strong
        half = estimate._replace(value=0.5 * estimate.value, deviation=0.5 * estimate.deviation)
        assert remainder(half, 0.5 * field, 0.5 * deviation, mask, dipole, trust=1.0) == pytest.approx(0.5 * found, rel=1e-3)
    much = clean + dipole(torch.where(mask, 0.0, drawn())) * mask
    assert remainder(estimate, much, deviation, mask, dipole, trust=1.0) == AROUND


def test_nothing_is_left_outside_of_a_field_that_is_explained_or_unknown(given):
    estimate, _, _, deviation, mask, dipole = given
    field = dipole(estimate.value) * mask
    assert remainder(estimate, field, deviation, mask, dipole, trust=1.0) == LEAST
    assert remainder(estimate, field + 1, torch.full_like(field, torch.inf), mask, dipole, trust=1.0) == LEAST
    half = deviation.clone()
    half[4:] = torch.inf
    wild = torch.where(half.isinf() & mask, 50.0, field)
    assert remainder(estimate, wild, half, mask, dipole, trust=1.0) == LEAST


def test_the_surer_the_network_the_less_moves(given):
    """A voxel goes as far as its own deviation lets it, whatever its neighbours do."""
    estimate, outside, field, deviation, mask, dipole = given
    sure = estimate._replace(deviation=estimate.deviation.clone())
    sure.deviation[3] = 0
    found = settle(sure, outside, field, deviation, mask, dipole, around=0.0, trust=0.5, iterations=30)
    moved = found.chi - sure.value
    assert moved[3][mask[3]].std() < 1e-6  # all together: the mean over the mask is taken away
    assert moved[5][mask[5]].std() > 1e-4


def test_more_trust_leaves_less_of_the_field(given):
    left = [float(settle(*given, around=0.5, trust=trust, iterations=30).rest.norm()) for trust in (0.01, 0.1, 1.0)]
    assert left[0] > left[1] > left[2]


def test_a_proposal_is_surer_where_nothing_was_left_outside(given):
    """Deviations of a field that χ explains and of one with a source outside."""
    estimate, _, _, deviation, mask, dipole = given
    source = torch.zeros(GRID.shape)
    source[0, 4, 5] = 2.0
    for field, kept in ((dipole(estimate.value), SURER), (dipole(estimate.value + source), SURE)):
        held, start = problem(field * mask, estimate.value, mask, 0.01 * deviation, GRID)
        sure = propose(Same(), start, held)
        found = invert(Same(), start, held, stages=1, trust=0.3, refine=7)
        torch.testing.assert_close(found.deviation, kept * 1.5 * sure.deviation)


class Same(UNet3d):
    """A network that leaves χ as it is, and counts how often it is asked."""

    def __init__(self):
        super().__init__(6, 2, (4,))
        self.asked, self.calibration = 0, (1.5,)
        self.eval().requires_grad_(False)

    def forward(self, x):
        self.asked += 1
        return torch.stack([torch.zeros_like(x[:, 0]), torch.full_like(x[:, 0], -1.0)], 1)


@pytest.mark.parametrize("refine", [0, 7])
def test_stages_ask_the_network_and_the_field_in_turn(given, refine):
    estimate, _, field, deviation, mask, dipole = given
    held, start = problem(field, estimate.value, mask, deviation, GRID)
    net = Same()
    wrong, chi, around = torch.hypot(held.noise, torch.tensor(FLOOR)), start, None
    for last, iterations in ((False, refine // FEW), (True, refine)):
        asked = propose(net, chi, held, last=last)
        sure = asked._replace(deviation=1.5 * asked.deviation)
        around = around or remainder(sure._replace(value=start), held.field, wrong, mask, dipole, trust=0.3)
        chi = settle(sure, torch.zeros_like(chi), held.field, wrong, mask, dipole, around=around, trust=0.3, iterations=iterations).chi
    net.asked = 0
    found = invert(net, start, held, stages=2, trust=0.3, refine=refine)
    torch.testing.assert_close(found.value, chi)
    assert around == AROUND  # a field of noise is explained by nothing inside
    torch.testing.assert_close(found.deviation, (SURE if refine else 1) * sure.deviation)  # settled, it is surer
    assert net.asked == 3  # in the last stage of the mirror image too
    assert torch.allclose(found.value, start, atol=1e-6) != bool(refine)


def test_a_field_is_known_no_better_than_it_is_explained(given):
    """However small its noise is said to be."""
    estimate, outside, field, _, mask, dipole = given

    def chi(noise, around, trust):
        return settle(estimate, outside, field, noise * mask, mask, dipole, around=around, trust=trust, iterations=20).chi

    torch.testing.assert_close(chi(1e-5, 0.5, 0.5), chi(1e-8, 0.5, 0.5))
    size = spread(field - dipole(estimate.value + outside), mask)
    torch.testing.assert_close(chi(3**0.5 * size, 1.0, 2.0), chi(1e-8, 0.5, 0.5))  # all deviations doubled
