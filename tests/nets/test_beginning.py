"""What the networks begin with."""

from __future__ import annotations

import warnings

import pytest
import torch

from paradia.errors import ConvergenceWarning
from paradia.grid import Grid
from paradia.inversion.l1bayes import l1bayes
from paradia.inversion.nltv import nltv
from paradia.nets import beginning
from paradia.nets.unrolled import centred
from paradia.simulate.head import head

GRID = Grid((40, 44, 36), (2.0, 2.0, 2.4), (0.1, 0.0, 0.995))


@pytest.fixture(scope="module")
def noisy():
    truth = head(GRID)
    noise = torch.full(GRID.shape, 0.002)
    field = (truth.local_field + noise * torch.randn(GRID.shape, generator=torch.Generator().manual_seed(3))) * truth.mask
    return field, truth.mask, GRID, noise, centred(truth.chi * truth.mask, truth.mask)


def test_it_is_the_mean_of_both_and_warns_of_nothing(noisy):
    field, mask, grid, noise, truth = noisy
    told = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = beginning.begin(field, mask, grid, noise, lambda iteration, change: told.append(iteration))
        one = l1bayes(field, mask, grid, noise, max_iter=7, tol=torch.inf)
        other = nltv(field, mask, grid, noise, max_iter=24, tol=torch.inf)
    torch.testing.assert_close(found, (one + other) / 2)
    assert told[-24:] == list(range(1, 25))
    assert told[:7] == list(range(1, 8))
    assert (centred(found, mask) - truth).norm() < 0.6 * truth.norm()


def test_a_voxel_of_unknown_noise_says_nothing(noisy):
    field, mask, grid, noise, _ = noisy
    wild = field.clone()
    wild[20, 22, 18] += 3.0
    unknown = noise.clone()
    unknown[20, 22, 18] = torch.inf
    here, there = (beginning.begin(image, mask, grid, unknown) for image in (field, wild))
    torch.testing.assert_close(here, there, rtol=0, atol=1e-3 * float(here.std()))


def test_an_infinite_tolerance_does_all_iterations_and_is_content(noisy):
    field, mask, grid, noise, _ = noisy
    with pytest.warns(ConvergenceWarning):
        never = nltv(field, mask, grid, noise, max_iter=6, tol=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        content = nltv(field, mask, grid, noise, max_iter=6, tol=torch.inf)
    assert content.any()
    assert torch.equal(content, never)
