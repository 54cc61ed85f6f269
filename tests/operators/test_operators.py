"""Laws that every operator keeps."""

import pytest
import torch

from paradia.errors import GeometryError
from paradia.fft import irfftn, pad, rfftn
from paradia.grid import Grid
from paradia.operators.dipole import Dipole
from paradia.operators.gradient import Gradient
from paradia.operators.laplacian import Laplacian
from paradia.operators.smv import SMV, even_spectrum, reach, sphere
from paradia.operators.weighting import Weighting

GRID = Grid((10, 7, 8), (1.0, 1.2, 1.5), (0.2, -0.3, 0.93))


def _mask(grid):
    mask = torch.zeros(grid.shape, dtype=torch.bool)
    mask[2:-1, 1:-2, 1:-3] = True
    return mask


def _noise(grid):
    return 0.1 + torch.rand(grid.shape, generator=torch.Generator().manual_seed(3))


OPERATORS = {
    "dipole": lambda grid: Dipole(grid),
    "dipole padded": lambda grid: Dipole(grid, padding=2),
    "gradient": lambda grid: Gradient(grid),
    "gradient periodic": lambda grid: Gradient(grid, periodic=True),
    "laplacian": lambda grid: Laplacian(grid),
    "laplacian padded": lambda grid: Laplacian(grid, padding=1.5),
    "smv": lambda grid: SMV(grid, 2.5),
    "smv padded": lambda grid: SMV(grid, 2.5, padding=2),
    "weighting": lambda grid: Weighting(_mask(grid), _noise(grid)),
    "composition": lambda grid: Gradient(grid) @ Dipole(grid),
    "adjoint": lambda grid: (Gradient(grid) @ SMV(grid, 2.0)).H,
}


@pytest.fixture(params=OPERATORS, ids=list(OPERATORS))
def operator(request):
    return OPERATORS[request.param](GRID).to(torch.float64)


def _domain(operator, *batch):
    """Draw from the space on which the operator acts: images, or vectors for the adjoint of a composition."""
    generator = torch.Generator().manual_seed(1)
    shape = (3, *GRID.shape) if _takes_vectors(operator) else GRID.shape
    return torch.randn((*batch, *shape), generator=generator, dtype=torch.float64)


def _takes_vectors(operator):
    return isinstance(operator.H, type(Gradient(GRID) @ Dipole(GRID)))


def test_adjoint(operator):
    x = _domain(operator, 2)
    image = operator(x)
    y = torch.randn(image.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close((image * y).sum(), (x * operator.adjoint(y)).sum(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(operator.H @ y, operator.adjoint(y))
    torch.testing.assert_close(operator.H.H @ x, image)


def test_linear(operator):
    x, y = _domain(operator, 2)
    torch.testing.assert_close(operator(2 * x - 3 * y), 2 * operator(x) - 3 * operator(y))


def test_batch_axes_pass_through(operator):
    x = _domain(operator, 2, 3)
    torch.testing.assert_close(operator(x)[1, 2], operator(x[1, 2]))


def test_backward_is_the_adjoint(operator):
    x = _domain(operator).requires_grad_()
    image = operator(x)
    y = torch.randn(image.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(image, x, y)
    torch.testing.assert_close(gradient, operator.adjoint(y))


@pytest.mark.parametrize("name", list(OPERATORS))
def test_gradcheck(name):
    grid = Grid((5, 4, 6), (1.0, 1.2, 1.5), (0.2, -0.3, 0.93))
    operator = (Gradient(grid) @ SMV(grid, 1.5)).H if name == "adjoint" else SMV(grid, 1.5) if "smv" in name else OPERATORS[name](grid)
    shape = (3, *grid.shape) if name == "adjoint" else grid.shape
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(operator.to(x), (x,), fast_mode=True)


@pytest.mark.parametrize("kind", [Dipole, Laplacian])
def test_a_kernel_belongs_to_its_operator(kind):
    operator = kind(GRID).to(torch.float64)
    before = operator.kernel.clone()
    operator.kernel.zero_()
    assert torch.equal(kind(GRID).to(torch.float64).kernel, before)


def test_precision_follows_the_data(operator):
    x = _domain(operator)
    exact = operator(x)
    rounded = operator.to(torch.float32)(x.float())
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.double(), exact, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(operator.to(torch.float64)(x), exact, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", [Dipole, Laplacian, lambda grid: SMV(grid, 2.0)])
def test_kernels_are_sampled_anew_in_double_precision(kind):
    operator = kind(GRID).to(torch.float64)
    torch.testing.assert_close(operator.kernel, operator.sampler(GRID), rtol=0, atol=0)


@pytest.mark.parametrize("axes", [(1, 2, 0), (2, 1, 0)])
@pytest.mark.parametrize(
    "kind", [Dipole, Laplacian, lambda grid: SMV(grid, 1.5 * max(grid.voxel_size)), lambda grid: Dipole(grid, padding=2)]
)
@pytest.mark.parametrize("voxel_size", [(1.0, 1.2, 1.5), (0.35, 0.307, 0.7), (4.4, 2.3, 4.6)])
def test_turns_with_the_axes(voxel_size, kind, axes):
    """Also where half the sampling frequency times the voxel size is not one half in floating point."""
    grid = Grid((20, 11, 18), voxel_size, GRID.b0_dir)
    x = torch.randn(grid.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    turned = kind(grid.permute(axes)).to(x)(x.permute(axes))
    torch.testing.assert_close(turned, kind(grid).to(x)(x).permute(axes), rtol=1e-10, atol=1e-12)


def test_wrong_shape_is_named():
    with pytest.raises(GeometryError, match=r"shape \(10, 7, 8\), got \(10, 7, 9\)"):
        Dipole(GRID)(torch.zeros(10, 7, 9))


def test_padding_below_one_is_refused():
    with pytest.raises(GeometryError, match="at least 1"):
        Dipole(GRID, padding=0.5)


def test_dipole_is_even_at_the_highest_frequencies():
    """All eight signs of a frequency that the grid cannot tell apart are averaged, so the real part loses nothing."""
    grid = Grid((6, 4, 8), (1.0, 1.2, 1.5), (0.3, -0.4, 0.8))
    axes = [torch.fft.fftfreq(n, d, dtype=torch.float64) for n, d in zip(grid.shape, grid.voxel_size, strict=True)]
    k = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    highest = torch.stack([a.abs() * d == 0.5 for a, d in zip(k, grid.voxel_size, strict=True)])
    b = torch.tensor(grid.b0_dir, dtype=torch.float64)
    mean = torch.zeros(grid.shape, dtype=torch.float64)
    for signs in torch.cartesian_prod(*[torch.tensor([1.0, -1.0], dtype=torch.float64)] * 3):
        flipped = torch.where(highest, k * signs[:, None, None, None], k)
        along = torch.einsum("i,ixyz->xyz", b, flipped)
        mean += (1 / 3 - along**2 / flipped.square().sum(0).clamp_min(1e-30)) / 8
    mean[0, 0, 0] = 0
    torch.testing.assert_close(Dipole(grid).to(torch.float64).kernel, mean[..., :5])


def _sphere(grid, radius, parts=4):
    """Share of each voxel inside a centred sphere and every voxel's place in mm."""
    place = torch.stack(
        torch.meshgrid(
            *[(torch.arange(n, dtype=torch.float64) - n // 2) * d for n, d in zip(grid.shape, grid.voxel_size, strict=True)], indexing="ij"
        )
    )
    offsets = (torch.arange(parts, dtype=torch.float64) + 0.5) / parts - 0.5
    share = torch.zeros(grid.shape, dtype=torch.float64)
    for o in torch.cartesian_prod(offsets, offsets, offsets):
        shift = (o * torch.tensor(grid.voxel_size, dtype=torch.float64))[:, None, None, None]
        share += ((place + shift).square().sum(0) <= radius**2) / parts**3
    return share, place


def test_field_of_a_sphere():
    grid = Grid((44, 37, 32), (1.0, 1.2, 1.5), (0.2, -0.5, 0.84))
    radius, chi = 7.0, 0.8
    share, place = _sphere(grid, radius)
    field = Dipole(grid, padding=2).to(share)(chi * share)
    distance = place.square().sum(0).sqrt()
    cosine = torch.einsum("i,ixyz->xyz", torch.tensor(grid.b0_dir, dtype=torch.float64), place) / distance.clamp_min(1e-9)
    truth = chi / 3 * (radius / distance.clamp_min(1e-9)) ** 3 * (3 * cosine**2 - 1)
    outside = (distance > radius + 2) & (distance < 15)
    slope = (field * truth)[outside].sum() / truth[outside].square().sum()
    assert abs(slope - 1) < 0.02
    assert (field - truth)[outside].square().mean().sqrt() < 0.03 * truth[outside].abs().max()
    assert field[distance < radius - 3].abs().max() < 0.03 * chi


def test_field_of_a_cylinder():
    """An infinite cylinder at an angle: a constant field inside, a dipolar one around it."""
    grid = Grid((60, 45, 8), (1.0, 1.3, 1.5), (0.5, 0.2, 0.84))
    radius, chi = 6.0, 1.0
    flat = Grid((60, 45, 1), grid.voxel_size)
    share, place = _sphere(flat, radius, parts=5)
    field = Dipole(grid).to(share)(chi * share.expand(grid.shape))[..., 0]  # periodic along its axis: without end
    x, y = place[0, ..., 0], place[1, ..., 0]
    distance = x.hypot(y)
    bx, by, bz = grid.b0_dir
    across = 1 - bz**2
    azimuth = torch.atan2(y, x) - torch.atan2(torch.tensor(by), torch.tensor(bx))
    truth = chi / 2 * across * (radius / distance.clamp_min(1e-9)) ** 2 * torch.cos(2 * azimuth)
    within = chi * (3 * bz**2 - 1) / 6
    truth = truth - share.mean() * within  # D(0) = 0: the mean over the field of view is taken away
    outside = (distance > radius + 2) & (distance < 14)
    scale = truth[outside].abs().max()
    assert (field[outside] - truth[outside]).square().mean().sqrt() < 0.06 * scale
    inside = field[distance < radius - 3]
    torch.testing.assert_close(inside.mean().item(), float((1 - share.mean()) * within), rtol=0.05, atol=2e-3)


def test_padding_keeps_copies_away():
    grid = Grid((30, 25, 20), (1.0, 1.2, 1.5), (0.2, -0.3, 0.93))
    wide = grid.with_shape((120, 100, 80))
    chi = torch.rand(grid.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    far = torch.zeros(wide.shape, dtype=torch.float64)
    far[:30, :25, :20] = chi
    truth = Dipole(wide, padding=2).to(far)(far)[:30, :25, :20]
    errors = [(Dipole(grid, padding=p).to(chi)(chi) - truth).norm() for p in (1, 2, 4)]
    assert errors[1] < 0.25 * errors[0]
    assert errors[2] < 0.25 * errors[1]


def test_gradient_of_a_ramp():
    x, y, z = (torch.arange(n, dtype=torch.float64) * d for n, d in zip(GRID.shape, GRID.voxel_size, strict=True))
    slopes = Gradient(GRID)(2 * x[:, None, None] - 3 * y[:, None] + 0.5 * z)
    for slope, truth in zip(slopes, (2.0, -3.0, 0.5), strict=True):
        torch.testing.assert_close(slope[:-1, :-1, :-1], torch.full_like(slope[:-1, :-1, :-1], truth))
    assert slopes[0, -1].abs().max() == slopes[1, :, -1].abs().max() == slopes[2, ..., -1].abs().max() == 0


def test_laplacian_is_minus_the_gradient_squared():
    gradient, laplacian = Gradient(GRID, periodic=True), Laplacian(GRID).to(torch.float64)
    x = torch.randn(GRID.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(laplacian(x), -(gradient.H @ gradient @ x))


def test_harmonic_field_passes_the_sphere():
    grid = Grid((30, 25, 22), (1.0, 1.2, 1.5))
    x, y, z = torch.meshgrid(
        *[(torch.arange(n, dtype=torch.float64) - n // 2) * d for n, d in zip(grid.shape, grid.voxel_size, strict=True)], indexing="ij"
    )
    harmonic = 3 + x - 2 * y + 0.2 * (x * y + y * z) + 0.05 * (x**2 + y**2 - 2 * z**2) + 0.01 * (x**3 - 3 * x * y**2)
    curved = x**2 + y**2 + z**2
    inner = (slice(7, -7), slice(6, -6), slice(5, -5))
    for radius in (2.0, 6.0):
        mean = SMV(grid, radius).to(harmonic)
        torch.testing.assert_close(mean(harmonic)[inner], harmonic[inner])
        torch.testing.assert_close(mean(curved)[inner], curved[inner] + 3 / 5 * radius**2)


@pytest.mark.parametrize(("voxel_size", "radius"), [((1.0, 1.2, 1.5), 2.0), ((0.9, 0.7, 1.1), 4.5), ((2.7, 2.6, 3.0), 12.0)])
def test_sphere_is_the_same_on_all_sides(voxel_size, radius):
    """Samples that lie on the surface are the trap."""
    ball = sphere(voxel_size, radius)
    for axis in range(3):
        assert torch.equal(ball > 0, ball.flip(axis) > 0)
        torch.testing.assert_close(ball.flip(axis), ball, rtol=0, atol=1e-15)
    x, y, z = voxel_size
    torch.testing.assert_close(sphere((y, z, x), radius), ball.permute(1, 2, 0), rtol=0, atol=1e-15)


@pytest.mark.parametrize("last", [17, 18])
def test_spectrum_of_a_small_ball_is_its_transform(last):
    grid = Grid((20, 15, last), (1.0, 1.2, 1.5))
    ball = sphere(grid.voxel_size, 3.5)
    centred = pad(ball, grid.shape).roll([-(n // 2) for n in ball.shape], dims=(0, 1, 2))
    torch.testing.assert_close(even_spectrum(ball, grid).to(torch.complex128), rfftn(centred), rtol=0, atol=1e-14)


def test_reach_is_the_distance_of_the_furthest_voxel():
    ball = torch.zeros(5, 7, 3)
    ball[2, 3, 1] = ball[0, 3, 2] = 1
    assert reach(ball, (1.0, 1.2, 1.5)) == pytest.approx(2.5)


@pytest.mark.parametrize(("voxel_size", "radius"), [((1.0, 1.2, 4.5), 2.5), ((1.0, 1.0, 1.0), 0.55), ((0.8, 3.0, 0.9), 1.6)])
def test_a_sphere_that_hardly_reaches_the_next_voxel_is_balanced_without_it(voxel_size, radius):
    weights = sphere(voxel_size, radius)
    assert weights.sum() == pytest.approx(1)
    assert all(weights.isfinite().flatten())
    for axis, size in enumerate(voxel_size):
        places = (torch.arange(weights.shape[axis]) - weights.shape[axis] // 2) * size
        second = (weights.movedim(axis, 0).flatten(1).sum(1) * places.square()).sum()
        assert float(second) == pytest.approx(radius**2 / 5 if radius > 0.6 * size else 0)


def test_sphere_that_does_not_fit_is_refused():
    with pytest.raises(GeometryError, match="does not fit"):
        SMV(GRID, 20.0)
    with pytest.raises(GeometryError, match="must be positive"):
        SMV(GRID, 0.0)


def test_weights():
    mask, noise = _mask(GRID), _noise(GRID)
    noise[3, 3, 3] = 0
    weights = Weighting(mask, noise).weights
    assert weights[3, 3, 3] == 0
    assert weights[~mask].abs().max() == 0
    torch.testing.assert_close(Weighting(mask, 7 * noise).weights, weights)
    torch.testing.assert_close(Weighting(mask, noise, limit=1e9).weights[mask].mean(), torch.tensor(1.0))
    torch.testing.assert_close(Weighting(mask).weights, mask.float())


@pytest.mark.parametrize("least", [1e-9, 1e-42])
def test_a_voxel_of_no_noise_to_speak_of_does_not_count_for_all_others(least):
    mask, noise = _mask(GRID), _noise(GRID)
    weights = Weighting(mask, noise).weights
    noise[4, 4, 4] = least
    spoilt = Weighting(mask, noise).weights
    assert spoilt[4, 4, 4] == 3
    others = mask.clone()
    others[4, 4, 4] = False
    torch.testing.assert_close(spoilt[others], weights[others], rtol=0.1, atol=0)


@pytest.mark.parametrize("value", [0.0, torch.inf, torch.nan])
def test_where_no_noise_is_known_all_voxels_count_alike(value):
    mask = _mask(GRID)
    torch.testing.assert_close(Weighting(mask, torch.full(GRID.shape, value)).weights, mask.float())


def test_half_spectrum_of_the_dipole_is_the_whole_operator():
    x = torch.randn(GRID.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    dipole = Dipole(GRID).to(x)
    torch.testing.assert_close(rfftn(dipole(x)), rfftn(x) * dipole.kernel)
    torch.testing.assert_close(irfftn(rfftn(x), GRID.shape), x)
