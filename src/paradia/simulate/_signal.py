"""Signal equations, and what a scanner makes of a signal: all scans of all heads share them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from paradia.epg import cpmg
from paradia.scan import Scan

CHUNK = 1 << 16
"""Voxels whose echo trains are computed at a time."""


def change_across(field: Tensor) -> list[Tensor]:
    """Return by how much the field changes across a voxel along each axis."""
    return [torch.gradient(field, dim=axis)[0] if field.shape[axis] > 1 else torch.zeros_like(field) for axis in range(3)]


def gradient_echo(
    magnitude0: Tensor,
    r2star: Tensor,
    field: Tensor,
    offset: Tensor,
    scan: Scan,
    n: int,
    *,
    across: Sequence[Tensor] = (),
    extra: Tensor | float = 0.0,
) -> Tensor:
    """Return one echo: decay, phase and whatever phase is extra, and dephasing where the field's change across voxels is given."""
    echo_time = scan.echo_times[n]
    magnitude = magnitude0 * torch.exp(-echo_time * r2star)
    for change in across:
        magnitude = magnitude * torch.sinc(scan.hz_per_ppm * echo_time * change)
    phase = offset + scan.rad_per_ppm(echo_time) * field + extra
    return torch.polar(magnitude.abs(), torch.where(magnitude < 0, phase + math.pi, phase))


def spoiled(density: Tensor, r1: Tensor, angle: Tensor, tr: float) -> Tensor:
    """Return the steady state of a spoiled gradient echo at echo time zero, for flip angles in rad."""
    left = torch.exp(-tr * r1)
    return density * torch.sin(angle) * (1 - left) / (1 - torch.cos(angle) * left).clamp_min(1e-6)


def inverted(density: Tensor, r1: Tensor, inversion_time: float, tr: float) -> Tensor:
    """Return the longitudinal magnetisation at a time after ideal inversions that come once a repetition."""
    return density * (1 - 2 * torch.exp(-inversion_time * r1) / (1 + torch.exp(-tr * r1)))


def spin_echoes(density: Tensor, r1: Tensor, r2: Tensor, transmit: Tensor, refocusing: float, scan: Scan, tr: float) -> Tensor:
    """Return the magnitudes of a train of spin echoes, (echo, x, y, z); nothing is left along the field when it ends."""
    count, spacing = len(scan.echo_times), scan.echo_times[0]
    images = density.new_zeros((count, density.numel()))
    seen = (density > 1e-4).flatten().nonzero()[:, 0]
    parts = [image.flatten() for image in (density, r1, r2, transmit)]
    for index in seen.split(CHUNK):
        m0, slow, fast, bias = (part[index] for part in parts)
        begun = m0 * torch.sin(bias * (math.pi / 2)) * (1 - torch.exp(-(tr - scan.echo_times[-1]) * slow))
        images[:, index] = begun * cpmg(fast, bias * math.radians(refocusing), slow, spacing=spacing, echoes=count)
    return images.unflatten(1, density.shape)


def complex_noise(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Draw complex noise whose real and imaginary parts have a standard deviation of one."""
    return torch.complex(torch.randn(tuple(shape), generator=generator), torch.randn(tuple(shape), generator=generator))


def encoded(image: Tensor, shape: Sequence[int], moved: Sequence[float] = (0.0, 0.0, 0.0), kept: float = 1.0) -> Tensor:
    """Sample the middle of a complex image's k-space and bring it back.

    Parameters
    ----------
    image
        Last axes x, y, z.
    shape
        Samples along each axis, no more than voxels.  The images then have voxels that fill the same field of view from edge to edge.
    moved
        How far the object moves, in voxels of the image.
    kept
        Share of the samples along each axis that are not set to zero.

    Returns
    -------
    Tensor
        Complex, of the shape asked for; a constant stays what it is.
    """
    for axis, (m, far) in enumerate(zip(shape, moved, strict=True), start=-3):
        n = image.shape[axis]
        if m == n and far == 0 and kept == 1:
            continue
        waves = torch.fft.fftfreq(m, 1 / m, device=image.device).round()
        samples = torch.fft.fft(image, dim=axis).index_select(axis, waves.long() % n)
        turn = math.pi * waves * (1 / m - 1 / n) - 2 * math.pi * waves * far / n
        factor = torch.polar(torch.full_like(turn, m / n), turn)
        factor[waves.abs() > kept * m / 2] = 0
        if m % 2 == 0 and turn.any():  # the highest frequency stands for both signs
            factor[m // 2] = factor[m // 2].real.clone()
        image = torch.fft.ifft(samples * factor.view([-1 if a == axis else 1 for a in range(-3, 0)]), dim=axis)
    return image


def averaged(volume: Tensor, shape: Sequence[int]) -> Tensor:
    """Average a real volume over larger voxels that fill the same field of view, each by how much it overlaps."""
    for axis, m in enumerate(shape, start=-3):
        n = volume.shape[axis]
        if m == n:
            continue
        fine, coarse = torch.arange(n + 1, dtype=torch.float64) / n, torch.arange(m + 1, dtype=torch.float64) / m
        overlap = torch.minimum(fine[1:], coarse[1:, None]) - torch.maximum(fine[:-1], coarse[:-1, None])
        weights = (overlap.clamp_min(0) * m).to(volume)
        volume = torch.tensordot(volume, weights, dims=([axis], [1])).movedim(-1, axis)
    return volume.contiguous()
