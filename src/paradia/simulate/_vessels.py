"""A venous tree of random course, drawn as the share of each voxel that is blood, and the arteries at the base."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from paradia.simulate._deform import Deformation
from paradia.simulate._fill import sample
from paradia.simulate._shapes import Frame, Point
from paradia.simulate._table import LABELS
from paradia.simulate.bank import Bank

_SIDES = (-1.0, 1.0)
Path = list[Point]

# Places in the bank's frame on the right; radii of the subject in mm.
_DEEP: tuple[tuple[Path, list[float], float], ...] = (
    (
        [(2.2, 4.0, 10.0), (2.2, -8.0, 14.0), (2.0, -22.0, 14.0), (1.2, -33.0, 9.0), (0.0, -38.0, 7.0)],
        [0.7, 0.9, 1.1, 1.3, 1.4],
        0.5,
    ),  # internal cerebral
    ([(2.2, 4.0, 10.0), (2.6, 14.0, 12.0), (5.0, 24.0, 14.0)], [0.7, 0.6, 0.4], 0.5),  # septal
    ([(2.2, 4.0, 10.0), (9.0, -3.0, 17.0), (15.0, -13.0, 19.5), (20.0, -24.0, 20.0)], [0.8, 0.7, 0.6, 0.4], 0.5),  # thalamostriate
    (
        [(14.0, 0.0, -17.0), (15.0, -12.0, -15.0), (15.5, -23.0, -8.0), (9.0, -33.0, 0.0), (0.0, -38.0, 7.0)],
        [0.7, 0.9, 1.0, 1.2, 1.4],
        1.0,
    ),  # basal
)
_GALEN: Path = [(0.0, -38.0, 7.0), (0.0, -43.0, 8.0), (0.0, -48.0, 5.0)]
_ARTERIES: tuple[tuple[Path, list[float]], ...] = (
    ([(1.0, -22.0, -56.0), (0.0, -16.0, -44.0), (0.0, -12.0, -30.0), (0.0, -13.0, -19.0)], [1.5, 1.6, 1.6, 1.6]),  # basilar
    ([(0.0, -13.0, -19.0), (10.0, -16.0, -18.0), (18.0, -26.0, -10.0)], [1.2, 1.1, 0.9]),  # posterior cerebral
    ([(14.0, -6.0, -38.0), (12.0, 4.0, -30.0), (11.0, 4.0, -21.0)], [2.2, 2.1, 1.9]),  # carotid
    ([(11.0, 4.0, -21.0), (22.0, 3.0, -20.0), (34.0, 3.0, -17.0), (39.0, -4.0, -8.0)], [1.4, 1.4, 1.2, 0.9]),  # middle cerebral
    (
        [(11.0, 4.0, -21.0), (4.0, 9.0, -19.0), (2.5, 24.0, -12.0), (2.5, 37.0, 4.0), (2.5, 33.0, 18.0), (2.5, 18.0, 28.0)],
        [1.1, 1.1, 1.0, 0.9, 0.8, 0.6],
    ),  # anterior
)


def draw(axes: list[Tensor], deformation: Deformation, bank: Bank, generator: torch.Generator, labels: Tensor, mask: Tensor) -> Tensor:
    """Draw arteries and the sinuses into the labels, and return the share of venous blood.

    Parameters
    ----------
    axes
        Coordinates of the voxels, mm.
    deformation
        From subject to bank.
    bank
        The anatomy bank.
    generator
        Source of randomness.
    labels, mask
        What is there; labels change where a vessel fills most of a voxel.
    """
    frame = Frame(*axes)
    arteries, veins = torch.zeros_like(labels, dtype=torch.float32), torch.zeros_like(labels, dtype=torch.float32)
    free = mask | (labels == LABELS["csf"]) | (labels == LABELS["dura"])
    for path, radii in _ARTERIES:
        for side in _SIDES:
            _tube(arteries, frame, deformation, _course([(side * x, y, z) for x, y, z in path], 0.6, generator), radii)
    for tree in (_sinuses(generator, bank), _deep(generator), _cortical(generator, bank), _medullary(generator)):
        for course, calibres in tree:
            _tube(veins, frame, deformation, course, calibres)
    arteries, veins = arteries * free, veins * free
    labels[arteries > 0.5] = LABELS["artery"]
    veins = veins * (1 - arteries)
    labels[veins > 0.5] = LABELS["vein"]
    return veins


def _course(path: Path, bend: float, generator: torch.Generator) -> Tensor:
    """Bend a path at random between its ends and refine it."""
    points = torch.tensor(path)
    noise = bend * torch.randn(points.shape, generator=generator)
    noise[[0, -1]] = 0.0
    points[:, 0] = torch.where(points[:, 0] == 0, points[:, 0] + 0.3 * noise[:, 0], points[:, 0] + noise[:, 0])
    points[:, 1:] += noise[:, 1:]
    return points


def _sinuses(generator: torch.Generator, bank: Bank) -> list[tuple[Tensor, list[float]]]:
    """Superior sagittal, straight, transverse and sigmoid sinuses; mostly the right side drains more."""
    u = torch.rand(4, generator=generator).tolist()
    share = 0.35 + 0.5 * u[0]
    arc, ring = _on_skull(bank)
    size = 0.85 + 0.3 * u[1]
    tree = [(arc, [size * (1.4 + 2.0 * i / (len(arc) - 1)) for i in range(len(arc))])]
    centre = arc[-1].tolist()
    tree.append(
        (_course([*_GALEN, (0.0, -66.0, -7.0), (0.0, -84.0, -16.0), tuple(centre)], 0.5, generator), [1.6, 1.9, 2.1, 2.1, 2.3, 2.6])
    )
    for side, part in zip(_SIDES, (1 - share, share), strict=True):
        course = ring * torch.tensor([side, 1.0, 1.0])
        course = torch.cat(
            [arc[-1:], course, torch.tensor([[side * 52.0, -42.0, -42.0], [side * 40.0, -38.0, -54.0], [side * 28.0, -30.0, -62.0]])]
        )
        tree.append((course, [size * 3.6 * (0.35 + part)] * len(course)))
    return tree


def _on_skull(bank: Bank) -> tuple[Tensor, Tensor]:
    """Find the courses of the sagittal and the right transverse sinus on the inside of the skull."""
    arc = []
    for degrees in range(15, 196, 9):
        t = math.radians(degrees)
        arc.append((0.0, math.cos(t), math.sin(t)))
    sagittal = _shoot(bank, torch.tensor([0.0, -17.0, 8.0]), torch.tensor(arc), 2.2)
    around = [(math.sin(math.radians(a)), -math.cos(math.radians(a)), 0.0) for a in range(12, 82, 10)]
    ring = _shoot(bank, torch.tensor([0.0, -36.0, -20.0]), torch.tensor(around), 2.4)
    return sagittal, ring


def _shoot(bank: Bank, start: Tensor, directions: Tensor, depth: float) -> Tensor:
    """Follow rays to where they are so deep under the skull's inside."""
    far = torch.arange(20.0, 110.0, 0.5)
    points = start + far[None, :, None] * directions[:, None]
    inside = sample(bank.head, points.reshape(-1, 3), slice(0, 3))[1].reshape(len(directions), -1) > depth
    last = (inside * torch.arange(1, len(far) + 1)).argmax(1)
    return start + far[last][:, None] * directions


def _deep(generator: torch.Generator) -> list[tuple[Tensor, list[float]]]:
    """Deep veins of both sides, each of its own calibre."""
    tree = []
    for path, radii, bend in _DEEP:
        for side in _SIDES:
            calibre = math.exp(0.18 * float(torch.randn(1, generator=generator)))
            tree.append((_course([(side * x, y, z) for x, y, z in path], bend, generator), [calibre * r for r in radii]))
    return tree


def _cortical(generator: torch.Generator, bank: Bank) -> list[tuple[Tensor, list[float]]]:
    """Veins on the surface that run up to the sagittal sinus, and veins that dip into sulci."""
    count = 22 + int(torch.randint(0, 14, (1,), generator=generator))
    u = torch.rand((count, 6), generator=generator)
    tree = []
    steps = torch.linspace(0.05, 1.0, 8)
    fore = math.pi * (0.12 + 0.72 * u[:, :1]) + 0.5 * (u[:, 2:3] - 0.5) * steps
    side = torch.where(u[:, 1:2] < 0.5, -1.0, 1.0)
    tilt = side * (0.12 + 1.1 * u[:, 3:4]) * steps + 0.08 * torch.sin(6 * steps + 6.28 * u[:, 4:5])
    rays = torch.stack([torch.sin(tilt) * torch.sin(fore).abs().clamp(min=0.3), torch.cos(fore), torch.sin(fore) * torch.cos(tilt)], -1)
    rays = rays / rays.norm(dim=-1, keepdim=True)
    surface = _shoot_hull(bank, torch.tensor([0.0, -17.0, 8.0]), rays.reshape(-1, 3)).reshape(count, 8, 3)
    for path, draw in zip(surface, u[:, 5].tolist(), strict=True):
        tree.append((path, [(0.5 + 0.7 * draw) * (1.15 - 0.08 * i) for i in range(8)]))
    return tree + _dipping(generator, bank)


def _shoot_hull(bank: Bank, start: Tensor, directions: Tensor) -> Tensor:
    """Follow rays to the surface of the brain."""
    far = torch.arange(25.0, 110.0, 0.5)
    points = start + far[None, :, None] * directions[:, None]
    inside = sample(bank.head, points.reshape(-1, 3), slice(0, 3))[2].reshape(len(directions), -1) > -0.3
    last = (inside * torch.arange(1, len(far) + 1)).argmax(1)
    return start + far[last][:, None] * directions


def _dipping(generator: torch.Generator, bank: Bank) -> list[tuple[Tensor, list[float]]]:
    """Veins that follow the water of a sulcus inwards."""
    count, steps, tries = 30 + int(torch.randint(0, 20, (1,), generator=generator)), 8, 14
    rays = torch.randn((4 * count, 3), generator=generator)
    rays[:, 2] = rays[:, 2].abs() - 0.25
    rays = rays / rays.norm(dim=1, keepdim=True)
    starts = _shoot_hull(bank, torch.tensor([0.0, -17.0, 8.0]), rays) - 1.5 * rays
    wet = sample(bank.brain, starts)[1].argsort()[:count]
    here, ahead = starts[wet], -rays[wet]
    path = [here]
    for _ in range(steps):
        turns = ahead[:, None] + 0.55 * torch.randn((count, tries, 3), generator=generator)
        turns = turns / turns.norm(dim=-1, keepdim=True)
        next_ = here[:, None] + 3.2 * turns
        depth = sample(bank.brain, next_.reshape(-1, 3))[1].reshape(count, tries)
        best = depth.argmin(1)
        pick = torch.arange(count)
        here, ahead = next_[pick, best], turns[pick, best]
        path.append(here)
    thick = (0.35 + 0.5 * torch.rand(count, generator=generator)).tolist()
    tracks = torch.stack(path, 1)
    return [(track, [t * (1 - 0.07 * i) for i in range(steps + 1)]) for track, t in zip(tracks, thick, strict=True)]


def _medullary(generator: torch.Generator) -> list[tuple[Tensor, list[float]]]:
    """Thin veins that fan out from the walls of the lateral ventricles."""
    tree = []
    for _ in range(30 + int(torch.randint(0, 20, (1,), generator=generator))):
        u = torch.rand(6, generator=generator)
        side = -1.0 if u[0] < 0.5 else 1.0
        y = 28.0 - 66.0 * float(u[1])
        start = torch.tensor([14.0 + 0.16 * max(8.0 - y, 0.0), y, 21.0 - 0.15 * max(y - 5.0, 0.0)])
        away = torch.tensor([0.5 + 0.6 * float(u[2]), 0.5 * (float(u[3]) - 0.5) + 0.008 * (y + 5), 0.75])
        away = away / away.norm()
        length = 12.0 + 16.0 * float(u[4])
        bend = 1.2 * torch.randn((5, 3), generator=generator).cumsum(0)
        path = start + torch.linspace(0.0, 1.0, 5)[:, None] * length * away + 0.5 * bend
        radius = 0.22 + 0.22 * float(u[5])
        tree.append((path * torch.tensor([side, 1.0, 1.0]), [radius * (1 - 0.12 * i) for i in range(5)]))
    return tree


def _tube(share: Tensor, frame: Frame, deformation: Deformation, path: Tensor, radii: list[float]) -> None:
    """Add a tube through places of the bank to the share of each voxel that it fills, its volume kept however thin it is."""
    points = deformation.to_subject(path)
    voxel = [float((axis[-1] - axis[0]) / max(len(axis) - 1, 1)) or 1.0 for axis in frame]
    edge = math.prod(voxel) ** (1 / 3)
    for (a, ra), (b, rb) in pairwise(zip(points.tolist(), radii, strict=True)):
        reach = max(ra, rb, 0.55 * edge) + edge
        box = frame.box([min(p, q) - reach for p, q in zip(a, b, strict=True)], [max(p, q) + reach for p, q in zip(a, b, strict=True)])
        if box is None:
            continue
        at = frame.at(box)
        step = [q - p for p, q in zip(a, b, strict=True)]
        length = sum(s * s for s in step) or 1.0
        offset = [u - p for u, p in zip(at, a, strict=True)]
        t = ((offset[0] * step[0] + offset[1] * step[1] + offset[2] * step[2]) / length).clamp(0, 1)
        away = torch.as_tensor(sum((o - t * s).square() for o, s in zip(offset, step, strict=True))).sqrt()
        radius = ra + (rb - ra) * t
        drawn = radius.clamp(min=0.55 * edge)
        cover = (0.5 + (drawn - away) / edge).clamp(0, 1) * (radius / drawn).square()
        share[box] = torch.maximum(share[box], cover)
