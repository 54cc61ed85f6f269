"""From wrapped phases to the local field."""

import inspect
import math

import pytest
import scipy.ndimage
import torch

from paradia.background.harperella import harperella
from paradia.background.resharp import resharp
from paradia.errors import ConvergenceWarning, GeometryError, MaskError, MetadataError, NonFiniteError
from paradia.grid import Grid
from paradia.metrics.accuracy import correlation, nrmse, slope
from paradia.scan import Scan
from paradia.simulate.gre import gre
from paradia.simulate.head import head

GRID = Grid((46, 57, 42), (3.6, 3.4, 3.9), (0.2, -0.3, 0.93))
SCAN = Scan((0.005, 0.012, 0.021), 3.0)


def wrap(phase):
    return phase - 2 * math.pi * torch.round(phase / (2 * math.pi))


@pytest.fixture(scope="module")
def truth():
    return head(GRID, seed=1)


@pytest.fixture(scope="module")
def echoes(truth):
    """With noise, wraps and a smooth phase at echo time zero."""
    return gre(truth, SCAN, snr=100.0, dephasing=False)


@pytest.fixture(scope="module")
def gentle(truth):
    """A field, ppm, whose steps are far from half a turn at the first echo; double precision."""
    x, y, z = torch.meshgrid(*[torch.linspace(-1, 1, n, dtype=torch.float64) for n in GRID.shape], indexing="ij")
    return truth.local_field.double() + 1.5 * x * y - z + 2 * x * x * z


def phases(field, scan=SCAN, offset=0.0):
    return wrap(torch.stack([scan.rad_per_ppm(t) * field + offset for t in scan.echo_times]))


def test_is_as_good_as_unwrapping_first(truth, echoes):
    """Against the smallest local field from the true total field with the noise of a perfect fit, in the same voxels."""
    magnitude, mask = echoes.abs(), truth.mask
    local, kept = harperella(echoes.angle(), mask, GRID, SCAN, magnitude)
    assert kept.sum() > 0.55 * mask.sum()
    times = torch.tensor([SCAN.rad_per_ppm(t) for t in SCAN.echo_times])[:, None, None, None]
    left = wrap(echoes.angle() - truth.offset - times * truth.total_field)
    noise = (magnitude.square() * times * left).sum(0) / (magnitude.square() * times.square()).sum(0).clamp_min(1e-9)
    perfect = resharp(truth.total_field + noise, mask, GRID).local_field
    assert nrmse(local, truth.local_field, kept) < 1.15 * nrmse(perfect, truth.local_field, kept)
    assert correlation(local, truth.local_field, kept) > 0.8
    assert abs(slope(local, truth.local_field, kept) - 1) < 0.2


def test_equals_the_smallest_local_field_where_no_step_is_long(truth, gentle):
    """Unwrapped by nobody against the true field: they differ by what a sphere and seven points find harmonic."""
    local, kept = harperella(phases(gentle), truth.mask, GRID, SCAN)
    peeled = torch.from_numpy(scipy.ndimage.binary_erosion(truth.mask.numpy()))
    expected = resharp(gentle, peeled, GRID)
    assert torch.equal(kept, expected.mask)
    assert nrmse(local, expected.local_field, kept) < 0.3


def test_whole_turns_change_nothing(truth, gentle, generator):
    phase = phases(gentle)
    turns = torch.randint(-3, 4, phase.shape, generator=generator).double() * (2 * math.pi)
    plain, turned = (harperella(p, truth.mask, GRID, SCAN, tol=1e-9)[0] for p in (phase, phase + turns))
    torch.testing.assert_close(turned, plain, atol=1e-8, rtol=0)


def test_harmonic_fields_change_nothing(truth, gentle):
    """Cubics, harmonic for the seven points too, to rounding."""
    x, y, z = torch.meshgrid(
        *[torch.arange(n, dtype=torch.float64) * d / 100 - 1 for n, d in zip(GRID.shape, GRID.voxel_size, strict=True)], indexing="ij"
    )
    harmonic = 2 * x - y + x * z + 2 * z**2 - x**2 - y**2 + x**3 - 3 * x * y**2
    plain, moved = (harperella(phases(f), truth.mask, GRID, SCAN, tol=1e-10)[0] for f in (gentle, gentle + harmonic))
    torch.testing.assert_close(moved, plain, atol=1e-9, rtol=0)


def test_smooth_offsets_and_ramps_between_readouts_are_told_apart(truth, gentle):
    x, y, z = torch.meshgrid(*[torch.linspace(-1, 1, n, dtype=torch.float64) for n in GRID.shape], indexing="ij")
    plain, kept = harperella(phases(gentle), truth.mask, GRID, SCAN)
    offset = harperella(phases(gentle, offset=2 * x**2 + y * z + z**2), truth.mask, GRID, SCAN)[0]
    assert nrmse(offset, plain, kept) < 3
    alternating = phases(gentle) + torch.tensor([1.0, -1.0, 1.0])[:, None, None, None] * x
    assert nrmse(harperella(wrap(alternating), truth.mask, GRID, SCAN)[0], plain, kept) < 0.1
    single = Scan((0.012,), 3.0)
    spoilt = harperella(phases(gentle, single, 2 * x**2 + y * z + z**2), truth.mask, GRID, single)[0]
    assert nrmse(spoilt, plain, kept) > 3  # one echo cannot tell an offset


def test_later_echoes_lower_the_noise(truth, echoes):
    mask = truth.mask
    one = Scan(SCAN.echo_times[:1], SCAN.b0)
    first, kept = harperella(echoes[:1].angle(), mask, GRID, one, echoes[:1].abs())
    every = harperella(echoes.angle(), mask, GRID, SCAN, echoes.abs())[0]
    assert nrmse(every, truth.local_field, kept) < 0.8 * nrmse(first, truth.local_field, kept)


def test_magnitude_is_put_to_use(truth, echoes, generator):
    """Echoes that are nothing but noise in one half of the head are not listened to."""
    mask = truth.mask
    signal = echoes.clone()
    signal[1:, 23:] = torch.polar(
        torch.full((2, 23, 57, 42), 1e-4), 6.28 * torch.rand((2, 23, 57, 42), generator=generator)
    )  # (echo, x, y, z)
    told, kept = harperella(signal.angle(), mask, GRID, SCAN, signal.abs())
    plain = harperella(signal.angle(), mask, GRID, SCAN)[0]
    assert nrmse(told, truth.local_field, kept) < 0.5 * nrmse(plain, truth.local_field, kept)


def test_a_magnitude_that_is_no_number_outside_the_mask_does_not_matter(truth, gentle):
    phase = phases(gentle)
    magnitude = torch.ones_like(phase)
    expected = harperella(phase, truth.mask, GRID, SCAN, magnitude)[0]
    magnitude[:, ~truth.mask] = torch.nan
    torch.testing.assert_close(harperella(phase, truth.mask, GRID, SCAN, magnitude)[0], expected)


def test_keeps_shape_precision_mask_and_sign(truth, echoes):
    phase = echoes.angle()
    before = phase.clone()
    local, kept = harperella(phase, truth.mask, GRID, SCAN, echoes.abs())
    assert local.shape == GRID.shape
    assert local.dtype == torch.float32
    assert not (kept & ~truth.mask).any()
    assert local[~kept].abs().max() == 0
    assert torch.equal(phase, before)
    torch.testing.assert_close(harperella(-phase, truth.mask, GRID, SCAN, echoes.abs())[0], -local)
    assert harperella(torch.zeros_like(phase), truth.mask, GRID, SCAN)[0].abs().max() == 0
    assert harperella(phase.double(), truth.mask, GRID, SCAN).local_field.dtype == torch.float64
    spoilt = torch.where(truth.mask, phase, math.nan)
    torch.testing.assert_close(harperella(spoilt, truth.mask, GRID, SCAN, echoes.abs())[0], local)


@pytest.mark.parametrize("axes", [(1, 2, 0), (0, 2, 1)])
def test_turns_with_the_axes(truth, gentle, axes):
    phase = phases(gentle)
    straight = harperella(phase, truth.mask, GRID, SCAN, tol=1e-7)
    turned = harperella(
        phase.permute(0, *(a + 1 for a in axes)).contiguous(), truth.mask.permute(axes).contiguous(), GRID.permute(axes), SCAN, tol=1e-7
    )
    assert torch.equal(turned.mask, straight.mask.permute(axes))
    torch.testing.assert_close(turned.local_field, straight.local_field.permute(axes), rtol=0, atol=1e-8)


def test_what_does_not_fit_is_refused(truth, echoes):
    phase, magnitude = echoes.angle(), echoes.abs()
    with pytest.raises(MetadataError, match="there are 2 echoes and 3 echo times"):
        harperella(phase[:2], truth.mask, GRID, SCAN)
    with pytest.raises(GeometryError, match=r"phase \(3, 46, 57, 42\) and magnitude \(2, 46, 57, 42\) differ"):
        inspect.unwrap(harperella)(phase, truth.mask, GRID, SCAN, magnitude[:2])  # as without the tests' own check of shapes
    with pytest.raises(GeometryError, match=r"mask has shape \(45, 57, 42\), but the grid"):
        harperella(phase[:, 1:], truth.mask[1:], GRID, SCAN)
    with pytest.raises(NonFiniteError, match="NaN or Inf inside the mask"):
        harperella(torch.where(truth.mask, math.nan, phase), truth.mask, GRID, SCAN)
    with pytest.raises(MaskError, match="the mask is empty"):
        harperella(phase, torch.zeros_like(truth.mask), GRID, SCAN)
    thin = torch.zeros_like(truth.mask)
    thin[20] = True
    with pytest.raises(MaskError, match="no voxel has all its neighbours"):
        harperella(phase, thin, GRID, SCAN)
    with pytest.raises(MaskError, match="no sphere of radius 90 mm fits"):
        harperella(phase, truth.mask, GRID, SCAN, radius=90.0)


def test_progress_and_limits_are_told(truth, echoes):
    told = []
    with pytest.warns(ConvergenceWarning, match="harperella stopped after 2 iterations"):
        harperella(echoes.angle(), truth.mask, GRID, SCAN, max_iter=2, callback=lambda i, _: told.append(i))
    assert told == [1, 2]
