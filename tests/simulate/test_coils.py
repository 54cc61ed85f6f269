"""Loops against quadrature and closed forms, noise against what was asked for, k-space against its definition."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from paradia.errors import GeometryError, InputError
from paradia.fft import from_kspace, to_kspace
from paradia.grid import Grid
from paradia.simulate import coil_samples, coils
from paradia.simulate._loops import WIRE, Loops, helmet, inductance, magnetic, potential, receive

GRID = Grid((38, 45, 31), (4.1, 4.4, 5.2), (0.2, -0.3, 0.93))


def tilted(radius=60.0):
    """One loop whose axis points nowhere in particular."""
    frame = Rotation.from_rotvec([0.4, -0.9, 0.3]).as_matrix()
    return Loops(np.array([[20.0, -35.0, 50.0]]), frame[None], radius)


def wire_of(loops, index, segments):
    """Middles and lengths of the pieces of a loop."""
    turn = (np.arange(segments) + 0.5) * 2 * np.pi / segments
    first, second = loops.frames[index][:2]
    place = loops.centres[index] + loops.radius * (np.cos(turn)[:, None] * first + np.sin(turn)[:, None] * second)
    piece = 2 * np.pi * loops.radius / segments * (np.cos(turn)[:, None] * second - np.sin(turn)[:, None] * first)
    return place, piece


def summed(points, loops, index, segments=4000, wire=WIRE):
    """Biot and Savart, piece by piece."""
    place, piece = wire_of(loops, index, segments)
    away = points[:, None] - place
    cubed = ((away**2).sum(-1) + wire**2) ** 1.5
    return (np.cross(piece, away) / cubed[..., None]).sum(1) / (4 * np.pi)


def test_a_loop_has_the_field_of_its_pieces():
    points = np.random.default_rng(1).uniform(-90, 90, (60, 3))
    loops = tilted()
    points[0] = loops.centres[0]
    points[1] = loops.centres[0] + 1e-7 * loops.frames[0, 0] + 9 * loops.frames[0, 2]
    points[2] = loops.centres[0] + 2e-3 * loops.radius * loops.frames[0, 0] + 9 * loops.frames[0, 2]
    points[3] = loops.centres[0] + loops.radius * loops.frames[0, 1]
    np.testing.assert_allclose(magnetic(points, loops)[0], summed(points, loops, 0), rtol=2e-6, atol=1e-9)


@pytest.mark.parametrize("height", [0.0, 13.0, -70.0])
def test_on_the_axis_the_field_is_the_textbook_s(height):
    loops = tilted(45.0)
    field = magnetic(loops.centres + height * loops.frames[0, 2], loops, wire=0.0)[0, 0]
    np.testing.assert_allclose(field, 45.0**2 / (2 * (45.0**2 + height**2) ** 1.5) * loops.frames[0, 2], atol=1e-15)


def test_the_field_is_the_curl_of_the_potential():
    points, loops, step = np.random.default_rng(2).uniform(-80, 80, (30, 3)), tilted(), 1e-3
    slope = np.stack([(potential(points + d, loops)[0] - potential(points - d, loops)[0]) / (2 * step) for d in step * np.eye(3)])
    curl = np.stack([slope[(i + 1) % 3, :, (i + 2) % 3] - slope[(i + 2) % 3, :, (i + 1) % 3] for i in range(3)], 1)
    np.testing.assert_allclose(curl, magnetic(points, loops)[0], rtol=1e-5, atol=1e-9)


def test_inductances_are_neumann_s_double_integral():
    loops = helmet(6, (108.0, 130.0, 122.0), 3)
    found = inductance(loops)
    (one, first), (other, second) = wire_of(loops, 1, 600), wire_of(loops, 4, 600)
    away = np.sqrt(((one[:, None] - other) ** 2).sum(-1) + WIRE**2)
    assert math.isclose(found[1, 4], (first @ second.T / away).sum() / (4 * np.pi), rel_tol=1e-5)
    assert math.isclose(found[2, 2], loops.radius * (math.log(8 * loops.radius / WIRE) - 2), rel_tol=0.01)


@pytest.mark.parametrize("n", [8, 16, 32])
def test_loops_lie_on_the_helmet_and_overlap_their_neighbours(n):
    axes = np.array([108.0, 130.0, 122.0])
    loops = helmet(n, tuple(axes), 5)
    np.testing.assert_allclose(((loops.centres / axes) ** 2).sum(1), 1)
    np.testing.assert_allclose(np.linalg.det(loops.frames), 1)
    assert ((loops.centres * loops.frames[:, 2]).sum(1) > 0).all()
    apart = np.linalg.norm(loops.centres[:, None] - loops.centres, axis=-1) + 1e9 * np.eye(n)
    nearest = apart.min(1) / loops.radius
    assert 1.1 < np.median(nearest) < 1.8
    assert loops.centres[:, 2].min() > -0.75 * axes[2]


def test_sensitivities_are_what_reciprocity_says():
    maps = coils.sensitivities(GRID, 12, seed=4, centre=(3.0, -5.0, 8.0))
    assert maps.dtype == torch.complex64
    loops = helmet(12, coils.HELMET, 4)
    b0 = np.array(GRID.b0_dir)
    axis = np.cross(b0, [0, 0, 1])
    turn = Rotation.from_rotvec(axis / np.linalg.norm(axis) * np.arccos(b0[2])).as_matrix()
    np.testing.assert_allclose(turn @ b0, [0, 0, 1], atol=1e-12)
    voxels = np.random.default_rng(0).integers(0, GRID.shape, (40, 3))
    places = (voxels - (np.array(GRID.shape) - 1) / 2) * GRID.voxel_size - [3.0, -5.0, 8.0]
    inside = ((places @ turn.T / (0.9 * np.array(coils.HELMET))) ** 2).sum(1) < 1
    voxels, places = voxels[inside], places[inside]
    assert len(places) > 15
    fields = np.stack([summed(places @ turn.T, loops, n) for n in range(12)])
    wanted = fields[..., 0] - 1j * fields[..., 1]
    found = maps[:, voxels[:, 0], voxels[:, 1], voxels[:, 2]].numpy()
    middle = sum(np.abs(np.array([1, -1j]) @ summed(np.zeros((1, 3)), loops, n)[0, :2]) ** 2 for n in range(12))
    ratio = found / wanted * math.sqrt(middle)  # a phase for each receiver is free
    phase = np.median(ratio.real, 1) + 1j * np.median(ratio.imag, 1)
    np.testing.assert_allclose(np.abs(phase), 1, atol=0.01)
    assert np.abs(found * math.sqrt(middle) - phase[:, None] * wanted).max() < 0.01 * np.abs(wanted).max()


def test_interpolation_from_coarse_places_is_good_inside_a_head():
    grid = Grid((60, 40, 50), (2.3, 3.1, 2.7), (0.0, 0.2, 0.98))
    maps = coils.sensitivities(grid, 32, seed=1)
    axes = coils._axes(grid)
    places = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    loops = helmet(32, coils.HELMET, 1)
    exact = receive(places @ coils._scanner(grid).T, loops, 0.0)
    middle = np.sqrt((np.abs(receive(np.zeros((1, 3)), loops, 0.0)) ** 2).sum())
    exact = torch.from_numpy(np.abs(exact / middle)).view_as(maps.real)
    error = (maps.abs() - exact).abs()
    head = torch.from_numpy(((places / (0.8 * np.array(coils.HELMET))) ** 2).sum(1) < 1).view(grid.shape)
    assert error[:, head].max() < 2e-3 * exact[:, head].max()


def test_sensitivities_depend_on_place_and_seed_alone():
    fine, coarse = Grid((45, 63, 41), (3.0, 3.0, 4.0)), Grid((15, 21, 41), (9.0, 9.0, 4.0))
    one, other = coils.sensitivities(fine, 8, seed=2), coils.sensitivities(coarse, 8, seed=2)
    inside = slice(3, -3)
    torch.testing.assert_close(one[:, 1::3, 1::3][:, inside, inside, 8:-8], other[:, inside, inside, 8:-8], rtol=1e-3, atol=1e-3)
    assert torch.equal(one, coils.sensitivities(fine, 8, seed=2))
    assert not torch.allclose(one, coils.sensitivities(fine, 8, seed=3), atol=0.05)


def test_the_rim_is_brighter_and_a_delay_turns_the_phase_alone():
    maps = coils.sensitivities(GRID, 16)
    total = maps.abs().square().sum(0).sqrt()
    x, y, z = (n // 2 for n in GRID.shape)
    assert 0.9 < total[x, y, z] < 1.1
    assert total[x - 17, y, z] > 1.4 * total[x, y, z]
    late = coils.sensitivities(GRID, 16, delay=20.0)
    inside = slice(8, -8)
    torch.testing.assert_close(late.abs()[:, inside, inside, inside], maps.abs()[:, inside, inside, inside], rtol=0.02, atol=0.02)
    assert (late / maps).angle()[:, x, y, z].abs().max() > 0.5


@pytest.mark.parametrize("n", [8, 16, 32])
def test_neighbours_share_noise(n):
    sigma = coil_samples.noise_covariance(n, seed=7).to(torch.complex128)
    torch.testing.assert_close(sigma, sigma.mH, rtol=0, atol=1e-6)
    assert torch.linalg.eigvalsh(sigma).min() > 0.05
    torch.testing.assert_close(sigma.diagonal().real.mean(), torch.tensor(2.0, dtype=torch.float64), rtol=1e-5, atol=0)
    deviation = sigma.diagonal().real.sqrt()
    correlation = (sigma / torch.outer(deviation, deviation)).abs().numpy()
    loops = helmet(n, coils.HELMET, 7)
    apart = np.linalg.norm(loops.centres[:, None] - loops.centres, axis=-1)
    pairs = np.triu_indices(n, 1)
    far = apart[pairs] > np.median(apart[pairs])
    near = apart[pairs] < np.quantile(apart[pairs], 2 / n)
    assert 0.15 < correlation[pairs][near].mean() < 0.7
    assert correlation[pairs][far].mean() < 0.3
    alone = coil_samples.noise_covariance(n, seed=7, loaded=0.1, leak=0.0)
    assert (alone.abs() - alone.abs().diagonal().diag()).max() < 0.25


def test_what_leaks_is_out_of_phase():
    def twist(sigma):
        """What no phase of a receiver can turn away."""
        product = sigma[0, 3] * sigma[3, 7] * sigma[7, 0]
        return float((product.imag / product.abs()).abs())

    assert twist(coil_samples.noise_covariance(16, leak=0.0)) < 1e-3
    assert twist(coil_samples.noise_covariance(16, leak=0.3)) > 0.05


def test_the_noise_that_the_coils_deliver_is_the_noise_asked_for(generator):
    grid = Grid((24, 20, 22), (8.0, 9.0, 8.0))
    maps, sigma = coils.sensitivities(grid, 8, seed=1), coil_samples.noise_covariance(8, seed=1)
    sigma = coil_samples.scaled(sigma, maps, 0.02)
    images = torch.ones((2, *grid.shape), dtype=torch.complex64)
    samples = coil_samples.kspace(images, maps, sigma, generator)
    noise = from_kspace(samples - coil_samples.kspace(images, maps)).movedim(1, 0).flatten(1)
    measured = noise @ noise.mH / noise.shape[1]
    tolerance = 4 * float(sigma.abs().max()) / math.sqrt(noise.shape[1])
    torch.testing.assert_close(measured, sigma, rtol=0, atol=tolerance)
    middle = maps[:, 12, 10, 11]
    weight = torch.linalg.solve(sigma, middle)
    combined = (weight.conj() @ noise) / (weight.conj() @ middle)
    assert math.isclose(combined.real.std(), 0.02, rel_tol=0.05)
    assert math.isclose(combined.imag.std(), 0.02, rel_tol=0.05)
    calibration = coil_samples.noise_samples(sigma, 40_000, generator)
    torch.testing.assert_close(calibration @ calibration.mH / 40_000, sigma, rtol=0, atol=4 * float(sigma.abs().max()) / 200)


def test_kspace_is_unitary_and_centred(generator):
    shape = (7, 10, 9)
    image = torch.randn(shape, dtype=torch.complex64, generator=generator)
    samples = to_kspace(image)
    phases = [torch.exp(-2j * math.pi * torch.outer(torch.arange(n) - n // 2, torch.arange(n) - n // 2) / n) / math.sqrt(n) for n in shape]
    direct = torch.einsum("ax,by,cz,xyz->abc", *phases, image)
    torch.testing.assert_close(samples, direct, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(from_kspace(samples), image)
    maps = torch.randn((3, *shape), dtype=torch.complex64, generator=generator)
    torch.testing.assert_close(from_kspace(coil_samples.kspace(image[None], maps))[0], maps * image, rtol=1e-4, atol=1e-5)


def test_the_same_seed_draws_the_same_noise():
    grid = Grid((9, 8, 7), (20.0, 20.0, 20.0))
    maps, sigma = coils.sensitivities(grid, 4), coil_samples.noise_covariance(4)
    image = torch.zeros((1, *grid.shape), dtype=torch.complex64)
    one, other = (coil_samples.kspace(image, maps, sigma, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, other)
    assert coil_samples.kspace(image, maps, torch.zeros_like(sigma), torch.Generator()).abs().max() == 0


def test_bad_input_is_told():
    maps, sigma = coils.sensitivities(GRID, 4), coil_samples.noise_covariance(4)
    image = torch.zeros((1, *GRID.shape), dtype=torch.complex64)
    with pytest.raises(InputError, match="1 to 128 loops, got 0"):
        coils.sensitivities(GRID, 0)
    with pytest.raises(InputError, match="three positive semi-axes"):
        coil_samples.noise_covariance(8, radius=(100.0, -1.0, 100.0))
    with pytest.raises(InputError, match=r"share from 0 to 1, got 1\.5"):
        coil_samples.noise_covariance(8, leak=1.5)
    with pytest.raises(InputError, match="losses in the head must be positive"):
        coil_samples.noise_covariance(8, loaded=0.0)
    with pytest.raises(GeometryError, match="Use one grid"):
        coil_samples.kspace(image[:, 1:], maps)
    with pytest.raises(InputError, match="of 5 coils, the sensitivities of 4"):
        coil_samples.kspace(image, maps, coil_samples.noise_covariance(5), torch.Generator())
    with pytest.raises(InputError, match="noise needs a generator"):
        coil_samples.kspace(image, maps, sigma)
    with pytest.raises(InputError, match="not positive definite"):
        coil_samples.kspace(image, maps, -sigma, torch.Generator())
    with pytest.raises(InputError, match="zero or more"):
        coil_samples.scaled(sigma, maps, -1.0)
    with pytest.raises(InputError, match="of 5 coils"):
        coil_samples.scaled(coil_samples.noise_covariance(5), maps, 1.0)
