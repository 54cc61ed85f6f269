"""A proposal and the sources outside, moved by the total field: against a dense solution, and where they must not move."""

from __future__ import annotations

import math

import pytest
import torch

from paradia.grid import Grid
from paradia.nets.settled import AROUND, MEAN, neighbours, settle
from paradia.nets.unrolled import Estimate
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
    found = settle(*given, trust=0.7, iterations=600)
    inside = mask.flatten().double()
    means = torch.ones(1, 1, dtype=torch.float64)
    for n in GRID.shape:
        band = 0.5 * torch.eye(n, dtype=torch.float64)
        band += 0.25 * (torch.diag(torch.ones(n - 1, dtype=torch.float64), 1) + torch.diag(torch.ones(n - 1, dtype=torch.float64), -1))
        means = torch.kron(means, band)
    moves = torch.diag(0.7**0.5 * estimate.deviation.flatten().double() / MEAN**3) @ means @ torch.diag(inside)
    spread = moves + AROUND * torch.diag(1 - inside)
    d = dense(dipole)
    certain = torch.diag(torch.where(inside > 0, 1 / deviation.flatten().double(), 0.0))
    a = certain @ d @ spread
    both = (estimate.value + outside).flatten().double()
    right = certain @ (field.flatten().double() - d @ both)
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
    found = settle(*given, trust=0.5, iterations=0)
    torch.testing.assert_close(found.outside, outside)
    torch.testing.assert_close(found.rest, (field - dipole(estimate.value + outside)) * mask)
    torch.testing.assert_close(found.chi[mask], (estimate.value - estimate.value[mask].mean())[mask])
    assert not found.chi[~mask].any()


def test_without_trust_the_proposal_stays_and_the_sources_outside_give_way(given):
    estimate, outside, *_, mask, _ = given
    found = settle(*given, trust=0.0, iterations=30)
    torch.testing.assert_close(found.chi[mask], (estimate.value - estimate.value[mask].mean())[mask])
    assert (found.outside - outside).norm() > 0.1 * outside.norm()
    assert found.rest.norm() < settle(*given, trust=0.0, iterations=0).rest.norm()


def test_a_field_that_is_not_known_moves_nothing(given):
    estimate, outside, field, deviation, mask, dipole = given
    lost = torch.zeros_like(mask)
    lost[4, 4, 4:6] = True
    unknown = torch.where(lost, torch.inf, deviation)
    one, other = (
        settle(estimate, outside, torch.where(lost, wrong, field), unknown, mask, dipole, trust=0.5, iterations=20) for wrong in (0.0, 5.0)
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
