"""Name what fills each voxel of a subject."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from paradia.simulate._deform import LOW, SHAPE, STEP, Deformation, inside_map, look_up
from paradia.simulate._table import LABELS
from paradia.simulate.bank import HEAD, Bank, Map

_WALL = 1.6
"""Bone about every sinus, mm."""
_CORD = -69.0
"""Below this height of the bank the brain's maps end and the cord goes on, mm."""
_STEM = -64.0
"""Where the brain mask ends below, mm of the bank."""
_ARCH = 4.0
"""Bone and ligaments about the spinal canal, mm."""
_LAMINA = 0.8
"""White matter between the segments of the pallidum is theirs up to this far from both, mm."""
_DEEP = 9.0
"""What lies this far within the skull is brain, its cisterns too, mm."""

_FAR = 20.0
"""Stands for any distance that is large enough, mm."""

_SLAB = 500_000
"""Voxels filled at a time."""


class Shifts:
    """Smooth random shifts of surfaces, functions of the place in the bank, and how far a subject's surfaces lie off as a whole."""

    def __init__(self, generator: torch.Generator, strength: float, atrophy: float, sinuses: float, mastoids: float) -> None:
        self.low, self.step = (-128.0, -160.0, -176.0), 16.0
        self.values = torch.randn((6, 17, 20, 20), generator=generator) * strength
        self.atrophy, self.sinuses, self.mastoids = atrophy, sinuses, mastoids

    def at(self, points: Tensor, channels: slice) -> Tensor:
        """Return shifts of SD somewhat below 1 at points (n, 3)."""
        return look_up(self.values[channels].to(points), self.low, self.step, points)


class Filled(NamedTuple):
    """What fills the voxels."""

    labels: Tensor
    mask: Tensor
    detail: Tensor


def fill(bank: Bank, deformation: Deformation, axes: Sequence[Tensor], shifts: Shifts) -> Filled:
    """Name what lies at each voxel.

    Parameters
    ----------
    bank
        The anatomy bank.
    deformation
        From subject to bank.
    axes
        Coordinates of the voxels, mm.
    shifts
        How this subject's surfaces differ.
    """
    shape = [len(axis) for axis in axes]
    device = axes[0].device
    labels = torch.zeros(shape, dtype=torch.uint8, device=device)
    mask = torch.zeros(shape, dtype=torch.bool, device=device)
    detail = torch.zeros(shape, device=device)
    zones = _zones(bank, deformation).to(device)
    thick = max(_SLAB // (shape[1] * shape[2]), 1)
    for first in range(0, shape[0], thick):  # slabs stay in the processor's cache
        part = slice(first, first + thick)
        slab = [axes[0][part], axes[1], axes[2]]
        _slab(labels[part].view(-1), mask[part].view(-1), detail[part].view(-1), _spread(zones, slab), deformation.on(slab), bank, shifts)
    return Filled(labels, mask, detail)


def _slab(labels: Tensor, mask: Tensor, detail: Tensor, zone: Tensor, points: Tensor, bank: Bank, shifts: Shifts) -> None:
    """Fill some voxels."""
    shell = (zone == 2).nonzero()[:, 0]
    place = points[shell]
    skin, inside, hull = sample(bank.head, place, slice(0, 3))
    outer = ((skin > -3) & (inside < 0.1)).nonzero()[:, 0]
    labels[shell[outer]] = _outside(place[outer], skin[outer], inside[outer], bank, shifts)
    inner = (inside > 0).nonzero()[:, 0]
    core = (zone == 1).nonzero()[:, 0]
    far = torch.full((len(core),), _FAR, device=points.device)
    within = torch.cat([shell[inner], core])
    labels[within], mask[within], detail[within] = _brain(
        points[within], torch.cat([inside[inner], far]), torch.cat([hull[inner], far]), bank, shifts
    )


def _zones(bank: Bank, deformation: Deformation) -> Tensor:
    """Sort the knots, so that few voxels near them need every map: 0 far outside, 1 well inside the brain, 2 all else."""
    skin, inside, hull = sample(bank.head, deformation.at_knots(), slice(0, 3))
    zone = torch.full_like(skin, 2, dtype=torch.uint8)
    zone[skin < -14] = 0
    zone[(inside > 8) & (hull > 8)] = 1
    return zone.reshape(SHAPE)


def _spread(zone: Tensor, axes: Sequence[Tensor]) -> Tensor:
    """Give voxels what the nearest knots have."""
    for axis, (values, low, count) in enumerate(zip(axes, LOW, SHAPE, strict=True)):
        zone = zone.index_select(axis, ((values - low) / STEP).round().long().clamp(0, count - 1))
    return zone.reshape(-1)


def sample(m: Map, points: Tensor, channels: slice = slice(None)) -> Tensor:
    """Interpolate maps of the bank at points (n, 3)."""
    return look_up(_decoded(m, channels, points.device), m.origin, m.spacing, points)


_DECODED: dict[tuple[int, int | None, int | None, torch.device], tuple[Tensor, Tensor]] = {}


def _decoded(m: Map, channels: slice, device: torch.device) -> Tensor:
    """Decode maps once for a device: the bank lives as long as the program."""
    key = (id(m.values), channels.start, channels.stop, device)
    if key not in _DECODED:
        decoded = (m.values[channels].float() - 128) / torch.tensor(m.scale[channels])[:, None, None, None]
        _DECODED[key] = (m.values, decoded.to(device))  # the codes are kept, too, so that no other bank gets their id
    return _DECODED[key][1]


def _outside(points: Tensor, skin: Tensor, inside: Tensor, bank: Bank, shifts: Shifts) -> Tensor:
    """Scalp, muscle, bone with its marrow, eyes and air."""
    bone, cavity, airway, eye, fat = sample(bank.head, points, slice(3, len(HEAD)))
    thick, wide, plump = shifts.at(points, slice(0, 3))
    x, y = points[:, 0].abs(), points[:, 1]
    skin = skin + 1.0 * plump
    bone = bone + 0.7 * thick
    mastoid = (y < -8) & (x > 30)
    cavity = cavity + torch.where(mastoid, shifts.mastoids, shifts.sinuses) + 1.6 * wide
    cavity = torch.minimum(cavity, torch.minimum(-inside - 2.0, skin - 5.0))  # never into the brain, never through the skin
    airway = torch.minimum(airway + 0.6 * wide, -inside - 2.0)
    labels = torch.zeros_like(skin, dtype=torch.uint8)
    labels[skin > 0] = LABELS["muscle"]
    labels[(skin > 0) & (fat + 0.5 * plump > 0)] = LABELS["fat"]
    solid = (bone > 0) | ((cavity > -_WALL) & (skin > 3))
    labels[solid] = LABELS["bone"]
    labels[(points[:, 2] < _CORD) & (inside > -_ARCH)] = LABELS["bone"]
    labels[(bone > 2.4) & (cavity < -_WALL)] = LABELS["marrow"]
    labels[eye > 0] = LABELS["eye"]
    labels[(cavity > 0) & (eye < -0.8)] = LABELS["air"]
    labels[(airway > 0) & (eye < -0.8)] = LABELS["air"]
    return labels


def _brain(points: Tensor, inside: Tensor, hull: Tensor, bank: Bank, shifts: Shifts) -> tuple[Tensor, Tensor, Tensor]:
    """Grey and white matter, water, dura and what lies deep."""
    white, pial, detail = sample(bank.brain, points)
    gap, ribbon, size = shifts.at(points, slice(3, 6))
    pial = pial - shifts.atrophy - 0.25 * gap
    white = white + 0.25 * ribbon
    cord = points[:, 2] < _CORD
    pial = torch.where(cord, hull, pial)
    white = torch.where(cord, hull, white)
    tissue = pial > 0
    # where no cortex lies between white matter and water, their common surface moves as one
    matter = white > (pial - 0.8 - abs(shifts.atrophy)).clamp(max=0)
    labels = torch.full_like(inside, LABELS["csf"], dtype=torch.uint8)
    labels[tissue] = LABELS["grey_matter"]
    labels[tissue & matter] = LABELS["white_matter"]
    labels[(inside < 0.6) & ~tissue] = LABELS["dura"]
    labels[_sheets(points) & ~tissue] = LABELS["dura"]
    within = inside_map(points, bank.deep).nonzero()[:, 0]
    labels[within] = _deep(labels[within], points[within], pial[within], 0.2 * size[within], bank)
    brain = ((hull > 0) | tissue | (inside > _DEEP)) & (points[:, 2] > _STEM)
    return labels, brain, torch.where(brain, detail, 0.0)


def _deep(labels: Tensor, points: Tensor, pial: Tensor, size: Tensor, bank: Bank) -> Tensor:
    """Set nuclei over everything and tracts into white matter."""
    scores = sample(bank.deep, points)
    m = bank.deep_labels
    limit = torch.tensor(m.values.shape[1:], device=points.device) - 1
    voxel = ((points - torch.tensor(m.origin, device=points.device)) / m.spacing).round().long().clamp(min=0).minimum(limit)
    nearest = m.values.to(points.device)[:, voxel[:, 0], voxel[:, 1], voxel[:, 2]]
    table = torch.tensor([LABELS[name] if name else 0 for name in bank.names], dtype=torch.uint8, device=points.device)
    ranked, group = scores[:3].topk(2, 0)
    names = table[nearest[:3].gather(0, group).long()]
    best, name = ranked[0], names[0]
    pallidum = torch.tensor([LABELS["pallidum_external"], LABELS["pallidum_internal"]], dtype=torch.uint8, device=points.device)
    # the lamina between its segments is thinner than voxels: sampled, it would be dotted
    best = torch.where(torch.isin(names, pallidum).all(0) & (ranked[1] > -_LAMINA), best + _LAMINA, best)
    best = best + torch.where(best > -0.5, size, 0.0)
    wet = (name == LABELS["choroid"]) | (name == LABELS["pineal"])
    inside = (name > 0) & torch.where(wet, best > 0, (best > (pial - 0.3).clamp(-0.7, 0)) & (pial > 0))
    labels = torch.where(inside, name, labels)
    tract = table[nearest[3].long()]
    return torch.where((labels == LABELS["white_matter"]) & (scores[3] > 0) & (tract > 0), tract, labels)


def _sheets(points: Tensor) -> Tensor:
    """Falx and tentorium."""
    x, y, z = points[:, 0].abs(), points[:, 1], points[:, 2]
    falx = (x < 0.5) & (torch.hypot((y + 4.0) / 54.0, (z - 2.0) / 40.0) > 1) & (z > -14 - 0.1 * y)
    middle = (8.0 + 0.8 * (y + 47.0).clamp(max=0)).clamp(min=-22.0)
    tent = middle + (-20.0 - middle) * (x / 14.0).clamp(max=1)
    return falx | (((z - tent).abs() < 0.5) & (y < -40) & (torch.hypot(x, y + 40) > 22))
