"""The images that a scanner would make of a subject."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from paradia.errors import InputError, MetadataError
from paradia.grid import Grid
from paradia.scan import Scan
from paradia.simulate import _hardware, _smooth, imperfect
from paradia.simulate._pools import Pool, flowing, misplaced, seen_only
from paradia.simulate._signal import averaged, complex_noise, encoded, gradient_echo, inverted, spin_echoes, spoiled
from paradia.simulate.acquisition import Acquisition, Gre, SpinEcho, T1w
from paradia.simulate.fields import fields
from paradia.simulate.imperfect import Errors
from paradia.simulate.subject import Subject
from paradia.types import ComplexEchoes, Mask, Volume

FAT = -3.4
"""Frequency of fat's protons against water's, ppm."""

MISMATCH = 0.3
"""How far the field lies from the magnitude, mm, standard deviation along each axis, at strength 1."""

RINGING = 1 / 6
"""Share of k-space along each axis that is zero, at strength 1."""


class Acquired(NamedTuple):
    """What a scan gave, and the truth about it in the voxels of the scan."""

    images: ComplexEchoes
    """Complex images; ``abs`` and ``angle`` are magnitude and wrapped phase."""
    grid: Grid
    """Their geometry."""
    scan: Scan
    """Echo times and field strength."""
    noise: Volume
    """Standard deviation of the noise in the real part, and in the imaginary part."""
    offset: Volume
    """The receiver's phase, rad, not wrapped."""
    transmit: Volume
    """Flip angle over the nominal one."""
    total_field: Volume
    """Field that the protons felt, ppm, frequency shifts of model errors in it."""
    local_field: Volume
    """Field of the sources inside the brain, ppm, with the frequency shifts of model errors."""
    residual: Volume
    """What an imperfect background removal leaves in the local field, ppm; no proton felt it."""
    mask: Mask
    """The brain."""
    rough_mask: Mask
    """The brain as an imperfect masking finds it; the same where there are no such errors."""


class _Drawn(NamedTuple):
    """What chance decides, each with a generator of its own, so that one more error changes nothing else."""

    noise: torch.Generator
    phase: torch.Generator
    transmit: torch.Generator
    background: torch.Generator
    frequency: torch.Generator
    spread: torch.Generator
    flow: torch.Generator
    motion: torch.Generator
    mask: torch.Generator
    mismatch: torch.Generator

    @classmethod
    def of(cls, seed: int) -> _Drawn:
        first = torch.Generator().manual_seed(seed)
        seeds = torch.randint(2**62, (len(cls._fields),), generator=first).tolist()
        return cls(*(torch.Generator().manual_seed(s) for s in seeds))


def scan(subject: Subject, acquisition: Acquisition, *, seed: int = 0, errors: Errors | None = None) -> Acquired:
    r"""Simulate a scan of a subject.

    Gradient echoes: :math:`S(t) = \sum_p M_p\, e^{-R_2^* t}\, e^{i(2\pi\bar\gamma B_0 f_p t + \varphi_0)} \prod_a
    \mathrm{sinc}(\bar\gamma B_0\, t\, \Delta_a f)` over pools of water and fat, in the spoiled steady state of flip angle and TR.
    Spin echoes: extended phase graphs. Everything is computed in the subject's voxels, and the middle of k-space is kept for larger ones.

    Parameters
    ----------
    subject
        What is scanned.
    acquisition
        How: `Gre`, `SpinEcho` or `T1w`.
    seed
        Draws noise, coils and errors. Two scans of a subject in one session have the same coils only with the same seed.
    errors
        Model errors; None for none.

    Returns
    -------
    Acquired
        Images and the truth about them, in the voxels of the scan.

    Raises
    ------
    MetadataError
        The subject was made for another field strength.
    GeometryError
        The voxels asked for do not fit the subject's grid.
    InputError
        The acquisition is of no known kind.

    Notes
    -----
    A head that moves between echoes is shifted and changes its phase, without turning. Fat has one line. The displacement of off-resonant
    signal along the readout is that of the field in the subject's voxels; signal is compressed and stretched by it.
    """
    if not isinstance(acquisition, (Gre, SpinEcho, T1w)):
        raise InputError(f"an acquisition is a Gre, a SpinEcho or a T1w, got {type(acquisition).__name__}.")
    if not math.isclose(subject.b0, acquisition.b0):
        raise MetadataError(
            f"the subject has the relaxation of {subject.b0:g} T and the scan is at {acquisition.b0:g} T. "
            f"Draw the subject with b0={acquisition.b0:g}."
        )
    grid, errors, drawn = acquisition.grid(subject.grid), errors or Errors.none(), _Drawn.of(seed)
    device = subject.density.device
    frame = _hardware.centred(subject.grid)
    offset = (acquisition.receiver_phase * _hardware.offset(frame, drawn.phase)).to(device)
    transmit = _hardware.transmission(subject.grid, acquisition.b0, acquisition.transmit, drawn.transmit).to(device)
    receive = _hardware.sensitivity(frame, acquisition.receive).to(device)
    shift = imperfect.frequency_shift(subject.anatomy, errors.frequency, drawn.frequency)
    total = subject.total_field + shift + imperfect.flow(subject.anatomy.veins, subject.grid, errors.flow, drawn.flow)
    if errors.mismatch:
        far = (MISMATCH * errors.mismatch * torch.randn(3, generator=drawn.mismatch)).tolist()
        total = _smooth.displaced(total, far, subject.grid.voxel_size)
    seen = subject.density * receive
    if isinstance(acquisition, Gre):
        images = _gradient_echoes(subject, acquisition, grid, seen, total, offset, transmit, errors, drawn)
    elif isinstance(acquisition, SpinEcho):
        heights = spin_echoes(seen, subject.r1, subject.r2, transmit, acquisition.refocusing, acquisition.scan, acquisition.tr)
        images = (torch.polar(height, offset) for height in heights)
    else:
        height = inverted(seen, subject.r1, acquisition.inversion_time, acquisition.tr) * torch.exp(-acquisition.echo_time * subject.r2star)
        images = iter([torch.polar(height.abs(), torch.where(height < 0, offset + math.pi, offset))])
    walk, turns = imperfect.motion(len(acquisition.scan.echo_times), errors.motion, drawn.motion)
    made = torch.stack([
        encoded(image, grid.shape, (place / torch.tensor(subject.grid.voxel_size)).tolist()) * torch.exp(1j * turn)
        for image, place, turn in zip(images, walk, turns.to(device), strict=True)
    ])  # fmt: skip
    mask = averaged(subject.mask.float(), grid.shape) > 0.5
    level = _level(made[0].abs(), mask, acquisition.snr)
    noise = level * imperfect.noise_map(grid, errors.noise, drawn.spread, device)
    return Acquired(
        images=_noisy(made, noise, level, 1 - RINGING * min(errors.gibbs, 5.0), drawn.noise),
        grid=grid,
        scan=acquisition.scan,
        noise=noise,
        offset=averaged(offset, grid.shape),
        transmit=averaged(transmit, grid.shape),
        total_field=averaged(total, grid.shape),
        local_field=averaged(subject.local_field + shift, grid.shape),
        residual=imperfect.residual_background(mask, grid, errors.background, drawn.background),
        mask=mask,
        rough_mask=imperfect.rough_mask(mask, errors.mask, drawn.mask, voxel_size=grid.voxel_size),
    )


def orientations(subject: Subject, directions: Sequence[Sequence[float]]) -> list[Subject]:
    """Turn a subject's head to other directions of B0, as several scans for COSMOS do, each brought back to the first one's voxels.

    Parameters
    ----------
    subject
        The head.
    directions
        Directions of B0 in array axes, one an orientation.

    Returns
    -------
    list
        A subject for each: the same anatomy and tissue, with the fields of that direction, shimmed anew. Rates stay as they are: what of
        R2′ turns with white-matter fibres does not turn here.

    Raises
    ------
    GeometryError
        A direction without length.
    """
    turned = []
    for direction in directions:
        grid = Grid(subject.grid.shape, subject.grid.voxel_size, (float(direction[0]), float(direction[1]), float(direction[2])))
        found = fields(subject.chi, subject.mask, grid)
        anatomy = subject.anatomy._replace(grid=grid)
        turned.append(subject._replace(anatomy=anatomy, grid=grid, local_field=found.local, total_field=found.total))
    return turned


def _level(first: Tensor, mask: Tensor, snr: float) -> float:
    """Return the noise's standard deviation."""
    inside = first[mask] if bool(mask.any()) else first.flatten()
    return float(inside.mean()) / snr


def _noisy(images: Tensor, noise: Tensor, level: float, kept: float, generator: torch.Generator) -> Tensor:
    """Add noise, and set the rim of k-space to zero where it rings; the noise left then has the level stated."""
    shape = images.shape[1:]
    result = torch.empty_like(images)
    for n, image in enumerate(images):
        if level:
            drawn = complex_noise(shape, generator).to(image)
            if kept < 1:
                drawn = encoded(drawn, shape, kept=kept)
                drawn = drawn / (0.5 * (drawn.real.square().mean() + drawn.imag.square().mean())).sqrt()
        if kept < 1:
            image = encoded(image, shape, kept=kept)
        result[n] = image + noise * drawn if level else image
    return result


def _gradient_echoes(
    subject: Subject,
    gre: Gre,
    grid: Grid,
    seen: Tensor,
    total: Tensor,
    offset: Tensor,
    transmit: Tensor,
    errors: Errors,
    drawn: _Drawn,
) -> Iterator[Tensor]:
    """Make one echo after the other, in the subject's voxels."""
    whole = spoiled(seen, subject.r1, math.radians(gre.flip) * transmit, gre.tr)
    pools = [Pool(whole, subject.r2star, total)]
    if errors.flow:
        pools = flowing(pools[0], subject, errors.flow, drawn.flow)
    if gre.fat and bool((subject.fat > 0).any()):
        water, *others = pools
        fat = Pool(water.magnitude * subject.fat, water.rate, total + FAT)
        pools = [water._replace(magnitude=water.magnitude * (1 - subject.fat)), *others, fat]
    signs = (1, -1) if gre.bipolar is not None else (1,)
    n = subject.grid.shape[gre.readout]
    ramp = torch.linspace(-(gre.bipolar or 0.0), gre.bipolar or 0.0, n, device=total.device)
    ramp = ramp.view([n if axis == gre.readout else 1 for axis in range(3)]).expand_as(total)
    ways = [
        [seen_only(misplaced(pool, gre, grid, subject.grid, sign), gre, errors.dropout, (offset, ramp)) for pool in pools] for sign in signs
    ]
    for echo in range(len(gre.echo_times)):
        back = echo % len(ways)
        image = torch.zeros(subject.grid.shape, dtype=torch.complex64, device=total.device).flatten()
        for seen, pool, offset, ramp, across in ways[back]:
            image[seen] += gradient_echo(*pool, offset, gre.scan, echo, across=across, extra=back * ramp)
        yield image.view(subject.grid.shape)
