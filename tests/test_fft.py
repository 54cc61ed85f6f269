import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paradia.errors import GeometryError, MaskError
from paradia.fft import Window, bounding_box, crop, each, fast_shape, fast_size, half_mean, irfftn, length, pad, rfftn, times
from paradia.grid import Grid

sizes = st.tuples(*[st.integers(1, 9)] * 3)


@given(st.integers(2, 2000))
def test_fast_sizes_are_even_smooth_and_smallest(n):
    def good(m):
        for prime in (2, 3, 5):
            while m % prime == 0:
                m //= prime
        return m == 1

    size = fast_size(n)
    assert size >= n
    assert size % 2 == 0
    assert good(size)
    assert not any(good(m) for m in range(n + n % 2, size, 2))


def test_margins_are_added():
    assert fast_shape((7, 13, 30), (0, 2, 1)) == (8, 16, 32)


@settings(deadline=None)
@given(sizes, sizes)
def test_crop_is_the_adjoint_of_pad(shape, more):
    large = [a + b for a, b in zip(shape, more, strict=True)]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, *shape, generator=generator)
    y = torch.randn(2, *large, generator=generator)
    torch.testing.assert_close((pad(x, large) * y).sum(), (x * crop(y, shape)).sum())
    torch.testing.assert_close(crop(pad(x, large), shape), x)


@settings(deadline=None)
@given(sizes)
def test_transforms_invert_and_means_agree(shape):
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(irfftn(rfftn(x), shape), x)
    whole = torch.fft.fftn(x[0]).abs()
    torch.testing.assert_close(half_mean(rfftn(x[0]).abs(), shape[-1]), whole.mean())


@settings(deadline=None)
@given(sizes, st.booleans())
def test_the_inverse_is_that_of_torch_whatever_the_spectrum_and_its_strides(shape, turned):
    generator = torch.Generator().manual_seed(1)
    half = (*shape[:2], shape[2] // 2 + 1)
    spectrum = torch.randn(2, 1, *half, generator=generator, dtype=torch.complex128)
    if turned:
        spectrum = spectrum.permute(0, 4, 2, 3, 1).contiguous().permute(0, 4, 2, 3, 1)
    torch.testing.assert_close(irfftn(spectrum, shape), torch.fft.irfftn(spectrum, s=shape, dim=(-3, -2, -1)))
    torch.testing.assert_close(irfftn(spectrum[1, 0], shape), torch.fft.irfftn(spectrum[1, 0], s=shape))


def test_gradients_go_through_the_inverse():
    spectrum = torch.randn(2, 3, 4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.complex128, requires_grad=True)
    torch.autograd.gradcheck(lambda half: irfftn(half, (3, 4, 5)), spectrum)


def test_box_holds_the_mask():
    mask = torch.zeros(9, 8, 7, dtype=torch.bool)
    mask[3:5, 1, 6] = True
    assert bounding_box(mask) == (slice(3, 5), slice(1, 2), slice(6, 7))
    assert bounding_box(mask, 2) == (slice(1, 7), slice(0, 4), slice(4, 7))


def test_empty_mask_is_refused():
    with pytest.raises(MaskError, match="no voxel is inside"):
        bounding_box(torch.zeros(4, 5, 6, dtype=torch.bool))


def test_window_takes_and_puts_back(grid, generator):
    mask = torch.zeros(grid.shape, dtype=torch.bool)
    mask[5:20, 4:20, 8:31] = torch.rand(15, 16, 23, generator=generator) > 0.3
    image = torch.randn(2, *grid.shape, generator=generator)
    window = Window.around(mask, grid, 6.0, image=image)
    taken = window.take(image * mask)
    torch.testing.assert_close(window.put(taken), image * mask)
    assert taken.shape[1:] == window.mask.shape == window.grid.shape
    assert window.grid.voxel_size == grid.voxel_size
    assert window.grid.b0_dir == grid.b0_dir
    free = [
        (n - int(window.mask.amax(dim=[a for a in range(3) if a != i]).sum())) * d
        for i, (n, d) in enumerate(zip(window.grid.shape, grid.voxel_size, strict=True))
    ]
    assert min(free) >= 6.0
    torch.testing.assert_close(window.put(window.mask.float()).bool(), mask)


@pytest.mark.parametrize("margin", [0.0, 1.0, 5.0, 7.3, 12.0])
def test_window_margins_are_millimetres(margin):
    voxel_size = (0.6, 0.9, 2.0)
    mask = torch.zeros(20, 17, 12, dtype=torch.bool)
    mask[1:19, 3:16, 2:12] = True
    shape = Window.around(mask, Grid(mask.shape, voxel_size), margin).grid.shape
    for size, inside, d in zip(shape, (18, 13, 10), voxel_size, strict=True):
        assert size == fast_size(next(n for n in range(inside, 99) if (n - inside) * d >= margin))


def test_window_names_what_does_not_fit(grid):
    mask = torch.ones(grid.shape, dtype=torch.bool)
    with pytest.raises(GeometryError, match=r"mask has shape \(36, 27, 31\)"):
        Window.around(mask[..., 1:], grid)
    with pytest.raises(GeometryError, match=r"noise has shape \(35, 27, 32\), but the grid \(36, 27, 32\)"):
        Window.around(mask, grid, noise=torch.zeros(35, 27, 32))


def test_each_volume_is_on_its_own(generator):
    images = torch.randn(2, 3, 4, 5, 6, generator=generator)
    result = each(lambda x: x / x.norm(), images)
    assert result.shape == images.shape
    torch.testing.assert_close(result[1, 2], images[1, 2] / images[1, 2].norm())
    assert each(lambda x: x + 1, images[0, 0]).ndim == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_spectrum_times_a_kernel_is_their_product_and_lets_gradients_through(dtype):
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(2, 5, 6, 7, generator=generator, dtype=dtype, requires_grad=True)
    kernel = torch.randn(5, 6, 4, generator=generator, dtype=dtype)
    spectrum = rfftn(images.detach())
    before = spectrum.clone()
    assert torch.equal(times(spectrum, kernel), spectrum * kernel)
    assert torch.equal(spectrum, before)
    (slope,) = torch.autograd.grad(times(rfftn(images), kernel).abs().square().sum(), images)
    (wanted,) = torch.autograd.grad((rfftn(images) * kernel).abs().square().sum(), images)
    torch.testing.assert_close(slope, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
def test_the_length_of_numbers_is_that_of_their_parts(dtype):
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(4), dtype=dtype)
    assert length(x) == pytest.approx(float(torch.linalg.vector_norm(x)))
    assert length(x[..., 1]) == pytest.approx(float(torch.linalg.vector_norm(x[..., 1])))  # with gaps between them
