"""Spheres and boundary values against other ways to compute the same, and against fields that must vanish."""

import numpy as np
import pytest
import scipy.io
import scipy.ndimage
import scipy.sparse
import scipy.sparse.linalg
import torch

from paradia.background.ismv import ismv
from paradia.background.lbv import lbv
from paradia.background.resharp import resharp
from paradia.background.sharp import sharp
from paradia.background.vsharp import vsharp
from paradia.errors import ConvergenceWarning, MaskError
from paradia.fft import Window
from paradia.grid import Grid
from paradia.operators.smv import sphere

GRID = Grid((23, 26, 20), (2.0, 2.4, 3.0), (0.2, -0.3, 0.93))
EXACT = {"tol": 1e-12, "max_iter": 500}
METHODS = {
    "sharp": sharp,
    "vsharp": vsharp,
    "resharp": lambda *data: resharp(*data, **EXACT),
    "ismv": lambda *data: ismv(*data, **EXACT),
    "lbv": lambda *data: lbv(*data, **EXACT),
}


def places(grid):
    axes = [(torch.arange(n, dtype=torch.float64) - n / 2 + 0.3) * d for n, d in zip(grid.shape, grid.voxel_size, strict=True)]
    return torch.meshgrid(*axes, indexing="ij")


@pytest.fixture
def mask():
    """An egg with a dent, off the middle and touching no side."""
    x, y, z = places(GRID)
    egg = (x / 20).square() + (y / 27).square() + (z / 25).square() < 1
    return egg & ~((x - 14).square() + (y - 14).square() + z.square() < 49)


@pytest.fixture
def field(generator):
    return torch.randn(GRID.shape, generator=generator, dtype=torch.float64) + places(GRID)[0] / 5


def harmonics(degree):
    """Span the solid harmonics of a degree by powers of z + i(x cos a + y sin a)."""
    x, y, z = (axis / 20 for axis in places(GRID))
    for angle in torch.arange(2 * degree + 1, dtype=torch.float64) * torch.pi / (2 * degree + 1):
        power = torch.complex(z, x * angle.cos() + y * angle.sin()) ** degree
        yield from (power.real, power.imag) if degree else (power.real,)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("degree", range(5))
def test_every_solid_harmonic_vanishes(name, degree, mask):
    """To rounding up to the third degree; a sphere of voxels knows the fourth only so well, the stencil of 27 points exactly."""
    bound = 1e-8 if degree < 4 or name == "lbv" else 0.02
    for harmonic in list(harmonics(degree))[:: 2 if degree > 2 else 1]:
        local, kept = METHODS[name](harmonic, mask, GRID)
        assert kept.sum() > 0.15 * mask.sum()
        assert local[kept].abs().max() < bound * harmonic[mask].abs().max()


def test_sharp_equals_convolution_and_division_by_other_libraries(mask, field):
    radius, threshold = 6.0, 0.02
    ball = sphere(GRID.voxel_size, radius).numpy()
    fits = scipy.ndimage.binary_erosion(mask.numpy(), ball != 0)
    masked = (field * mask).numpy()
    high_pass = (masked - scipy.ndimage.convolve(masked, ball, mode="constant")) * fits
    local, kept = sharp(field, mask, GRID, radius=radius, threshold=threshold)
    assert np.array_equal(kept.numpy(), fits)
    # undo the division: filtering the result again gives what was filtered, but for the frequencies given up
    shape = Window.around(mask, GRID, radius).grid.shape
    centre = np.zeros(shape)
    centre[tuple(slice(n) for n in ball.shape)] = ball
    share = 1 - np.fft.fftn(np.roll(centre, [-(n // 2) for n in ball.shape], (0, 1, 2))).real
    box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(mask.numpy()))
    wide = np.zeros(shape)
    wide[tuple(slice(n) for n in high_pass[box].shape)] = high_pass[box]
    divided = np.fft.ifftn(np.where(np.abs(share) > threshold, np.fft.fftn(wide) / np.where(share == 0, 1, share), 0)).real
    expected = np.zeros(GRID.shape)
    expected[box] = divided[tuple(slice(n) for n in high_pass[box].shape)]
    np.testing.assert_allclose(local.numpy(), expected * fits, atol=1e-10)


def test_resharp_equals_dense_least_squares(generator):
    grid = Grid((11, 9, 10), (1.0, 1.3, 1.2))
    mask = torch.ones(grid.shape, dtype=torch.bool)
    mask[:, :1], mask[-2:] = False, False
    field = torch.randn(grid.shape, generator=generator, dtype=torch.float64)
    radius, weight = 2.5, 30.0
    ball = sphere(grid.voxel_size, radius).numpy()
    fits = scipy.ndimage.binary_erosion(mask.numpy(), ball != 0)
    mean = np.stack([scipy.ndimage.convolve(unit.reshape(grid.shape), ball, mode="constant").ravel() for unit in np.eye(mask.numel())], 1)
    rows = (np.eye(mask.numel()) - mean)[fits.ravel()]
    gain = (2 * np.pi * radius / 100) ** 2 / 10
    tall = np.vstack([rows, np.sqrt(weight) * gain * np.eye(mask.numel())])
    right = np.concatenate([rows @ (field * mask).numpy().ravel(), np.zeros(mask.numel())])
    expected = np.linalg.lstsq(tall, right, rcond=None)[0].reshape(grid.shape)
    local, kept = resharp(field, mask, grid, radius=radius, weight=weight, **EXACT)
    assert np.array_equal(kept.numpy(), fits)
    np.testing.assert_allclose(local.numpy(), expected * fits, atol=1e-9)


def test_lbv_equals_a_sparse_direct_solve(mask, field):
    """The stencil put together from Kronecker products of second differences."""
    second = [scipy.sparse.diags([1.0, -2.0, 1.0], [-1, 0, 1], (n, n)) / d**2 for n, d in zip(GRID.shape, GRID.voxel_size, strict=True)]
    ones = [scipy.sparse.identity(n) for n in GRID.shape]

    def along(*axes):
        parts = [second[a] if a in axes else ones[a] for a in range(3)]
        return scipy.sparse.kron(scipy.sparse.kron(parts[0], parts[1]), parts[2])

    squares = [d**2 for d in GRID.voxel_size]
    laplacian = along(0) + along(1) + along(2)
    laplacian = laplacian + sum((squares[a] + squares[b]) / 12 * along(a, b) for a, b in ((0, 1), (0, 2), (1, 2)))
    inside = scipy.ndimage.binary_erosion(mask.numpy(), np.ones((3, 3, 3)))
    rows = scipy.sparse.csr_matrix(laplacian)[inside.ravel()]
    given = np.where(inside, 0, (field * mask).numpy()).ravel()
    expected = np.zeros(GRID.shape)
    expected[inside] = scipy.sparse.linalg.spsolve(rows[:, inside.ravel()].tocsc(), -rows @ given)
    local, kept = lbv(field, mask, GRID, peel=0.0, **EXACT)
    assert np.array_equal(kept.numpy(), inside)
    np.testing.assert_allclose(local.numpy(), (field.numpy() - expected) * inside, atol=1e-8)


def test_lbv_peels_by_depth(mask, field):
    depth = scipy.ndimage.distance_transform_edt(mask.numpy(), sampling=GRID.voxel_size)
    for peel in (2.0, 3.0, 4.5):
        inside = scipy.ndimage.binary_erosion(depth > peel + 1e-9, np.ones((3, 3, 3)))
        assert np.array_equal(lbv(field, mask, GRID, peel=peel).mask.numpy(), inside)


def test_ismv_is_where_the_iteration_of_the_paper_ends(mask, field):
    """In both passes: the mean over the sphere taken again and again, only where the sphere fits."""
    large, small = 8.0, 4.5
    masked = (field * mask).numpy()

    def iterate(start, radius, free):
        ball, now = sphere(GRID.voxel_size, radius).numpy(), start
        for _ in range(350):
            now = np.where(free, scipy.ndimage.convolve(now, ball, mode="constant"), start)
        return now

    deep, shallow = (scipy.ndimage.binary_erosion(mask.numpy(), sphere(GRID.voxel_size, r).numpy() != 0) for r in (large, small))
    background = iterate(masked, large, deep)
    background = iterate(background, small, shallow & ~deep)
    local, kept = ismv(field, mask, GRID, radius=large, radius_min=small, **EXACT)
    assert np.array_equal(kept.numpy(), shallow)
    np.testing.assert_allclose(local.numpy(), (masked - background) * shallow, atol=1e-8)


def test_ismv_with_one_sphere(mask, field):
    one = ismv(field, mask, GRID, radius=4.5, radius_min=6.0, **EXACT)
    same = ismv(field, mask, GRID, radius=6.0, radius_min=6.0, **EXACT)
    assert torch.equal(one.mask, same.mask)
    torch.testing.assert_close(one.local_field, same.local_field)


@pytest.mark.parametrize("name", METHODS)
def test_the_end_of_the_field_of_view_is_outside(name, generator):
    grid = Grid((18, 15, 16), (2.0, 2.2, 2.4))
    full = torch.ones(grid.shape, dtype=torch.bool)
    field = torch.randn(grid.shape, generator=generator, dtype=torch.float64)
    wide = torch.nn.functional.pad(full, (2,) * 6)
    narrow = METHODS[name](field, full, grid)
    apart = METHODS[name](torch.nn.functional.pad(field, (2,) * 6, value=9.0), wide, grid.with_shape(wide.shape))
    assert torch.equal(narrow.mask, apart.mask[2:-2, 2:-2, 2:-2])
    torch.testing.assert_close(narrow.local_field, apart.local_field[2:-2, 2:-2, 2:-2], atol=1e-9, rtol=0)


@pytest.mark.parametrize(("weight", "kept"), [(1.0, 0.5), (0.25, 0.8)])
@pytest.mark.parametrize("radius", [12.0, 18.0])
def test_resharp_gives_up_of_a_wave_what_its_weight_says(weight, kept, radius):
    """As Tikhonov regularisation without a mask does, share² / (share² + w g²), far from the edge; radius and voxels do not matter."""
    grid = Grid((40, 41, 60), (6.0, 6.0, 7.5))
    wave = torch.cos(2 * torch.pi * (torch.arange(60, dtype=torch.float64) - 30) * 7.5 / 100).expand(grid.shape)
    local, _ = resharp(wave, torch.ones(grid.shape, dtype=torch.bool), grid, radius=radius, weight=weight, tol=1e-6)
    middle = (slice(16, 25), slice(16, 25), slice(20, 41))
    got = float((local * wave)[middle].sum() / wave[middle].square().sum())
    assert abs(got - kept) < 0.06


@pytest.mark.parametrize("method", [sharp, vsharp, resharp, ismv, lbv])
def test_measured_fields_of_shim_coils_vanish(method, shared_data):
    """Eight coils' fields in a phantom: all methods leave the same fortieth or less, the noise of the measurement."""
    found = scipy.io.loadmat(shared_data / "shim-fields" / "CalibrationDataSiemensMGH12Dec2020.mat")
    mask = torch.from_numpy(found["mask"] > 0)
    fields = torch.from_numpy(np.nan_to_num(found["F"])).movedim(-1, 0).float().contiguous()
    local, kept = method(fields * mask, mask, Grid(tuple(mask.shape), (3.0, 3.0, 3.0)))
    assert kept.sum() > 0.7 * mask.sum()
    assert (local[:, kept].std(dim=1) / fields[:, mask].std(dim=1)).max() < 0.027


@pytest.mark.parametrize("method", [sharp, resharp, ismv])
def test_a_sphere_too_large_is_refused(method, mask, field):
    with pytest.raises(MaskError, match="no sphere of radius 40 mm fits into the mask"):
        method(field, mask, GRID, radius=40.0)


def test_a_peel_that_leaves_nothing_is_refused(mask, field):
    with pytest.raises(MaskError, match="no voxel deeper than 30 mm"):
        lbv(field, mask, GRID, peel=30.0)


@pytest.mark.parametrize("method", [resharp, ismv, lbv])
def test_progress_and_limits_are_told(method, mask, field):
    told = []
    with pytest.warns(ConvergenceWarning, match=f"{method.__name__} stopped after 2 iterations"):
        method(field, mask, GRID, max_iter=2, tol=1e-9, callback=lambda i, _: told.append(i))
    assert told == ([1, 2, 1, 2] if method is ismv else [1, 2])


@pytest.mark.filterwarnings("ignore::paradia.errors.ConvergenceWarning")
@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_those_of_the_linear_map(name, generator):
    """What backpropagation says of a change of the field, and the change that it makes."""
    grid = Grid((14, 13, 12), (2.0, 2.4, 3.0))
    mask = torch.zeros(grid.shape, dtype=torch.bool)
    mask[1:-1, 1:-1, 1:-1] = True
    field, change, weights = (torch.randn(grid.shape, generator=generator, dtype=torch.float64) for _ in range(3))
    field.requires_grad_()
    (METHODS[name](field, mask, grid).local_field * weights).sum().backward()
    with torch.no_grad():
        moved = METHODS[name](field + change, mask, grid).local_field - METHODS[name](field, mask, grid).local_field
    torch.testing.assert_close((field.grad * change).sum(), (moved * weights).sum(), rtol=1e-6, atol=1e-6)
