"""Volumes of random shapes and textures that resemble no anatomy: what a network learns from them holds for any head."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from paradia.grid import Grid
from paradia.simulate._noise import texture
from paradia.simulate._shapes import Box, Frame, coverage
from paradia.simulate._table import relaxivity
from paradia.simulate.anatomy import Anatomy
from paradia.simulate.tissue import LABELS, TISSUES, Maps, place, soften

REGIONS = (5, 12)
"""Fewest and most regions that share the inside."""

SHAPES = (12, 36)
"""Fewest and most shapes laid over them."""

QUANTITIES = ("chi_pos", "chi_neg", "density", "r1", "r2")


class _Stuff(NamedTuple):
    """What a region or shape is made of."""

    chi_pos: float
    chi_neg: float
    density: float
    r1: float
    r2: float


class _Dice:
    """Random numbers of the kinds that are needed here."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float, high: float, size: tuple[int, ...] = ()) -> Tensor:
        return low + (high - low) * torch.rand(size, generator=self.generator)

    def number(self, low: float, high: float) -> float:
        return float(self.uniform(low, high))

    def whole(self, low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def power(self, low: float, high: float) -> float:
        """Draw as often between 1 and 2 as between 2 and 4."""
        return math.exp(self.number(math.log(low), math.log(high)))

    def chance(self, share: float) -> bool:
        return self.number(0.0, 1.0) < share

    def turn(self) -> Tensor:
        """Draw a rotation matrix."""
        q, r = torch.linalg.qr(torch.randn((3, 3), generator=self.generator))
        return q * r.diagonal().sign()


def procedural(grid: Grid, *, seed: int, b0: float = 3.0) -> tuple[Anatomy, Maps]:
    """Draw a volume without anatomy: regions of random outline, shapes laid over them, and a random world outside.

    The inside is a lumpy ellipsoid.  Random smooth fields compete for it; ellipsoids, slabs and tubes lie on top.  Each has its
    own χ+ and χ− (drawn apart, over two orders of magnitude), proton density, R1 and R2, and a texture within.  Around lie
    fluid, a shell of bone, and soft tissue with cavities of air; now and then any of them is missing.

    Parameters
    ----------
    grid
        Where to sample.
    seed
        Draws everything.
    b0
        Field strength, T, to which the rates are scaled.

    Returns
    -------
    tuple
        `Anatomy`, whose inside is labelled ``procedural``, and its `Maps`, R2′ with the default Dr of both sources.

    Raises
    ------
    InputError
        The field strength cannot be.

    References
    ----------
    Hoffmann M, et al. SynthMorph: learning contrast-invariant registration without acquired images. IEEE Trans Med Imaging
    2022;41:543-558. doi:10.1109/TMI.2021.3116879.
    """
    dr_pos, dr_neg = relaxivity(b0)
    dice = _Dice(seed)
    here = place(grid)
    level, size = _level(here, grid, dice)
    mask = level < 1
    labels, values = _outside(level, size, here, dice)
    for name, inside in zip(QUANTITIES, _regions(here, dice), strict=True):
        values[name] = torch.where(mask, inside, values[name])
    labels.masked_fill_(mask, LABELS["procedural"])
    veins = _shapes(values, mask, here, size, dice)
    soften(values, mask)
    detail = _texture(values, mask, here, dice)
    rate = 1 + (1 / 0.65 - 1) * (b0 - 3) / 4
    r2, r1 = values["r2"] * max(rate, 0.1), values["r1"] * (b0 / 3) ** -0.355
    r2prime = dr_pos * values["chi_pos"] + dr_neg * values["chi_neg"]
    r2prime.masked_fill_(labels == 0, 0.0)
    made = Maps(values["chi_pos"], values["chi_neg"], values["density"], r1, r2, r2prime, r2 + r2prime, torch.zeros_like(r1))
    return Anatomy(labels, mask, veins, detail, None, grid), made


def _level(here: Frame, grid: Grid, dice: _Dice) -> tuple[Tensor, float]:
    """Return a lumpy ellipsoid that is 1 on its surface and grows outwards, and its mean semi-axis in mm."""
    semi = [extent / 2 * dice.number(0.55, 0.82) for extent in grid.extent]
    power = dice.number(1.8, 3.2)
    total = torch.zeros(())
    for axis, (u, a) in enumerate(zip(here.at((slice(None),) * 3), semi, strict=True)):
        shift = dice.number(-0.25, 0.25) * (grid.extent[axis] / 2 - a)
        total = total + ((u - shift) / a).abs() ** power
    size = sum(semi) / 3
    level = total ** (1 / power)
    lumps = texture(here, dice.generator, (0.5 * size,)).mul_(0.5).add_(texture(here, dice.generator, (0.2 * size,)), alpha=0.15)
    return level.add(lumps, alpha=dice.number(0.0, 0.12)), size


def _regions(here: Frame, dice: _Dice) -> list[Tensor]:
    """Let random fields compete; return each quantity where every voxel has that of the largest."""
    count = dice.whole(*REGIONS)
    shape = [len(axis) for axis in here]
    best, winner = torch.full(shape, -math.inf), torch.zeros(shape, dtype=torch.int32)
    for index in range(count):
        field = texture(here, dice.generator, (dice.power(4.0, 25.0),)).add_(dice.number(-0.5, 0.5))
        winner.masked_fill_(field > best, index)
        best = torch.maximum(best, field)
    table = torch.tensor([_stuff(dice) for _ in range(count)])
    return [column.contiguous().index_select(0, winner.flatten()).view(shape) for column in table.T]


def _stuff(dice: _Dice, strongest: float = 0.25) -> _Stuff:
    """Draw what something is made of, at 3 T."""
    pos, neg = (dice.power(0.002, strongest) * (not dice.chance(0.2)) for _ in range(2))
    if dice.chance(0.5):  # a balance of both is rare in tissue
        pos, neg = (pos, 0.2 * neg) if dice.chance(0.5) else (0.2 * pos, neg)
    return _Stuff(pos, neg, dice.number(0.4, 1.0), 1 / dice.power(0.6, 3.0), dice.power(4.0, 40.0))


def _outside(level: Tensor, size: float, here: Frame, dice: _Dice) -> tuple[Tensor, dict[str, Tensor]]:
    """Lay shells around the inside, and cavities into them; return labels and maps."""
    labels = torch.zeros(level.shape, dtype=torch.uint8)
    reach = dice.number(0.2, 0.5) if not dice.chance(0.1) else 10.0  # now and then all around is tissue
    edges = [("muscle", reach), ("fat", dice.number(0.14, 0.2)), ("muscle", dice.number(0.1, 0.13))]
    shells = [*edges, ("bone", dice.number(0.06, 0.1)), ("csf", dice.number(0.0, 0.05))]
    for name, thickness in shells:
        if name != "bone" or not dice.chance(0.15):
            labels.masked_fill_(level < 1 + thickness, LABELS[name])
    if reach < 1 and dice.chance(0.6):  # a neck
        x, y, z = here.at((slice(None),) * 3)
        wide, back = size * dice.number(0.45, 0.75), size * dice.number(0.0, 0.4)
        neck = ((x / wide).square() + ((y + back) / wide).square() < 1) & (z < -0.5 * size) & (labels == 0)
        labels.masked_fill_(neck, LABELS["muscle"])
    for _ in range(dice.whole(1, 10)):
        radius = size * dice.power(0.08, 0.4)
        found = _ellipsoid(here, _rim(size, dice), radius, dice)
        if found is not None:
            box, distance = found
            labels[box].masked_fill_(distance > 0, LABELS["bone"] if dice.chance(0.2) else LABELS["air"])
    columns = {}
    for name in QUANTITIES:
        row = [1e3 / getattr(t, "t" + name[1]) if name in ("r1", "r2") else getattr(t, name) for t in TISSUES]
        row[0] = 0.0 if name in ("r1", "r2") else row[0]
        columns[name] = torch.tensor(row).index_select(0, labels.flatten().int()).view(labels.shape)
    return labels, columns


def _rim(size: float, dice: _Dice) -> Tensor:
    """Draw a place around the inside, rather in front and below."""
    way = torch.randn(3, generator=dice.generator) + torch.tensor([0.0, 0.4, -0.6])
    return way / way.norm() * size * dice.number(1.0, 1.25)


def _ellipsoid(here: Frame, centre: Tensor, radius: float, dice: _Dice) -> tuple[Box, Tensor] | None:
    """Return about the distance to the surface of a random ellipsoid, in its box."""
    semi = radius * dice.uniform(0.5, 1.0, (3,))
    return _turned(here, centre, radius, dice.turn(), lambda p: (1 - (p / semi.view(3, 1, 1, 1)).norm(dim=0)) * float(semi.min()))


def _slab(here: Frame, centre: Tensor, radius: float, dice: _Dice) -> tuple[Box, Tensor] | None:
    """Return the distance to the surface of a random slab, in its box."""
    half = radius / math.sqrt(3) * dice.uniform(0.15, 1.0, (3,))
    return _turned(here, centre, radius, dice.turn(), lambda p: (half.view(3, 1, 1, 1) - p.abs()).amin(0))


def _tube(here: Frame, centre: Tensor, radius: float, dice: _Dice) -> tuple[Box, Tensor] | None:
    """Return the distance to the wall of a bent tube, in its box."""
    thick, bend, half = dice.power(0.4, 2.5), dice.number(-0.5, 0.5), 0.8 * radius

    def distance(p: Tensor) -> Tensor:
        along = p[0].clamp(-half, half)
        bow = bend * (along.square() / half - half / 2)
        return thick - torch.stack([p[0] - along, p[1] - bow, p[2]]).norm(dim=0)

    return _turned(here, centre, radius, dice.turn(), distance)


def _turned(here: Frame, centre: Tensor, radius: float, turn: Tensor, distance: Callable[[Tensor], Tensor]) -> tuple[Box, Tensor] | None:
    """Evaluate a shape of a given reach in turned coordinates about its centre, in the box that holds it."""
    low, high = (centre - radius).tolist(), (centre + radius).tolist()
    box = here.box(low, high)
    if box is None:
        return None
    x, y, z = (u - c for u, c in zip(here.at(box), centre, strict=True))
    return box, distance(torch.stack([a[0] * x + a[1] * y + a[2] * z for a in turn]))


def _shapes(values: dict[str, Tensor], mask: Tensor, here: Frame, size: float, dice: _Dice) -> Tensor:
    """Lay shapes over the inside; return what tubes cover."""
    veins = torch.zeros(mask.shape)
    for _ in range(dice.whole(*SHAPES)):
        kind = dice.whole(0, 2)
        radius = dice.power(1.5, 0.5 * size) if kind < 2 else dice.power(10.0, 0.8 * size)
        centre = dice.uniform(-0.75, 0.75, (3,)) * size
        found = (_ellipsoid, _slab, _tube)[kind](here, centre, radius, dice)
        if found is None:
            continue
        box, distance = found
        small = radius < 6
        stuff = _stuff(dice, 1.5 if small else 0.3)
        if kind == 2:
            stuff = stuff._replace(chi_pos=dice.number(0.05, 0.5), chi_neg=0.0)
        share = coverage(distance) * mask[box]
        for image, value in zip(values.values(), stuff, strict=True):
            image[box].lerp_(torch.full_like(share, value), share)
        if kind == 2:
            veins[box] = torch.maximum(veins[box], share)
    return veins


def _texture(values: dict[str, Tensor], mask: Tensor, here: Frame, dice: _Dice) -> Tensor:
    """Let everything inside vary; return one of the variations as the detail."""
    scales = (dice.power(2.0, 4.0), dice.power(4.0, 10.0), dice.power(10.0, 30.0))
    fields = [texture(here, dice.generator, scales).mul_(mask) for _ in range(3)]
    for image, field, floor in ((values["chi_pos"], fields[0], 0.01), (values["chi_neg"], fields[1], 0.01)):
        strength = dice.number(0.0, 0.3)
        image.add_(field * (image * strength).add_(dice.number(0.0, floor))).clamp_(min=0.0)
    for name, strength in (("density", 0.08), ("r1", 0.1), ("r2", 0.2)):
        values[name].addcmul_(values[name], fields[2].clamp(-3, 3), value=dice.number(0.0, strength))
    return fields[2]
