"""Wavelets: an orthogonal change of axes; and what a separation in them does."""

from __future__ import annotations

import pytest
import torch

from paradia.grid import Grid
from paradia.scan import Scan
from paradia.separation._wavelet import LOW, Wavelets
from paradia.separation.closed_form import closed_form
from paradia.separation.wavesep import wavesep
from paradia.sources.doubt import grain

SHAPE = (32, 16, 48)


@pytest.fixture(params=[1, 3])
def wavelets(request):
    return Wavelets(SHAPE, request.param).to(torch.float64)


def test_the_filter_has_unit_length_and_four_vanishing_moments():
    low = torch.tensor(LOW, dtype=torch.float64)
    assert float(low.sum()) == pytest.approx(2**0.5, abs=1e-10)
    for shift in range(4):
        assert float((low[: 8 - 2 * shift] * low[2 * shift :]).sum()) == pytest.approx(float(shift == 0), abs=1e-10)
    high = low.flip(0) * torch.tensor([1.0, -1.0]).repeat(4)
    for power in range(4):
        assert float((high * torch.arange(8.0, dtype=torch.float64) ** power).sum()) == pytest.approx(0, abs=1e-8)


def test_the_adjoint_is_the_inverse(wavelets, generator):
    x, y = torch.randn(2, 3, *SHAPE, generator=generator, dtype=torch.float64)
    torch.testing.assert_close((wavelets(x) * y).sum(), (x * wavelets.adjoint(y)).sum())
    torch.testing.assert_close(wavelets.adjoint(wavelets(x)), x, rtol=0, atol=1e-10)
    torch.testing.assert_close(wavelets(x).norm(), x.norm())


def test_turns_with_the_axes_and_passes_batches(wavelets, generator):
    x = torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64)
    turned = Wavelets((48, 32, 16), wavelets.levels).to(torch.float64)
    torch.testing.assert_close(turned(x.permute(0, 3, 1, 2)), wavelets(x).permute(0, 3, 1, 2))
    torch.testing.assert_close(wavelets(x)[1], wavelets(x[1]))


def test_details_of_a_cubic_vanish_away_from_the_ends(wavelets):
    """The details of one level along the last axis know no polynomial of third degree."""
    line = torch.linspace(-1, 1, SHAPE[2], dtype=torch.float64)
    x = (2 * line**3 - line**2 + line).expand(SHAPE)
    details = wavelets(x)[0, 0, SHAPE[2] // 2 :]
    assert float(details[:-4].abs().max()) < 1e-8
    assert float(details[-4:].abs().max()) > 1e-2


def separated(generator, sigma=0.006, **knobs):
    """Smooth sources with noise in both equations."""
    grid = Grid((40, 33, 36), (1.0, 1.2, 1.1), (0.2, -0.3, 0.93))
    axes = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in grid.shape], indexing="ij")
    mask = sum(a.square() for a in axes) < 0.9
    pos = (0.08 * torch.exp(-((axes[0] - 0.2).square() + axes[1].square() + axes[2].square()) / 0.1) + 0.01) * mask
    neg = (0.03 + 0.02 * torch.sin(3 * axes[1])) * mask
    noise = sigma * torch.randn(2, *grid.shape, generator=generator)
    chi, rate = pos - neg + noise[0], 137 * (pos + neg + noise[1]).clamp_min(0)
    scan = Scan((0.005,), 3.0)
    return pos, neg, mask, closed_form(chi, rate, mask, grid, scan), wavesep(chi, rate, mask, grid, scan, **knobs)


def error(source, truth, mask):
    return float((source - truth)[mask].norm() / truth[mask].norm())


def test_takes_noise_out_and_leaves_the_sources(generator):
    pos, neg, mask, plain, found = separated(generator)
    assert error(found.chi_pos, pos, mask) < 0.75 * error(plain.chi_pos, pos, mask)
    assert error(found.chi_neg, neg, mask) < 0.75 * error(plain.chi_neg, neg, mask)


def test_without_weight_is_the_closed_form(generator):
    _, _, _, plain, found = separated(generator, weight=0.0)
    for a, b in zip(found, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_is_the_least_of_its_functional(generator):
    """No step towards other sources, nor into random directions, makes it less."""
    grid = Grid((12, 11, 13), (1.0, 1.2, 1.1))
    mask = torch.rand(grid.shape, generator=generator) < 0.9
    chi, total = 0.05 * torch.randn(2, *grid.shape, generator=generator)
    total = total.abs() * mask
    chi = chi * mask
    scan = Scan((0.005,), 3.0)
    drs = {"dr_pos": 160.0, "dr_neg": 114.0}
    found = wavesep(chi, total * 137, mask, grid, scan, weight=0.5, max_iter=300, tol=3e-5, **drs)
    box = mask.nonzero()
    low, high = box.amin(0), box.amax(0) + 1
    cut = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    shape = [-(-(n + 8) // 16) * 16 for n in mask[cut].shape]
    wavelets = Wavelets(shape, 4).to(torch.float64)

    def padded(x):
        whole = torch.zeros(shape, dtype=torch.float64)
        whole[tuple(slice(n) for n in x[cut].shape)] = x[cut]
        return whole

    inside = padded(mask.double()) > 0
    threshold = 0.5 * float((grain(padded(chi).float(), inside) ** 2 + grain(padded(total).float(), inside) ** 2) ** 0.5)

    def functional(p, n):
        data = 0.5 * (p - n - chi)[mask].square().sum() + 0.5 * (160 / 137 * p + 114 / 137 * n - total)[mask].square().sum()
        sparse = 0.0
        for source in (p, n):
            details = wavelets(padded(source)).abs()
            details[tuple(slice(n >> 4) for n in shape)] = 0
            sparse = sparse + details.sum()
        return float(data + threshold * sparse)

    p, n = (source.double() for source in found)
    chi, total = chi.double(), total.double()
    least = functional(p, n)
    plain = closed_form(chi.float(), total.float() * 137, mask, grid, scan, **drs)
    assert least < functional(*(source.double() for source in plain))
    for step in (1e-3, 1e-2, 0.1):
        for towards in ((plain.chi_pos, plain.chi_neg), (0 * p, 0 * n), (0.05 * mask, 0 * n), (0 * p, 0.05 * mask)):
            assert functional(*((1 - step) * a + step * b for a, b in zip((p, n), towards, strict=True))) > least - 1e-6
        for _ in range(3):
            moved = [(a + step * 0.02 * torch.randn(a.shape, generator=generator)).clamp_min(0) * mask for a in (p, n)]
            assert functional(*moved) > least - 1e-6


def test_orientations_are_averaged(generator):
    grid = Grid((20, 19, 21), (1.0, 1.2, 1.1))
    mask = torch.ones(grid.shape, dtype=torch.bool)
    chi, rate = 0.05 * torch.randn(grid.shape, generator=generator), 8 * torch.rand(3, *grid.shape, generator=generator)
    scan = Scan((0.005,), 3.0)
    several = wavesep(chi, rate, mask, grid, scan)
    for a, b in zip(several, wavesep(chi, rate.mean(0), mask, grid, scan), strict=True):
        torch.testing.assert_close(a, b)
    assert several.chi_pos.shape == grid.shape
