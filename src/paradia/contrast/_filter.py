"""What both contrasts share: refusals, and what is left of a phase or a field without its slow part."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paradia.errors import GeometryError, NonFiniteError
from paradia.fft import check_mask, crop, fast_shape, irfftn, pad, rfftn
from paradia.grid import Grid
from paradia.sources.knobs import check_positive


def check(grid: Grid, mask: Tensor | None, width: float, **images: Tensor | None) -> None:
    """Refuse what does not fit or holds no numbers.

    Raises
    ------
    GeometryError, MaskError, NonFiniteError, InputError
        Shapes that do not fit the grid, an empty mask, NaN or Inf inside it, a width that is no length.
    """
    check_positive(width=width)
    for name, image in {"mask": mask, **images}.items():
        if image is not None and tuple(image.shape[-3:]) != grid.shape:
            raise GeometryError(f"{name} has shape {tuple(image.shape[-3:])}, but the grid {grid.shape}. Bring both to one space.")
    if mask is not None:
        check_mask(mask)
    for name, image in images.items():
        broken = 0 if image is None else int((~image.isfinite() & (True if mask is None else mask)).sum())
        if broken:
            raise NonFiniteError(f"the {name} is NaN or Inf at {broken} places that count. Take those voxels out of the mask.")


class LowPass:
    """Average over a Hann-shaped neighbourhood: what an image sampled at a given width would show.

    Parameters
    ----------
    grid
        Where the images live.
    width
        Distance between samples that could still hold what passes, mm: half the wavelength at which nothing does.
    like
        A tensor of the device and precision to use.
    """

    def __init__(self, grid: Grid, width: float, like: Tensor) -> None:
        self.shape = grid.shape
        self.padded = fast_shape(grid.shape, [math.ceil(2 * width / d) for d in grid.voxel_size])
        self.windows = []
        for axis, (n, d) in enumerate(zip(self.padded, grid.voxel_size, strict=True)):
            frequency = (torch.fft.rfftfreq if axis == 2 else torch.fft.fftfreq)(n, d, dtype=torch.float64).abs()
            window = torch.cos(math.pi * width * frequency).square().where(2 * width * frequency < 1, 0.0)
            self.windows.append(window.to(like).reshape([-1 if a == axis else 1 for a in range(3)]))

    def __call__(self, image: Tensor) -> Tensor:
        """Filter; beyond the volume all is zero."""
        spectrum = rfftn(pad(image, self.padded))
        for window in self.windows:
            spectrum *= window
        return crop(irfftn(spectrum, self.padded), self.shape)

    def without_slow_phase(self, magnitude: Tensor, phase: Tensor) -> Tensor:
        """Return the phase over that of the low-passed complex image: the homodyne filter, for which wraps are no matter."""
        real, imaginary = magnitude * torch.cos(phase), magnitude * torch.sin(phase)
        slow_real, slow_imaginary = self(real), self(imaginary)
        return torch.atan2(imaginary * slow_real - real * slow_imaginary, real * slow_real + imaginary * slow_imaginary)

    def without_slow_part(self, image: Tensor, weight: Tensor) -> Tensor:
        """Return an image less its weighted mean around every voxel."""
        return image - self.mean(image, weight)

    def mean(self, image: Tensor, weight: Tensor) -> Tensor:
        """Return the weighted mean around every voxel."""
        total = self(weight)
        floor = 1e-6 * float(weight.max()) + torch.finfo(weight.dtype).tiny
        return torch.where(total > floor, self(image * weight) / total.clamp_min(floor), 0.0)


def numbers(*images: Tensor) -> list[Tensor]:
    """Return images that are zero where any of them is no number: what is not known lends nothing to its surroundings."""
    good = torch.stack([image.isfinite() for image in images]).all(0)
    return [torch.where(good, image, 0.0) for image in images]


def clean(image: Tensor, mask: Tensor | None) -> Tensor:
    """Return an image that is zero where it does not count."""
    return image if mask is None else torch.where(mask, image, 0.0)
