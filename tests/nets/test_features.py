"""What networks see does not depend on units, and nothing of what lies outside the mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from paradia.fft import Window
from paradia.grid import Grid
from paradia.nets.features import DAMPING, DEPTH, FIELD, RESIDUAL, background_channels, gain, inversion_channels, spread, squash
from paradia.operators.dipole import Dipole

GRID = Grid((24, 20, 18), (1.0, 1.2, 1.5), (0.2, -0.3, 0.93))


@pytest.fixture
def volume(generator):
    mask = torch.zeros(GRID.shape, dtype=torch.bool)
    mask[4:20, 4:15, 3:14] = True
    chi = 0.05 * torch.randn(GRID.shape, generator=generator) * mask
    chi = (chi - chi[mask].mean()) * mask
    field = (Dipole(GRID)(chi) + 0.004 * torch.randn(GRID.shape, generator=generator)) * mask
    noise = 0.004 * (1 + torch.rand(GRID.shape, generator=generator)) * mask
    return field, chi, mask, noise


def inversion(field, chi, mask, noise):
    return inversion_channels(field, chi, mask, noise, Dipole(GRID), spread(chi, mask))


def background(field, chi, mask, noise):
    total = field + 0.3 * torch.linspace(-1, 1, 24)[:, None, None] * mask
    return background_channels(total, field, chi, 0.1 * field, mask, noise, GRID, spread(chi, mask))


@pytest.mark.parametrize(("show", "count"), [(inversion, 6), (background, 7)])
def test_twice_of_everything_looks_the_same(show, count, volume):
    field, chi, mask, noise = volume
    seen = show(*volume)
    assert seen.shape == (count, *GRID.shape)
    assert 0.05 < seen[:, mask].std() < 5
    if show is inversion:
        torch.testing.assert_close(show(7 * field, 7 * chi, mask, 7 * noise), seen, rtol=1e-3, atol=1e-4)
    else:
        doubled = background_channels(*_seven(volume))
        torch.testing.assert_close(doubled, seen, rtol=1e-3, atol=1e-4)


def _seven(volume):
    field, chi, mask, noise = volume
    total = field + 0.3 * torch.linspace(-1, 1, 24)[:, None, None] * mask
    return 7 * total, 7 * field, 7 * chi, 0.7 * field, mask, 7 * noise, GRID, spread(7 * chi, mask)


@pytest.mark.parametrize("show", [inversion, background])
def test_nothing_is_seen_outside_the_mask(show, volume):
    assert show(*volume)[:, ~volume[2]].abs().max() == 0


def test_the_channels_of_the_inversion_are_what_they_say(volume):
    """Written anew with numpy."""
    field, chi, mask, noise = volume
    seen, scale = inversion(*volume).double().numpy(), float(spread(chi, mask))
    kernel = Dipole(GRID).double().kernel.numpy()
    left = (field - Dipole(GRID)(chi)).double().numpy() * mask.numpy()

    def divided(image):
        return np.fft.irfftn(np.fft.rfftn(image) * kernel / (kernel**2 + DAMPING), GRID.shape, (0, 1, 2))

    rows = [chi.numpy(), divided(field.double().numpy()), FIELD * field.numpy(), FIELD * RESIDUAL * left, RESIDUAL * divided(left)]
    for got, row in zip(seen, rows, strict=False):
        np.testing.assert_allclose(got, np.arcsinh(row / scale) * mask.numpy(), atol=2e-4)
    np.testing.assert_allclose(seen[5][mask], np.log(FIELD * noise[mask].numpy() / scale), rtol=1e-4)


def test_depth_is_the_distance_to_the_edge(volume):
    depth = background(*volume)[5] * DEPTH
    assert float(depth[4, 9, 8]) == pytest.approx(1.0)
    assert float(depth[12, 9, 8]) == pytest.approx(min(8 * 1.0, 6 * 1.2, 6 * 1.5))


def test_gain_is_the_slope_of_what_is_squashed():
    x = torch.linspace(-30, 30, 13, dtype=torch.float64, requires_grad=True)
    squash(x).sum().backward()
    torch.testing.assert_close(1 / x.grad, gain(x.detach()))


def test_spread_is_a_standard_deviation_that_outliers_do_not_move(generator):
    image = 0.3 * torch.randn((30, 30, 30), generator=generator) + 5
    mask = torch.ones(image.shape, dtype=torch.bool)
    assert float(spread(image, mask)) == pytest.approx(0.3, rel=0.03)
    image[:3] = 1000.0
    assert float(spread(image, mask)) == pytest.approx(0.3, rel=0.2)
    torch.testing.assert_close(spread(2 * Window.around(mask, Grid((30, 30, 30))).take(image), mask), 2 * spread(image, mask))
