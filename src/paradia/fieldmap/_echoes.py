"""What both field fits share: echoes brought into line, the offset, the noise."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from paradia.errors import GeometryError, InputError, MaskError, MetadataError, NonFiniteError
from paradia.fft import Box, bounding_box
from paradia.fieldmap._repair import repair
from paradia.fieldmap._smooth import polynomial, smooth_phase, wrap
from paradia.grid import Grid
from paradia.scan import Scan
from paradia.types import FieldFit

Offset: TypeAlias = Literal["smooth", "voxel", "none"]

DEGREE = 5
"""Degree of the polynomial under the smooth offset."""

DETECTABLE = 0.04
"""Alternating phase, rad, root mean square over the mask, from which readouts count as bipolar."""


class Prepared(NamedTuple):
    """Echoes as the fits need them, at the voxels of the mask only."""

    phase: Tensor
    """Phase less the offset, rad, shape (echo, voxel)."""
    power: Tensor
    """Squared magnitude, same shape."""
    slope: Tensor
    """Phase that one ppm gathers until each echo, rad."""
    field: Tensor
    """Field, ppm, whose whole turns are settled."""
    offset: Tensor
    """Phase at echo time zero, rad."""
    free: bool
    """Whether the offset is fitted in every voxel along with the field."""
    box: Box
    """Box around the mask."""
    inside: Tensor
    """Mask in the box."""


def prepare(
    unwrapped: Tensor, magnitude: Tensor, mask: Tensor, grid: Grid, scan: Scan, offset: Offset, scale: float, bipolar: bool | None
) -> Prepared:
    """Bring the echoes into line, take off the offset and settle every voxel's whole turns."""
    _check(unwrapped, magnitude, mask, grid, scan, offset, scale, bipolar)
    box = bounding_box(mask)
    inside = mask[box]
    phase = unwrapped[:, *box][:, inside]
    strength = magnitude[:, *box][:, inside]
    if not math.isfinite(float(phase.sum()) + float(strength.sum())):
        broken = int((~(torch.isfinite(phase) & torch.isfinite(strength))).sum())
        raise NonFiniteError(f"phase or magnitude is NaN or Inf at {broken} places inside the mask. Take those voxels out of the mask.")
    power = (strength / strength.mean().clamp_min(torch.finfo(strength.dtype).tiny)).square()
    slope = torch.tensor([scan.rad_per_ppm(t) for t in scan.echo_times], dtype=phase.dtype, device=phase.device)
    if len(scan.echo_times) == 1:
        field = phase[0] / slope[0]
        return Prepared(phase, power, slope, field, torch.zeros_like(field), False, box, inside)
    phase = consistent(phase, slope)
    if bipolar is not False and len(scan.echo_times) > 2:
        phase = consistent(_without_alternation(phase, power, slope, inside, grid, scale, bipolar), slope)
    field, intercept, certainty = line(phase, power, slope)
    if offset == "voxel":
        return Prepared(phase - intercept, power, slope, field, intercept, True, box, inside)
    estimate = torch.zeros_like(field) if offset == "none" else smooth_phase(intercept, certainty, inside, grid, scale, DEGREE)
    phase = phase - estimate
    field = through_origin(phase, power, slope)
    sigma = noise_level(wrap(phase - slope[:, None] * field), power, 1)
    power = trusted(power, sigma)
    field = repair(through_origin(phase, power, slope), phase, power, slope, sigma, inside)
    return Prepared(phase, power, slope, field, estimate, False, box, inside)


def consistent(phase: Tensor, slope: Tensor) -> Tensor:
    """Add whole turns so that all echoes lie on one line in time.

    The two neighbouring echoes closest in time give the slope; its global whole turns are those of the smallest median field.
    """
    spans = slope[1:] - slope[:-1]
    first = int((spans < 1.02 * spans.min()).nonzero()[0])  # the earliest of equals
    step = phase[first + 1] - phase[first]
    step = step - 2 * math.pi * (step.median() / (2 * math.pi)).round()
    rate = step / spans[first]
    result = phase.clone()
    order = [(e, e - 1) for e in range(first + 1, len(slope))] + [(e, e + 1) for e in range(first - 1, -1, -1)]
    for echo, before in order:
        expected = result[before] + rate * (slope[echo] - slope[before])
        result[echo] = expected + wrap(phase[echo] - expected)
    return result


def line(phase: Tensor, power: Tensor, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fit slope and intercept, and return them with the intercept's inverse variance."""
    tiny = torch.finfo(phase.dtype).tiny
    total = power.sum(0).clamp_min(tiny)
    centre = (power * slope[:, None]).sum(0) / total
    mean = (power * phase).sum(0) / total
    lever = slope[:, None] - centre
    spread = (power * lever.square()).sum(0).clamp_min(tiny)
    field = (power * lever * (phase - mean)).sum(0) / spread
    return field, mean - field * centre, 1 / (1 / total + centre.square() / spread)


def through_origin(phase: Tensor, power: Tensor, slope: Tensor) -> Tensor:
    """Fit the slope of a line through zero."""
    information = (power * slope[:, None].square()).sum(0).clamp_min(torch.finfo(phase.dtype).tiny)
    return (power * slope[:, None] * phase).sum(0) / information


def noise_level(residual: Tensor, power: Tensor, parameters: int) -> Tensor:
    """Estimate the noise of the real and imaginary part from what a fit left, by its median."""
    freedom = residual.shape[0] - parameters
    squares = (power * residual.square()).sum(0)
    return (squares.median() / (freedom * (1 - 2 / (9 * freedom)) ** 3)).sqrt()


def trusted(power: Tensor, sigma: Tensor) -> Tensor:
    """Take from the squared magnitude what noise adds to it, so that an echo that is all noise does not pull."""
    return (power - 2 * sigma.square()).maximum(0.05 * power)


def finish(data: Prepared, field: Tensor, residual: Tensor, shape: torch.Size) -> FieldFit:
    """Give the maps, with the standard deviation that the Fisher information leaves."""
    echoes = len(data.slope)
    parameters = 2 if data.free else 1
    sigma = noise_level(residual, data.power, parameters) if echoes > parameters else _noise_between_voxels(data)
    signal = trusted(data.power, sigma) if data.free else data.power
    slope = data.slope[:, None]
    information = (signal * slope.square()).sum(0)
    if data.free:
        information = information - (signal * slope).sum(0).square() / signal.sum(0).clamp_min(torch.finfo(signal.dtype).tiny)
    span = (data.slope[1:] - data.slope[:-1]).min() if echoes > 1 else data.slope[0]
    unknown = 2 * math.pi / span / math.sqrt(12)  # a field known only modulo one turn
    noise = (sigma / information.clamp_min(torch.finfo(signal.dtype).tiny).sqrt()).minimum(unknown)
    maps = []
    for value in (field, noise, wrap(data.offset)):
        full = torch.zeros(shape, dtype=field.dtype, device=field.device)
        full[data.box][data.inside] = value
        maps.append(full)
    return FieldFit(*maps)


def _noise_between_voxels(data: Prepared) -> Tensor:
    """Estimate the noise from second differences of the complex signal along each axis."""
    signal = torch.zeros(data.inside.shape, dtype=torch.complex64, device=data.phase.device)
    signal[data.inside] = torch.polar(data.power[-1].sqrt(), data.phase[-1] + data.offset).to(signal.dtype)
    levels = []
    for axis in range(3):
        n = data.inside.shape[axis]
        if n < 3:
            continue
        below, here, above = (signal.narrow(axis, i, n - 2) for i in range(3))
        whole = data.inside.narrow(axis, 0, n - 2) & data.inside.narrow(axis, 1, n - 2) & data.inside.narrow(axis, 2, n - 2)
        bend = (below * above.conj()).sgn()  # turn the neighbours onto the middle, so that a phase ramp leaves no difference
        turn = torch.polar(torch.ones_like(bend.real), bend.angle() / 2)
        rest = (here - 0.5 * (below * turn.conj() + above * turn))[whole]
        if rest.numel():
            sides = torch.cat((rest.real, rest.imag))
            levels.append(1.4826 * sides.abs().median() / math.sqrt(1.5))
    return torch.stack(levels).min() if levels else data.power.new_zeros(())


def _without_alternation(
    phase: Tensor, power: Tensor, slope: Tensor, inside: Tensor, grid: Grid, scale: float, bipolar: bool | None
) -> Tensor:
    """Take off the phase that alternating readouts add to even and odd echoes with opposite sign."""
    share = (slope[1] - slope[0]) / (slope[2] - slope[0])
    bend = 2 * (phase[1] - (1 - share) * phase[0] - share * phase[2])
    weight = 1 / (1 / power[:3].clamp_min(torch.finfo(power.dtype).tiny)).sum(0)
    agreement = torch.hypot((weight * torch.cos(bend)).sum(), (weight * torch.sin(bend)).sum()) / weight.sum()
    if bipolar is None and float(agreement) > math.exp(-0.5 * (4 * DETECTABLE) ** 2) and float((weight * torch.cos(bend)).sum()) > 0:
        return phase  # too little phase is there for any of it to alternate
    ramp = _ramp(bend, weight, inside)
    rest = wrap(bend - ramp)
    middle = torch.atan2((weight * torch.sin(rest)).sum(), (weight * torch.cos(rest)).sum())
    rest = wrap(rest - middle)
    if bipolar is None:
        plain = ramp + middle + polynomial(rest, weight, inside, 1)
        strength = ((weight * plain.square()).sum() / weight.sum()).sqrt() / 4
        if float(strength) < DETECTABLE:
            return phase
    smooth = ramp + middle + smooth_phase(rest, weight, inside, grid, 2 * scale, 2)
    sign = torch.tensor([1.0 if echo % 2 == 0 else -1.0 for echo in range(len(slope))], device=phase.device, dtype=phase.dtype)
    return phase + sign[:, None] * (smooth / 4)


def _ramp(value: Tensor, weight: Tensor, inside: Tensor) -> Tensor:
    """Return the linear phase along the axes that steps between neighbours add up to, zero in the middle of the box."""
    volume = torch.zeros(inside.shape, dtype=torch.complex64, device=value.device)
    volume[inside] = torch.polar(weight, value).to(volume.dtype)
    total = torch.zeros(inside.shape, dtype=value.dtype, device=value.device)
    for axis in range(3):
        n = inside.shape[axis]
        if n < 2:
            continue
        step = (volume.narrow(axis, 1, n - 1) * volume.narrow(axis, 0, n - 1).conj()).sum().angle()
        place = torch.arange(n, device=value.device, dtype=value.dtype) - (n - 1) / 2
        total += step * place.view([-1 if a == axis else 1 for a in range(3)])
    return total[inside]


def _check(
    unwrapped: Tensor, magnitude: Tensor, mask: Tensor, grid: Grid, scan: Scan, offset: str, scale: float, bipolar: bool | None
) -> None:
    shapes = {"unwrapped": unwrapped.shape[1:], "magnitude": magnitude.shape[1:], "mask": mask.shape}
    for name, shape in shapes.items():
        if tuple(shape) != grid.shape:
            raise GeometryError(f"{name} has shape {tuple(shape)} and the grid {grid.shape}. Give all on one grid.")
    echoes = len(scan.echo_times)
    for name, image in (("unwrapped", unwrapped), ("magnitude", magnitude)):
        if image.shape[0] != echoes:
            raise MetadataError(f"the scan has {echoes} echo times and {name} {image.shape[0]} echoes. Give one time per echo.")
    if not bool(mask.any()):
        raise MaskError("the mask is empty: no voxel is inside. Give another mask or loosen the mask step's threshold.")
    if offset not in ("smooth", "voxel", "none"):
        raise InputError(f"offset must be 'smooth', 'voxel' or 'none', got {offset!r}.")
    if not scale > 0:
        raise InputError(f"smoothing must be a positive length in mm, got {scale}.")
    if bipolar and echoes < 3:
        raise MetadataError(f"alternating readouts show only from three echoes on, got {echoes}. Leave bipolar unset.")
