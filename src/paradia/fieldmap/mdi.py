"""Field from the phase between echoes, integrated over echoes and coils at once."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from paradia.errors import GeometryError, InputError, MetadataError
from paradia.fft import Box, bounding_box, check_mask
from paradia.fieldmap._echoes import wrap
from paradia.fieldmap._noise import MISFIT, from_residuals, spare
from paradia.fieldmap._offset import ALTERNATION
from paradia.fieldmap._reliable import check_limit, reliable
from paradia.grid import Grid
from paradia.scan import Scan
from paradia.solvers.continuation import continue_phase
from paradia.solvers.pieces import medians
from paradia.sources.inside import check_numbers
from paradia.types import CoilImages, Echoes, FieldFit, Mask

CITE = "10.3389/fnins.2025.1522227"

SPACING = 2e-5
"""Echo spacings that differ by less than this count as equal, s."""

CHUNK = 1 << 20
"""Voxels times coils times echoes that are worked on at a time."""

STEPS = 2
"""Gauss–Newton steps whenever a longer baseline joins."""

TERMS = ("phase", "linearity", "magnitude")
"""How the steps of the phase difference are weighed."""


class _Pairs(NamedTuple):
    """Products of echo pairs, summed over coils; voxels of the mask in order."""

    short: Tensor
    """Unweighted sum over the pairs of the shortest baseline: the published estimate (voxel)."""
    lags: Tensor
    """Weighted sums by baseline (lag, voxel), the first for one echo spacing."""
    power: Tensor
    """Sum of squares over coils (echo, voxel)."""
    alternation: Tensor
    """Products of pairs that start at odd echoes with the conjugates of those at even echoes (voxel)."""


def mdi(
    mask: Mask,
    grid: Grid,
    scan: Scan,
    coil_images: CoilImages | None = None,
    phase: Echoes | None = None,
    magnitude: Echoes | None = None,
    *,
    bipolar: bool | None = None,
    noise_limit: float = 4.0,
) -> FieldFit:
    r"""Find the field from the phase differences of echoes, summed over all coils, which need not be combined.

    The published estimate is the least-squares ratio between neighbouring echoes,
    :math:`\arg\sum_{e,c}\bar S_{e,c}S_{e+1,c} / \Delta t`. Whatever the coils add cancels in each product. It is unwrapped in
    space, once, and refined by all longer baselines: :math:`\omega` maximises
    :math:`\sum_{e<e'} d_e d_{e'}\,\Re\big(e^{-i\omega(t_{e'}-t_e)}\sum_c\bar S_{e,c}S_{e',c}\big)` with :math:`d_e` the root sum of
    squares.

    Parameters
    ----------
    mask
        Voxels to fit.
    grid
        Its geometry.
    scan
        Echo times, evenly spaced, and field strength.
    coil_images
        Complex images, shape (echo, coil, x, y, z), at least two echoes; used when they are there.
    phase
        Wrapped phase of combined echoes, rad, shape (echo, x, y, z); used where there are no coil images.
    magnitude
        Magnitude of combined echoes; without it all count alike.
    bipolar
        Whether every other echo was read backwards; told from the data when not given. Odd and even echoes are then compared among
        themselves only, for which at least three are needed.
    noise_limit
        Multiple of the median noise above which voxels at the edge are left out of the mask; 3 to 10, infinite for none.

    Returns
    -------
    FieldFit
        Total field and its standard deviation, ppm; phase at echo time zero of the sum of all coils, rad; and the mask less what
        the echoes do not tell.

    Raises
    ------
    MetadataError
        Echo times that are unevenly spaced, too few, or not as many as echoes.
    GeometryError, MaskError, NonFiniteError
        Shapes or mask that do not fit, or NaN or Inf inside the mask.
    InputError
        Neither coil images nor phase, no signal in the mask, or a limit that is not positive.

    Notes
    -----
    Published is the estimate from neighbouring echoes, whose noise nearly cancels but for the first and the last echo. The longer
    baselines are this project's: they join one after the other, each within reach of the estimate so far, and the sum over all
    of them is the maximum of the likelihood for a phase offset that is free in every voxel and coil. Its noise, a tenth to a fifth
    below the published estimate's, is the Cramér–Rao bound of that; methods that know the offset to be smooth have half of it, but
    need combined coils.

    The estimate wraps at half a turn per echo spacing (per two, where bipolar). The field is unwrapped in space, and each piece of
    the mask is shifted so that its median lies nearest to zero.

    The noise is told from the scatter of the echoes about the fit, over coils that are taken as equally noisy and independent; with
    two echoes from the finest detail of the field.

    References
    ----------
    Ye Y, et al. Proc ISMRM 2019;27:4392, for the estimate from neighbouring echoes.
    Zhou Y, et al. Front Neurosci 2025;19:1522227, where it is part of a pipeline. https://doi.org/10.3389/fnins.2025.1522227
    """
    check_limit(noise_limit)
    images = _images(coil_images, phase, magnitude)
    spacing = _check(images, mask, grid, scan)
    box = bounding_box(mask)
    inside = mask[box]
    samples = images[(..., *box)][..., inside]
    check_numbers(torch.ones_like(samples[0, 0], dtype=torch.bool), images=samples.sum((0, 1)))
    if not samples.any():
        raise InputError("the images are zero in all of the mask. Check that mask and images are of one scan.")
    pairs = _pairs(samples, ((*range(len(samples)),),))
    alternates = _alternates(pairs, inside, len(samples)) if bipolar is None else bipolar
    groups: tuple[tuple[int, ...], ...] = ((*range(len(samples)),),)
    if alternates:
        if len(samples) < 3:
            raise MetadataError(
                f"a bipolar readout of {len(samples)} echoes tells no field; at least three are needed. Set bipolar to false."
            )
        groups = (*(tuple(range(start, len(samples), 2)) for start in (0, 1)),)
        pairs = _pairs(samples, groups)
    turn = _refine(_unwrapped(pairs, inside, 2 if alternates else 1), pairs.lags)
    sigma = _noise(samples, pairs, turn, inside, groups)
    return _finish(samples, turn / spacing, sigma, mask, box, scan, noise_limit)


def _images(coil_images: Tensor | None, phase: Tensor | None, magnitude: Tensor | None) -> Tensor:
    if coil_images is not None:
        return coil_images
    if phase is None:
        raise InputError("mdi needs coil images, or the phase of combined echoes. Give one of them.")
    if magnitude is None:
        magnitude = torch.ones_like(phase)
    if magnitude.shape != phase.shape:
        raise GeometryError(f"phase {tuple(phase.shape)} and magnitude {tuple(magnitude.shape)} differ in shape. Give images of one scan.")
    return torch.polar(magnitude.to(phase), phase)[:, None]


def _check(images: Tensor, mask: Tensor, grid: Grid, scan: Scan) -> float:
    """Refuse what does not fit, and return the echo spacing."""
    times = scan.echo_times
    if len(images) != len(times):
        raise MetadataError(f"there are {len(images)} echoes and {len(times)} echo times {times}. Give one time for each echo.")
    if tuple(images.shape[-3:]) != grid.shape or tuple(mask.shape) != grid.shape:
        raise GeometryError(f"images {tuple(images.shape[-3:])}, mask {tuple(mask.shape)} and grid {grid.shape} differ in shape.")
    check_mask(mask)
    if len(times) < 2:
        raise MetadataError("mdi compares echoes, and there is one. Take fieldmap linear.")
    steps = [b - a for a, b in pairwise(times)]
    if max(steps) - min(steps) > SPACING:
        raise MetadataError(f"mdi needs evenly spaced echoes, got {times} s. Take fieldmap linear or nonlinear, which do not.")
    return (times[-1] - times[0]) / (len(times) - 1)


def _pairs(samples: Tensor, groups: tuple[tuple[int, ...], ...]) -> _Pairs:
    """Multiply every echo with every later one of its group, a chunk of voxels at a time."""
    echoes, coils = samples.shape[:2]
    parts = []
    for chunk in samples.split(max(1, CHUNK // (echoes * coils)), 2):
        power = chunk.abs().square().sum(1)
        strength = power.sqrt()
        lags = chunk.new_zeros(echoes - 1, chunk.shape[2])
        neighbours = chunk.new_zeros(echoes, chunk.shape[2])
        for group in groups:
            share = power[list(group)].sum(0).clamp_min(torch.finfo(power.dtype).tiny)
            for place, early in enumerate(group):
                for late in group[place + 1 :]:
                    product = (chunk[early].conj() * chunk[late]).sum(0)
                    lags[late - early - 1] += strength[early] * strength[late] / share * product
                    if late == group[place + 1]:
                        neighbours[early] = product
        alternation = neighbours[0::2].sum(0) * neighbours[1::2].sum(0).conj()
        parts.append((neighbours.sum(0), lags, power, alternation))
    short, lags, power, alternation = zip(*parts, strict=True)
    return _Pairs(torch.cat(short), torch.cat(lags, 1), torch.cat(power, 1), torch.cat(alternation))


def _alternates(pairs: _Pairs, mask: Tensor, echoes: int) -> bool:
    """Tell a bipolar readout by a ramp that pairs starting at odd and at even echoes see with opposite signs."""
    if echoes < 3:
        return False
    volume = pairs.alternation.new_zeros(mask.shape)
    volume[mask] = pairs.alternation
    rise = 0.0
    for axis, n in enumerate(mask.shape):  # neighbours are compared as complex numbers: a steep ramp wraps
        step = (volume.narrow(axis, 0, n - 1).conj() * volume.narrow(axis, 1, n - 1)).sum().angle()
        rise += abs(float(step)) / 4 * (n - 1)
    return rise > ALTERNATION


def _unwrapped(pairs: _Pairs, mask: Tensor, lag: int) -> Tensor:
    """Unwrap the shortest baseline in space, rad per echo spacing."""
    turns, magnitude = (pairs.power.new_zeros(mask.shape) for _ in range(2))
    turns[mask], magnitude[mask] = pairs.short.angle() / (2 * torch.pi), pairs.short.abs().sqrt()
    whole, piece = continue_phase(turns, magnitude, mask, terms=TERMS)
    value = turns[mask] + whole
    return 2 * torch.pi / lag * (value - medians(value, piece).round())


def _refine(turn: Tensor, lags: Tensor) -> Tensor:
    """Climb to the top of the sum over baselines, which join from short to long, so that none is a turn off."""
    size = lags.abs()
    for longest in range(1, len(lags) + 1):
        baseline = torch.arange(1, longest + 1, device=turn.device, dtype=turn.dtype)[:, None]
        curvature = (baseline.square() * size[:longest]).sum(0).clamp_min(torch.finfo(turn.dtype).tiny)
        for _ in range(STEPS if longest < len(lags) else 2 * STEPS):
            left = lags[:longest].angle() - baseline * turn
            turn = turn + (baseline * size[:longest] * torch.sin(left)).sum(0) / curvature
    return turn


def _noise(samples: Tensor, pairs: _Pairs, turn: Tensor, mask: Tensor, groups: tuple[tuple[int, ...], ...]) -> Tensor:
    """Return the standard deviation of the phase per echo spacing, rad."""
    information, fitted, phases, weights = torch.zeros_like(turn), [], [], []
    for group in groups:
        number = torch.tensor(group, device=turn.device, dtype=turn.dtype)[:, None]
        power = pairs.power[list(group)]
        centre = (power * number).sum(0) / power.sum(0).clamp_min(1e-30)
        information += (power * (number - centre).square()).sum(0)
        fitted.append(number * turn)
        phases.append(_residuals(samples, power.sqrt(), turn, group))
        weights.append(power)
    left, weight = torch.cat(phases), torch.cat(weights)
    parameters = 1 + len(groups)
    if spare(weight, parameters).any():
        sigma, misfit = from_residuals(left, weight, parameters, torch.cat(fitted))
        spread = sigma * torch.where(misfit > MISFIT, misfit.sqrt(), 1.0)
    else:
        spread = _from_detail(turn, information, mask)
    return torch.minimum(spread / information.clamp_min(1e-30).sqrt(), turn.new_tensor(torch.pi / 3**0.5))


def _residuals(samples: Tensor, strength: Tensor, turn: Tensor, group: tuple[int, ...]) -> Tensor:
    """Return what the fit leaves of the phase of a group's echoes, combined over coils by their fitted amplitudes (echo, voxel)."""
    rotation = [torch.polar(torch.ones_like(turn), -echo * turn) for echo in group]
    amplitude = sum(samples[echo] * (s * r) for echo, s, r in zip(group, strength, rotation, strict=True))
    aligned = torch.stack([(amplitude.conj() * samples[echo]).sum(0) * r for echo, r in zip(group, rotation, strict=True)])
    return aligned.angle()


def _from_detail(turn: Tensor, information: Tensor, mask: Tensor) -> Tensor:
    """Estimate the noise of one coil's signal from the mixed difference of the field along all axes, of which anatomy has little."""
    detail, variance = (torch.zeros(mask.shape, dtype=turn.dtype, device=turn.device) for _ in range(2))
    detail[mask], variance[mask] = turn, 1 / information.clamp_min(1e-30)
    inside = mask.clone()
    inside[mask] = information > 0
    for axis, n in enumerate(mask.shape):
        if n < 2:
            continue
        inside = inside.narrow(axis, 0, n - 1) & inside.narrow(axis, 1, n - 1)
        detail = detail.diff(dim=axis)
        variance = variance.narrow(axis, 0, n - 1) + variance.narrow(axis, 1, n - 1)
    if not inside.any():
        return turn.new_zeros(())
    return (wrap(detail[inside]).abs() / variance[inside].sqrt()).median() / 0.67449


def _finish(samples: Tensor, pace: Tensor, sigma: Tensor, mask: Tensor, box: Box, scan: Scan, noise_limit: float) -> FieldFit:
    """Convert to ppm and put all back on the volume that the mask belongs to; `sigma` is per echo spacing, `pace` per second."""
    spacing = (scan.echo_times[-1] - scan.echo_times[0]) / (len(scan.echo_times) - 1)
    per_ppm = scan.rad_per_ppm(1.0)
    start = torch.zeros_like(samples[0, 0])
    for images, time in zip(samples, scan.echo_times, strict=True):
        start += images.sum(0) * torch.polar(torch.ones_like(pace), -pace * time)
    inside = mask[box]

    def whole(part: Tensor) -> Tensor:
        volume = part.new_zeros(mask.shape)
        volume[mask] = part
        return volume

    noise = whole(sigma / spacing / per_ppm)
    believed = torch.zeros_like(mask)
    believed[box] = reliable(inside, noise[box], noise_limit)
    return FieldFit(whole(pace / per_ppm), noise, whole(start.angle()), believed)
