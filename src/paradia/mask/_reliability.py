"""How far the phase of each voxel can be trusted."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paradia.errors import GeometryError, InputError, MaskError
from paradia.grid import Grid
from paradia.scan import Scan
from paradia.sources.knobs import check_not_negative


def checked(phase: Tensor, magnitude: Tensor, grid: Grid, scan: Scan) -> tuple[Tensor, Tensor]:
    """Return phase and magnitude with zeros where either is not finite.

    Raises
    ------
    GeometryError
        Phase, magnitude, grid and echo times do not belong together.
    MaskError
        The first echo, by which voxels are judged, has no signal.
    """
    expected = (len(scan.echo_times), *grid.shape)
    if tuple(phase.shape) != expected or tuple(magnitude.shape) != expected:
        raise GeometryError(
            f"phase has shape {tuple(phase.shape)} and magnitude {tuple(magnitude.shape)}, expected {expected}: echoes, x, y, z. "
            "Give the echo times and the geometry of these images."
        )
    good = torch.isfinite(phase) & torch.isfinite(magnitude)
    phase, magnitude = torch.where(good, phase, 0.0), torch.where(good, magnitude, 0.0)
    if not bool((magnitude[0] > 0).any()):
        raise MaskError("the magnitude of the first echo is zero or not finite everywhere. Check the magnitude images.")
    return phase, magnitude


def check_knobs(threshold: float, **radii: float) -> None:
    """Refuse a threshold that no weight reaches, and radii that are no lengths.

    Raises
    ------
    InputError
        A knob out of its range.
    """
    if not 0 <= threshold < 1:
        raise InputError(f"threshold must be at least 0, which has it found, and below 1, got {threshold}.")
    check_not_negative(**radii)


def reliability(phase: Tensor, magnitude: Tensor, scan: Scan) -> Tensor:
    """Average the weights of the edges to the six neighbours: coherence of phase, of its gradient over echoes, and of magnitude."""
    total = torch.zeros_like(phase[0])
    count = torch.zeros_like(total)
    for axis in range(3):
        n = total.shape[axis]
        if n < 2:
            continue
        steps = _wrapped(phase[:2].diff(dim=axis + 1))
        weight = 0.1 + 0.9 * (1 - steps[0].abs() / math.pi)
        if len(phase) > 1:
            ratio = scan.echo_times[0] / scan.echo_times[1]
            weight = weight * (0.1 + 0.9 * (1 - (steps[0] - ratio * steps[1]).abs()).clamp(min=0))
        a, b = magnitude[0].narrow(axis, 0, n - 1), magnitude[0].narrow(axis, 1, n - 1)
        alike = (torch.minimum(a, b) / torch.maximum(a, b).clamp(min=1e-30)).square()
        weight = torch.where((a > 0) & (b > 0), weight * (0.1 + 0.9 * alike), 0.0)
        for start in (0, 1):
            total.narrow(axis, start, n - 1).add_(weight)
            count.narrow(axis, start, n - 1).add_(1)
    return total / count.clamp(min=1)


def bridged(magnitude: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Give planes of an echo without any signal the values of the nearest plane with some: a lost slice is no end of the head.

    Only planes between others with signal are meant. The other images, such as the phase, get theirs from the same planes.
    """
    images = (magnitude, *others)
    for echo in range(len(magnitude)):
        for axis in range(3):
            there = (images[0][echo] > 0).movedim(axis, 0).flatten(1).any(1).nonzero().flatten()
            if len(there) == 0 or len(there) == int(there[-1] - there[0]) + 1:
                continue
            place = torch.arange(magnitude.shape[axis + 1], device=magnitude.device)
            nearest = there[(place[:, None] - there).abs().argmin(1)]
            source = torch.where((place > there[0]) & (place < there[-1]), nearest, place)
            at = (torch.tensor(echo, device=magnitude.device),)
            images = tuple(image.index_put(at, image[echo].index_select(axis, source)) for image in images)
    return images


def otsu(values: Tensor, bins: int = 256) -> float:
    """Return the threshold that parts values into the two classes that differ most."""
    low, high = float(values.min()), float(values.max())
    if not high > low:
        return low
    counts = torch.histc(values.float(), bins, low, high).double()
    centres = low + (torch.arange(bins, dtype=torch.float64, device=values.device) + 0.5) * (high - low) / bins
    below = counts.cumsum(0)
    above = below[-1] - below
    mean_below = (counts * centres).cumsum(0) / below.clamp(min=1)
    mean_above = ((counts * centres).sum() - (counts * centres).cumsum(0)) / above.clamp(min=1)
    between = below * above * (mean_below - mean_above).square()
    return float(centres[int(between.argmax())]) + 0.5 * (high - low) / bins


def nonempty(mask: Tensor, what: str, advice: str) -> Tensor:
    """Return the mask unless there is nothing in it.

    Raises
    ------
    MaskError
        The mask is empty.
    """
    if not bool(mask.any()):
        raise MaskError(f"{what} found no voxel to keep. {advice}")
    return mask


def _wrapped(step: Tensor) -> Tensor:
    return step - 2 * math.pi * torch.round(step / (2 * math.pi))
