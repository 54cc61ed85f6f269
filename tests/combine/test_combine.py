"""Coils combined: as good as true sensitivities would be, one phase through the whole head, noise made white."""

from __future__ import annotations

import math
import sys

import nibabel
import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion

from paradia.combine import _whitening
from paradia.combine._lattice import _splines, combined, gauss, lattice, pool
from paradia.combine._whitening import mix, whitener
from paradia.combine.adaptive import adaptive
from paradia.combine.mcpc3ds import mcpc3ds
from paradia.combine.rss import rss
from paradia.errors import GeometryError, InputError, MetadataError, NonFiniteError, ParadiaWarning
from paradia.fieldmap.linear import linear
from paradia.grid import Grid
from paradia.registry import load, methods
from paradia.scan import Scan
from paradia.unwrap.romeo import romeo

scanned = sys.modules[next(name for name in sys.modules if name.endswith("combine.conftest") or name == "conftest")].scanned
every = pytest.mark.parametrize("name", methods("combine"))
virtual = pytest.mark.parametrize("name", ["mcpc3ds", "adaptive"])


def wrap(phase):
    return phase - 2 * math.pi * (phase / (2 * math.pi)).round()


def call(name, images, grid, scan, noise=None, **knobs):
    board = {"coil_images": images, "grid": grid, "scan": scan, "coil_noise": noise}
    method = load("combine", name)
    return method.function(**{key: board[key] for key in method.takes}, **knobs)


def inner(mask, by=2):
    thin = mask.shape[2] < 3  # a slab of two slices has an inside in its plane
    around = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)[..., None] if thin else None
    return torch.from_numpy(binary_erosion(mask.numpy(), around, iterations=by))


def optimum(head):
    """Standard deviation of the phase of each echo if the sensitivities and the noise were known exactly."""
    information = torch.einsum("cxyz,cd,dxyz->xyz", head.maps.conj(), torch.linalg.inv(head.covariance), head.maps).real
    return (2 * information * head.clean.abs().square()).clamp_min(1e-12).rsqrt()


def phase_difference_noise(result, head):
    """Error of the phase between the first two echoes over the least there can be, root mean square."""
    error = wrap((result.phase - head.clean.angle()).diff(dim=0)[0])
    return float((error / optimum(head)[:2].square().sum(0).sqrt())[head.mask].square().mean().sqrt())


@every
def test_keeps_shape_and_is_finite(name, head):
    result = call(name, head.images, head.grid, head.scan)
    for part in result:
        assert part.shape == head.clean.shape
        assert part.dtype == torch.float32
        assert bool(torch.isfinite(part).all())
    assert bool((result.magnitude >= 0).all())
    assert bool((result.phase.abs() <= math.pi + 1e-6).all())


@every
def test_conjugate_images_give_the_opposite_phase(name, head):
    forth, back = (call(name, images, head.grid, head.scan) for images in (head.images, head.images.conj().resolve_conj()))
    torch.testing.assert_close(forth.magnitude, back.magnitude, atol=1e-2, rtol=1e-3)
    assert float(wrap(forth.phase + back.phase)[:, head.mask].abs().max()) < 5e-3


@every
def test_does_not_care_for_the_order_of_axes(name, head):
    order = (2, 0, 1)
    plain = call(name, head.images, head.grid, head.scan, head.covariance)
    moved = head.images.permute(0, 1, *(a + 2 for a in order)).contiguous()
    turned = call(name, moved, head.grid.permute(order), head.scan, head.covariance)
    back = torch.polar(*turned) * torch.polar(*plain).permute(0, *(a + 1 for a in order)).conj()
    assert float(back.angle()[:, head.mask.permute(order)].abs().quantile(0.999)) < 0.02


@every
def test_does_not_care_for_the_order_of_coils(name, head):
    order = torch.randperm(head.images.shape[1], generator=torch.Generator().manual_seed(1))
    one = call(name, head.images, head.grid, head.scan, prewhiten=False)
    other = call(name, head.images[:, order], head.grid, head.scan, prewhiten=False)
    torch.testing.assert_close(one.magnitude, other.magnitude, atol=1e-4, rtol=1e-3)
    assert float(wrap(one.phase - other.phase)[:, head.mask].abs().max()) < 5e-3


@every
def test_is_the_same_bit_for_bit(name, head):
    first, again = (call(name, head.images, head.grid, head.scan) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@every
@pytest.mark.parametrize("known", [True, False])
def test_noise_is_that_of_known_sensitivities_when_it_is_whitened(name, known, head):
    result = call(name, head.images, head.grid, head.scan, head.covariance if known else None)
    assert phase_difference_noise(result, head) < 1.03
    assert phase_difference_noise(call(name, head.images, head.grid, head.scan, prewhiten=False), head) > 1.1


@virtual
def test_magnitude_is_signal_to_noise_where_whitened(name, head):
    result = call(name, head.images, head.grid, head.scan, head.covariance)
    expected = 1 / optimum(head)
    inside = inner(head.mask)
    assert float((result.magnitude / expected)[:, inside].median()) == pytest.approx(1, abs=0.01)
    air = result.magnitude[:, ~head.mask & (head.maps.abs().square().sum(0) < 10)]
    assert float(air.square().mean()) == pytest.approx(2, rel=0.25)  # of one virtual coil; of twelve it would be 24


def test_rss_is_the_root_of_the_sum_of_squares_by_hand(head):
    result = rss(head.images, prewhiten=False)
    by_hand = np.sqrt((np.abs(head.images.numpy()) ** 2).sum(1))
    np.testing.assert_allclose(result.magnitude.numpy(), by_hand, rtol=1e-5)
    products = sum(head.images[0, c].conj() * head.images[1, c] for c in range(head.images.shape[1]))
    torch.testing.assert_close(result.phase[1], products.angle(), atol=1e-4, rtol=1e-4)
    assert not result.phase[0].any()


def test_mcpc3ds_leaves_no_offset(head):
    """Against the true phase, which is zero at echo time zero; noise and smoothing leave a few hundredths."""
    error = wrap(mcpc3ds(head.images, head.grid, head.scan).phase - head.clean.angle())
    inside = inner(head.mask)
    assert float(error[:, inside].abs().median()) < 0.035
    assert float(error[:, inside].square().mean().sqrt()) < 0.08


def test_mcpc3ds_takes_the_offset_from_a_single_coil(head):
    x, y, z = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in head.grid.shape], indexing="ij")
    coil = torch.polar(torch.ones_like(x), 2 * x - 1.5 * y * z + 0.8)
    result = mcpc3ds((head.clean * coil)[:, None], head.grid, head.scan, prewhiten=False)
    error = wrap(result.phase - head.clean.angle())[:, inner(head.mask, 3)]
    assert float(error.abs().median()) < 0.02


def test_mcpc3ds_of_a_bipolar_readout_takes_the_odd_echoes():
    head = scanned(bipolar=0.8)
    bipolar, straight = (mcpc3ds(head.images, head.grid, head.scan, bipolar=kind) for kind in (True, False))
    inside = inner(head.mask)
    errors = [wrap(result.phase[0] - head.clean[0].angle())[inside].square().mean().sqrt() for result in (bipolar, straight)]
    assert float(errors[0]) < 0.08
    assert float(errors[1]) > 0.12


def steps(phase, mask):
    """Largest step of a phase between neighbours, and how many squares of neighbours it winds around."""
    largest, windings = 0.0, 0
    for a, b in ((0, 1), (0, 2), (1, 2)):
        p, m = phase.movedim((a, b), (0, 1)), mask.movedim((a, b), (0, 1))
        whole = m[1:, 1:] & m[:-1, 1:] & m[1:, :-1] & m[:-1, :-1]
        right, up = wrap(p.diff(dim=0)), wrap(p.diff(dim=1))
        round_trip = right[:, :-1] + up[1:] - right[:, 1:] - up[:-1]
        windings += int((round_trip.abs() > 1)[whole].sum())
        largest = max(largest, float(right[:, :-1][whole].abs().max()))
    return largest, windings


@virtual
@pytest.mark.parametrize("delay", [0.0, 20.0])
def test_the_phase_has_neither_seams_nor_poles(name, delay):
    head = scanned(coils=16, snr=math.inf, delay=delay)
    phase = call(name, head.images, head.grid, head.scan, prewhiten=False).phase
    largest, windings = steps(wrap(phase[0] - head.clean[0].angle()), inner(head.mask, 1))
    assert largest < 0.7
    assert windings == 0


@pytest.mark.parametrize(("coils", "delay"), [(8, 45.0), (12, 70.0), (6, 70.0)])
def test_adaptive_tries_again_where_a_pole_is_left(coils, delay):
    """Phases that turn as fast as at 7 T: wide averages cancel in some arrays and are needed in others."""
    head = scanned(coils=coils, snr=math.inf, delay=delay)
    phase = adaptive(head.images[:1], head.grid, prewhiten=False).phase
    largest, windings = steps(wrap(phase[0] - head.clean[0].angle()), inner(head.mask, 1))
    assert largest < 0.9
    assert windings == 0


def test_a_fixed_sum_of_coils_would_have_poles():
    """What the test above would say of a reference that is no good."""
    head = scanned(coils=16, snr=math.inf, delay=20.0)
    inside = inner(head.mask, 1)
    assert max(steps((one + other).angle(), inside)[1] for one in head.maps[:4] for other in head.maps[8:]) > 0


def test_adaptive_of_one_echo_is_that_of_many(head):
    many, one = adaptive(head.images, head.grid), adaptive(head.images[:1], head.grid)
    torch.testing.assert_close(many.phase[:1], one.phase)


def test_adaptive_direction_is_the_eigenvector_of_numpy(head):
    """One block that fills a small volume, its covariance by NumPy."""
    images = head.images[:1, :, 20:24, 20:24, 16:20].contiguous()
    grid = Grid((4, 4, 4))
    result = adaptive(images, grid, prewhiten=False, smoothing=8.0)
    flat = images[0].flatten(1).numpy()
    _, vectors = np.linalg.eigh(flat @ flat.conj().T)
    expected = np.abs(vectors[:, -1].conj() @ flat).reshape(4, 4, 4)
    np.testing.assert_allclose(result.magnitude[0].numpy(), expected, rtol=2e-3)


@pytest.mark.parametrize("name", ["mcpc3ds", "adaptive"])
def test_the_field_of_the_combined_echoes_is_true(name, head):
    result = call(name, head.images, head.grid, head.scan)
    unwrapped = romeo(result.phase, result.magnitude, head.mask, head.scan)
    fit = linear(unwrapped, result.magnitude, head.mask, head.grid, head.scan)
    error = (fit.total_field - head.field)[inner(head.mask)]
    assert float((error - error.median()).abs().median()) < 0.004
    assert float((error - error.median()).square().mean().sqrt()) < 0.02


def test_whitening_makes_the_noise_white(head):
    matrix = whitener(head.images, head.covariance, True)
    generator = torch.Generator().manual_seed(4)
    root = torch.linalg.cholesky(head.covariance)
    noise = root @ (torch.complex(*torch.randn(2, len(root), 40_000, generator=generator)) / math.sqrt(2))
    white = mix(matrix, noise)
    torch.testing.assert_close(white @ white.mH / 40_000, 2 * torch.eye(len(root)) + 0j, atol=0.06, rtol=0)


def test_the_noise_is_told_from_the_air(head):
    found = _whitening._from_air(head.images[0])
    scale = head.covariance.diagonal().real.sqrt()
    assert float(((found - head.covariance) / torch.outer(scale, scale)).abs().max()) < 0.08


@pytest.mark.parametrize("coils", [1, 5])
@pytest.mark.parametrize("shape", [(33, 30, 29), (41, 37, 33), (36, 32, 28)])
def test_the_noise_is_told_whatever_the_size(shape, coils, generator):
    """Blocks at the end that are partly beyond the volume are no darker than others."""
    x, y, z = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in shape], indexing="ij")
    deviation = torch.linspace(0.5, 2, coils)[:, None, None, None]
    noise = deviation * torch.complex(*torch.randn(2, coils, *shape, generator=generator))
    found = _whitening._from_air(40 * (x.square() + y.square() + z.square() < 0.6) + noise)
    ratio = (found.diagonal().real / 2).sqrt() / deviation.flatten()
    torch.testing.assert_close(ratio, torch.ones(coils), rtol=0, atol=0.03)


def test_without_air_nothing_is_whitened_and_it_is_said(head):
    box = head.images[:, :, 9:25, 11:28, 8:20].contiguous()
    with pytest.warns(ParadiaWarning, match="no air"):
        assert whitener(box, None, True) is None
    assert whitener(box, None, False) is None


def test_a_covariance_that_is_none_is_refused(head):
    coils = head.images.shape[1]
    with pytest.raises(InputError, match="of 3 coils"):
        whitener(head.images, torch.eye(3) + 0j, True)
    with pytest.raises(InputError, match="not Hermitian"):
        whitener(head.images, torch.triu(torch.ones(coils, coils)) + 0j, True)
    with pytest.raises(InputError, match="not positive definite"):
        whitener(head.images, torch.zeros(coils, coils) + 0j, True)


def test_data_that_do_not_fit_are_refused(head):
    with pytest.raises(GeometryError, match="grid"):
        adaptive(head.images, Grid((3, 4, 5)))
    with pytest.raises(MetadataError, match="2 echo times"):
        mcpc3ds(head.images, head.grid, Scan((0.004, 0.008)))
    with pytest.raises(MetadataError, match="needs 2 echoes.*there is one.*adaptive"):
        mcpc3ds(head.images[:1], head.grid, Scan((0.004,)))
    with pytest.raises(MetadataError, match="needs 3 echoes of a bipolar readout"):
        mcpc3ds(head.images[:2], head.grid, Scan((0.004, 0.008)), bipolar=True)
    with pytest.raises(MetadataError, match="single echo"):
        rss(head.images[:1])
    with pytest.raises(InputError, match="zero everywhere"):
        rss(head.images * 0)
    broken = head.images.clone()
    broken[1, 2, 3, 4, 5] = torch.nan
    with pytest.raises(NonFiniteError, match="at 1 places"):
        adaptive(broken, head.grid)


def test_splines_are_a_partition_and_keep_lines():
    weights = _splines(23, 4, 6)
    torch.testing.assert_close(weights.sum(1), torch.ones(23, dtype=torch.float64))
    line = weights @ ((torch.arange(6, dtype=torch.float64) + 0.5) * 4 - 0.5)
    torch.testing.assert_close(line[8:14], torch.arange(8.0, 14.0, dtype=torch.float64))


def test_gauss_is_that_of_scipy(generator):
    from scipy.ndimage import gaussian_filter

    image = torch.randn(3, 20, 17, 19, generator=generator)
    expected = np.stack([gaussian_filter(part.numpy(), (1.5, 2.0, 1.1), mode="constant", truncate=8) for part in image])
    np.testing.assert_allclose(gauss(image, (1.5, 2.0, 1.1)).numpy(), expected, atol=2e-4)


def test_slabs_make_no_difference(head, monkeypatch):
    block, _ = lattice(head.grid, 12.0)
    maps = pool(head.maps, block)
    whole = combined(head.images, maps, block, None)
    monkeypatch.setattr("paradia.combine._lattice.SLAB", 1)
    for a, b in zip(whole, combined(head.images, maps, block, None), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def phantom(shared_data):
    magnitude, phase = (
        np.asarray(nibabel.load(shared_data / "phantom-32ch" / f"{name}.nii.gz").dataobj, np.float32) for name in ("magnitude", "phase")
    )
    images = torch.polar(torch.from_numpy(magnitude), torch.from_numpy(phase) * (math.pi / 4096)).permute(3, 4, 0, 1, 2).contiguous()
    strength = images[0].abs().square().sum(0).sqrt()
    return images, Grid((80, 80, 2), (3.75, 3.75, 6.0)), inner(strength > 0.25 * strength.max(), 1)


@virtual
def test_phantom_of_32_coils_keeps_signal_and_has_no_pole(name, phantom):
    images, grid, sphere = phantom
    result = call(name, images, grid, Scan((0.004, 0.008)), prewhiten=False)
    kept = result.magnitude / images.abs().square().sum(1).sqrt()
    assert float(kept[:, sphere].quantile(0.01)) > 0.97  # nothing cancels
    offset = wrap(2 * result.phase[0] - result.phase[1])
    disc = inner(sphere, 2)[..., :1]
    right, up = wrap(offset[..., :1].diff(dim=0)), wrap(offset[..., :1].diff(dim=1))
    trip = right[:, :-1] + up[1:] - right[:, 1:] - up[:-1]
    assert int((trip.abs() > 1)[disc[1:, 1:]].sum()) == 0
    if name == "mcpc3ds":
        assert float(offset[..., :1][disc].abs().median()) < 0.05


def test_phantom_whose_noise_was_rounded_away_is_not_whitened(phantom):
    images, _, _ = phantom
    with pytest.warns(ParadiaWarning, match="no air"):
        assert whitener(images, None, True) is None


def test_measured_sensitivities_of_a_head_coil_have_no_pole(shared_data):
    maps = torch.from_numpy(np.load(shared_data / "coil-maps-16ch" / "sensitivity.npy")).to(torch.complex64).squeeze()
    images = maps[None, ..., None].contiguous()
    result = adaptive(images, Grid(tuple(images.shape[2:]), (1.0, 1.0, 3.0)), prewhiten=False)
    p, m = result.phase[0, ..., 0], inner((maps.abs().square().sum(0) > 0.5)[..., None], 4)[..., 0]
    whole = m[1:, 1:] & m[:-1, 1:] & m[1:, :-1] & m[:-1, :-1]
    right, up = wrap(p.diff(dim=0)), wrap(p.diff(dim=1))
    assert int(((right[:, :-1] + up[1:] - right[:, 1:] - up[:-1]).abs() > 1)[whole].sum()) == 0


@virtual
@pytest.mark.parametrize("smoothing", [0.0, -4.0, math.nan, math.inf])
def test_a_smoothing_that_is_no_length_is_refused(name, smoothing, head):
    with pytest.raises(InputError, match="smoothing must be a positive number"):
        call(name, head.images, head.grid, head.scan, smoothing=smoothing)


@virtual
@pytest.mark.parametrize("unit", [1e-8, 1e5])
def test_coil_images_may_be_in_any_unit(name, unit, head):
    """Not whitened, as where no air is seen, so that the unit stays: scanners write up to thousands, raw data next to nothing."""
    one, other = (call(name, scale * head.images, head.grid, head.scan, prewhiten=False) for scale in (1.0, unit))
    torch.testing.assert_close(other.magnitude / unit, one.magnitude, rtol=1e-3, atol=1e-4)
    assert wrap(other.phase - one.phase)[:, head.mask].abs().max() < 1e-3


def test_mcpc3ds_says_which_echo_is_empty(head):
    images = head.images.clone()
    images[1] = 0
    with pytest.raises(InputError, match="echoes 1 and 2 have signal at no place in common"):
        mcpc3ds(images, head.grid, head.scan, prewhiten=False)
