"""Protons that share a frequency and a place: where a readout lays them, and which of them are seen."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from paradia.grid import Grid
from paradia.simulate import _smooth
from paradia.simulate._signal import change_across
from paradia.simulate.acquisition import Gre
from paradia.simulate.subject import Subject

VEIN = 0.4
"""How far blood has moved between excitation and readout, mm, standard deviation, at strength 1."""


class Pool(NamedTuple):
    """Protons that share a frequency and a place."""

    magnitude: Tensor
    rate: Tensor
    field: Tensor


class Seen(NamedTuple):
    """Protons that give signal, voxel by voxel. All (n,)."""

    where: Tensor
    """Index into the flattened volume."""
    pool: Pool
    offset: Tensor
    ramp: Tensor
    """Phase of the readout's direction."""
    across: list[Tensor]
    """Change of the field across the voxel, axis by axis."""


def seen_only(pool: Pool, gre: Gre, dropout: float, phases: tuple[Tensor, Tensor]) -> Seen:
    """Leave out voxels that give no signal."""
    where = (pool.magnitude.flatten() != 0).nonzero()[:, 0]
    offset, ramp = (phase.flatten()[where] for phase in phases)
    across = [change.flatten()[where] for change in _slopes(pool.field, gre.dephasing, dropout)]
    return Seen(where, Pool._make(part.flatten()[where] for part in pool), offset, ramp, across)


def _slopes(field: Tensor, dephasing: bool, dropout: float) -> list[Tensor]:
    """Return the field's change across voxels, thicker ones where signal is to drop out."""
    thickness = float(dephasing) + 0.5 * dropout
    return [thickness * change for change in change_across(field)] if thickness else []


def flowing(pool: Pool, subject: Subject, strength: float, generator: torch.Generator) -> list[Pool]:
    """Take the blood of veins out of a pool and lay it where it has moved to."""
    far = (VEIN * strength * torch.randn(3, generator=generator)).tolist()
    veins = subject.anatomy.veins
    blood = torch.stack([pool.magnitude * veins, pool.rate, pool.field])
    return [pool._replace(magnitude=pool.magnitude * (1 - veins)), Pool(*_smooth.displaced(blood, far, subject.grid.voxel_size))]


def misplaced(pool: Pool, gre: Gre, grid: Grid, fine: Grid, sign: int) -> Pool:
    """Lay protons where their frequency puts them along the readout."""
    if math.isinf(gre.bandwidth):
        return pool
    axis = gre.readout
    larger = grid.voxel_size[axis] / fine.voxel_size[axis]
    shift = pool.field * (sign * larger * gre.scan.hz_per_ppm / gre.bandwidth)  # in the subject's voxels
    n = shift.shape[axis]
    place = torch.arange(n, dtype=shift.dtype, device=shift.device).view([-1 if a == axis else 1 for a in range(3)])
    source = place - shift
    for _ in range(3):  # what lands here came from where its own frequency sent it here
        source = place - _along(shift, source, axis)
    squeeze = torch.gradient(source, dim=axis)[0].clamp(0.2, 3.0) if n > 1 else torch.ones_like(source)
    magnitude, rate, field = (_along(part, source, axis) for part in pool)
    return Pool(magnitude * squeeze, rate, field)


def _along(image: Tensor, place: Tensor, axis: int) -> Tensor:
    """Interpolate linearly along an axis at places in voxels."""
    last = image.shape[axis] - 1
    place = place.clamp(0, last)
    low = place.floor().long().clamp_max(max(last - 1, 0))
    return torch.lerp(image.gather(axis, low), image.gather(axis, (low + 1).clamp_max(last)), place - low)
