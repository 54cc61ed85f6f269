import math

import pytest
import torch

from paradia.errors import GeometryError
from paradia.grid import Grid
from paradia.operators.dipole import Dipole
from paradia.simulate.fields import _unshimmed, fields, isolated
from paradia.simulate.head import head

NONE = ((0, 0),) * 3


def coordinates(grid):
    axes = [(torch.arange(n) - (n - 1) / 2) * size for n, size in zip(grid.shape, grid.voxel_size, strict=True)]
    return torch.meshgrid(*axes, indexing="ij")


def ball(grid, radius, centre=(0.0, 0.0, 0.0)):
    return sum((u - c).square() for u, c in zip(coordinates(grid), centre, strict=True)).sqrt() < radius


def head_in_air(grid):
    """Water in bone in muscle, with a cavity and a neck, in air; a little of everything in the brain."""
    x, y, z = coordinates(grid)
    size = min(grid.extent) / 2
    r = (x.square() + y.square() + (1.1 * z).square()).sqrt() / size
    chi = torch.full(grid.shape, 9.4)
    chi[(x.square() + y.square() < (0.45 * size) ** 2) & (z < 0)] = 0.0
    chi[r < 0.9] = 0.0
    chi[(r < 0.75) & (r > 0.68)] = -2.1
    chi[ball(grid, 0.15 * size, (0.0, 0.66 * size, -0.3 * size))] = 9.4
    mask = r < 0.62
    chi[mask] = 0.02 * torch.sin(x / 4)[mask] * torch.cos(y / 5)[mask]
    chi[mask & ball(grid, 0.15 * size, (0.2 * size, 0.0, 0.0))] = 0.15
    return chi, mask


@pytest.mark.parametrize("shape", [(20, 33, 24), (21, 18, 25), (1, 9, 8)])
def test_convolution_is_the_operator_s(shape, generator):
    grid = Grid(shape, (1.0, 1.2, 1.5), (0.2, -0.3, 0.93))
    image = torch.randn(shape, generator=generator)
    (field,) = isolated([(image, NONE)], grid)
    torch.testing.assert_close(field, Dipole(grid, padding=2) @ image, atol=2e-6, rtol=1e-5)


def test_what_reaches_beyond_the_grid_is_convolved_in_its_place(generator):
    grid = Grid((12, 15, 14), (1.0, 1.2, 1.5), (0.2, -0.3, 0.93))
    longer = torch.randn((12 + 5, 15 + 4, 14 + 6), generator=generator)
    (field,) = isolated([(longer, ((2, 3), (0, 4), (5, 1)))], grid)
    wide = grid.with_shape((24, 30, 30))  # the size that the grid alone is doubled to
    shifted = torch.zeros(wide.shape)
    shifted[:17, :19, :20] = longer
    expected = (Dipole(wide) @ torch.roll(shifted, (-2, 0, -5), (0, 1, 2)))[:12, :15, :14]
    if Dipole(grid, padding=2).padded.shape == wide.shape:
        torch.testing.assert_close(field, expected, atol=2e-6, rtol=1e-5)
    else:
        pytest.fail(f"the doubled grid is {Dipole(grid, padding=2).padded.shape}")


def test_local_field_is_the_sum_of_point_dipoles(generator):
    grid = Grid((40, 45, 38), (1.2, 1.2, 1.2), (0.2, -0.3, 0.93))

    def blobs(x, y, z):
        return sum(
            a * torch.exp(-((x - p).square() + (y - q).square() + (z - r).square()) / (2 * 2.5**2))
            for a, p, q, r in ((0.3, 3.0, -4.0, 2.0), (-0.2, -4.0, 5.0, -3.0), (0.1, 0.0, 0.0, 6.0))
        )

    found = fields(blobs(*coordinates(grid)), torch.ones(grid.shape, dtype=torch.bool), grid, shim=False, neck=False).local
    # dipoles in a cubic lattice twice as fine, in which those next to a place cancel by symmetry; it holds the grid's places
    places = torch.stack(coordinates(grid), -1).reshape(-1, 3).double()
    dense = torch.cartesian_prod(*[torch.arange(-32, 33, dtype=torch.float64) * 0.6] * 3)
    moments = blobs(*dense.T) * 0.6**3
    dense, moments = dense[moments.abs() > 1e-7], moments[moments.abs() > 1e-7]
    near = (places.norm(dim=1) < 14).nonzero()[:, 0]
    targets = near[torch.randperm(len(near), generator=generator)[:60]]
    away = places[targets, None] - dense[None]
    distance = away.norm(dim=-1)
    cosine = (away @ torch.tensor(grid.b0_dir, dtype=torch.float64)) / distance.clamp(min=1e-9)
    kernel = torch.where(distance > 1e-6, (3 * cosine.square() - 1) / (4 * math.pi * distance.clamp(min=1e-3) ** 3), 0.0)
    expected = kernel @ moments
    error = found.flatten()[targets].double() - expected
    assert float(error.std() / expected.std()) < 0.01  # D(0) = 0 leaves a constant open


def test_field_of_a_sphere_beside_the_mask():
    grid = Grid((48, 45, 50), (1.0, 1.0, 1.0), (0.3, 0.1, 0.95))
    sphere = ball(grid, 6.0)
    x, y, z = coordinates(grid)
    r = (x.square() + y.square() + z.square()).sqrt()
    mask = (r > 11) & (r < 18)
    found = fields(sphere.float(), mask, grid, shim=False)
    cosine = (grid.b0_dir[0] * x + grid.b0_dir[1] * y + grid.b0_dir[2] * z) / r.clamp(min=0.1)
    expected = float(sphere.sum()) / (4 * math.pi * r.clamp(min=1) ** 3) * (3 * cosine.square() - 1)
    error = (found.background - expected)[mask]
    assert float(error.square().mean().sqrt() / expected[mask].square().mean().sqrt()) < 0.02
    assert float(found.local.abs().max()) < 1e-6


def test_a_cylinder_goes_on_beyond_the_field_of_view():
    grid = Grid((48, 50, 60), (1.0, 1.0, 1.0), (1.0, 0.0, 0.0))
    x, y, _ = coordinates(grid)
    r2 = x.square() + y.square()
    mask = (r2 > 8**2) & (r2 < 16**2)
    chi = (r2 < 5**2).float()
    area = float(chi[:, :, 0].sum())
    expected = area / (2 * math.pi * r2.clamp(min=1)) * (x.square() - y.square()) / r2.clamp(min=1)
    middle = torch.zeros_like(mask)
    middle[:, :, 26:34] = True

    def error(neck):
        found = fields(chi, mask, grid, shim=False, neck=neck).background
        return float((found - expected)[mask & middle].square().mean().sqrt() / expected[mask & middle].square().mean().sqrt())

    assert error(True) < 0.05
    assert error(False) > 1.5 * error(True)


def test_water_all_around_makes_no_background():
    grid = Grid((20, 22, 24), (1.0, 1.2, 1.5))
    mask = ball(grid, 9.0)
    chi = torch.full(grid.shape, 0.02)
    chi[ball(grid, 4.0)] = 0.5
    found = fields(chi, mask, grid, shim=False)
    # the mask holds 0.02 where its surroundings have it too, and water in the background: only that step is left
    flat = fields(torch.zeros(grid.shape), mask, grid, shim=False)
    assert float(flat.background.abs().max()) < 1e-6
    assert float(found.background[mask].abs().max()) < 0.01


def test_background_is_harmonic_in_the_mask():
    grid = Grid((96, 113, 80), (2.0, 2.0, 2.0), (0.0, 0.2, 0.98))
    truth = head(grid, seed=1)
    found = fields(truth.chi, truth.mask, grid)
    inside = -torch.nn.functional.max_pool3d(-truth.mask.float()[None], 5, 1, 2)[0] > 0.5

    def curvature(field):
        total = -6 * field
        for axis in range(3):
            for shift in (-1, 1):
                total = total + field.roll(shift, axis)
        return float(total[inside].square().mean().sqrt())

    assert curvature(found.background) < 0.02 * curvature(found.local)
    assert float(found.background[inside].std()) > 5 * float(found.local[inside].std())


def test_total_is_the_sum_less_the_shim():
    grid = Grid((40, 44, 36), (2.0, 2.0, 2.5), (0.0, 0.2, 0.98))
    chi, mask = head_in_air(grid)
    plain, shimmed = (fields(chi, mask, grid, shim=shim) for shim in (False, True))
    assert torch.equal(plain.total, plain.local + plain.background)
    difference = plain.total - shimmed.total
    curvature = sum(
        (difference.roll(-1, a) + difference.roll(1, a) - 2 * difference)[1:-1, 1:-1, 1:-1] / grid.voxel_size[a] ** 2 for a in range(3)
    )
    assert float(curvature.abs().max()) < 1e-5  # what shims make is harmonic
    assert abs(float(shimmed.total[mask].mean())) < 1e-3
    assert float(shimmed.total[mask].std()) < float(plain.total[mask].std())


def test_shim_takes_off_all_nine_harmonics():
    grid = Grid((30, 34, 28), (2.0, 2.0, 2.5))
    x, y, z = (u / 30 for u in coordinates(grid))
    mask = ball(grid, 24.0, (4.0, -3.0, 2.0))
    field = 0.3 + x - 2 * y + 0.5 * z + x * y - y * z + 0.7 * x * z + (x * x - y * y) - 0.4 * (2 * z * z - x * x - y * y)
    _unshimmed(field, mask, grid)
    assert float(field.abs().max()) < 1e-4


def test_sources_are_as_given_in_the_mask_and_soft_outside():
    grid = Grid((40, 44, 36), (2.0, 2.0, 2.5))
    chi, mask = head_in_air(grid)
    found = fields(chi, mask, grid)
    assert torch.equal(found.sources[mask], chi[mask])
    steps = [image.diff(dim=0)[(~mask)[1:] & (~mask)[:-1]].abs().max() for image in (chi, found.sources)]
    assert float(steps[1]) < 0.6 * float(steps[0])
    assert float(found.sources[:, :, -1].min()) == pytest.approx(9.4, abs=1e-4)


def test_sources_are_those_of_the_fields_even_where_bone_touches_the_brain():
    grid = Grid((40, 44, 36), (2.0, 2.0, 2.5), (0.0, 0.2, 0.98))
    chi, mask = head_in_air(grid)
    x, y, z = coordinates(grid)
    chi[~mask & ((x.square() + y.square() + (1.1 * z).square()).sqrt() < 30)] = -2.1
    found = fields(chi, mask, grid, shim=False, neck=False)
    (expected,) = isolated([(found.sources - 9.4, NONE)], grid)
    torch.testing.assert_close(found.total, expected, atol=1e-4, rtol=1e-4)


def test_bone_may_be_flush_with_the_mask():
    """Softened, but bone from the first voxel outside on, and still none of it lies inside."""
    grid = Grid((40, 44, 36), (2.0, 2.0, 2.5), (0.0, 0.2, 0.98))
    chi, mask = head_in_air(grid)
    x, y, z = coordinates(grid)
    chi[~mask & ((x.square() + y.square() + (1.1 * z).square()).sqrt() < 30)] = -2.1
    apart, flush = (fields(chi, mask, grid, shim=False, neck=False, flush=touching) for touching in (False, True))
    beside = torch.zeros_like(mask)
    beside[1:] |= mask[:-1]
    beside &= ~mask
    assert apart.sources[beside].abs().max() < 1.2  # water, softened
    assert flush.sources[beside].max() < -1.1
    assert apart.sources[beside].mean() > 0.5 * flush.sources[beside].mean()
    torch.testing.assert_close(flush.sources[mask], chi[mask])
    torch.testing.assert_close(flush.local, apart.local)
    (expected,) = isolated([(flush.sources - 9.4, NONE)], grid)
    torch.testing.assert_close(flush.total, expected, atol=1e-4, rtol=1e-4)


def test_neck_matters_below():
    grid = Grid((40, 44, 36), (2.0, 2.0, 2.5))
    chi, mask = head_in_air(grid)
    with_neck, without = (fields(chi, mask, grid, neck=neck).total for neck in (True, False))
    difference = (with_neck - without).abs()
    assert float(difference[..., :12][mask[..., :12]].mean()) > 1.5 * float(difference[..., 24:][mask[..., 24:]].mean())


def test_field_agrees_with_another_package():
    forward = pytest.importorskip("qsm_forward")
    grid = Grid((48, 48, 48), (1.0, 1.0, 1.0), (0.0, 0.0, 1.0))
    chi, mask = head_in_air(grid)
    found = fields(chi, mask, grid, shim=False, neck=False)
    theirs = torch.as_tensor(forward.generate_field(found.sources.numpy(), voxel_size=[1, 1, 1], B0_dir=[0, 0, 1])).float()
    ours = found.local + found.background
    difference = (ours - theirs)[mask]
    assert float((difference - difference.mean()).square().mean().sqrt() / ours[mask].std()) < 0.01


def test_shapes_are_checked():
    grid = Grid((8, 9, 10))
    with pytest.raises(GeometryError, match="chi has shape"):
        fields(torch.zeros(8, 9, 11), torch.ones(8, 9, 11, dtype=torch.bool), grid)
