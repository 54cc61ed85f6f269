"""Lesions: plaques of multiple sclerosis, microbleeds, haemorrhages, calcifications.

Sizes, susceptibilities and rates are within what is reported for each kind; they are choices of this simulator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Integer
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from paradia.errors import InputError, MaskError, nearest
from paradia.grid import Grid
from paradia.simulate._noise import Waves
from paradia.simulate._shapes import Box
from paradia.simulate.anatomy import Anatomy
from paradia.simulate.tissue import LABELS, Maps, place

WHITE = ("white_matter", "corpus_callosum", "optic_radiation")
"""Where plaques are."""

LATTICE = 3.0
"""Places are searched this finely, mm."""

DEEP = 33.0
"""Fluid this far from the surface of the brain is a ventricle's, mm."""

RIM = 1.3
"""Thickness of a plaque's paramagnetic rim, mm."""


class _Kind(NamedTuple):
    """Ranges that a lesion's properties are drawn from; rates and density as multiples of the white matter's."""

    radius: tuple[float, float]
    chi_pos: tuple[float, float]
    chi_neg: tuple[float, float]
    density: float
    r1: float
    r2: float
    label: str
    homes: tuple[str, ...]
    lumpy: float


_KINDS = {
    "plaque": _Kind((2.5, 7.0), (0.005, 0.015), (0.005, 0.02), 1.2, 0.65, 0.6, "lesion", WHITE, 0.3),
    "rim_plaque": _Kind((4.0, 9.0), (0.005, 0.012), (0.005, 0.015), 1.2, 0.6, 0.55, "lesion", WHITE, 0.25),
    "microbleed": _Kind((1.0, 2.5), (0.4, 1.5), (0.0, 0.0), 0.9, 1.0, 1.5, "haemorrhage", (*WHITE, "grey_matter", "thalamus"), 0.15),
    "haemorrhage": _Kind((5.0, 12.0), (0.3, 1.0), (0.0, 0.05), 1.05, 1.1, 1.8, "haemorrhage", (*WHITE, "putamen", "thalamus"), 0.35),
    "calcification": _Kind(
        (1.5, 4.0), (0.0, 0.02), (0.3, 2.0), 0.5, 0.9, 3.0, "calcification",
        ("pineal", "choroid", "pallidum_external", "pallidum_internal", *WHITE), 0.25,
    ),
}  # fmt: skip

KINDS = tuple(_KINDS)
"""Kinds of lesions: plaques without and with a paramagnetic rim, and the others."""


class Lesion(NamedTuple):
    """One lesion, as drawn."""

    kind: str
    """One of `KINDS`."""
    centre_mm: tuple[float, float, float]
    """Its centre from the middle of the grid, mm along the array axes."""
    radius_mm: float
    """About its radius; it is not round."""
    chi_pos: float
    """χ+ of its core, ppm."""
    chi_neg: float
    """Magnitude of χ− of its core, ppm."""
    rim: float
    """χ+ of its rim, ppm; that of the core where there is no rim."""
    density: float
    """Proton density, water 1."""
    r1: float
    """1/s."""
    r2: float
    """1/s."""
    label: int
    """Its number in `lesion_labels`, from 1."""
    box: Box
    """The voxels it may touch."""
    share: Float[Tensor, "x y z"]
    """How much of each voxel in the box it fills."""


def draw(maps: Maps, anatomy: Anatomy, *, seed: int, kinds: Sequence[str]) -> tuple[Maps, Anatomy, tuple[Lesion, ...]]:
    r"""Draw lesions into a head, where such lesions are found.

    Plaques lie in white matter around the ventricles, microbleeds and haemorrhages at the cortex's inner border and in the
    deep nuclei, calcifications in pineal gland, choroid plexus and pallidum; in anatomies without these, anywhere inside.

    Parameters
    ----------
    maps
        What the head is made of; not changed.
    anatomy
        What lies where; not changed.
    seed
        Draws places, sizes, shapes and susceptibilities.
    kinds
        One lesion each, of `KINDS`; names may repeat.

    Returns
    -------
    tuple
        New maps, a new anatomy with the lesions' labels, and the list of what was drawn.

    Raises
    ------
    InputError
        There is no such kind.
    MaskError
        There is no brain to draw into.

    Notes
    -----
    Within a lesion R2′ follows its own χ± with the Dr± that the maps have elsewhere.  A plaque has lost myelin and is some
    20 ppb less diamagnetic than the white matter around it; its rim, where it has one, holds iron.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(f"there is no lesion {kind!r}. {nearest(kind, KINDS)}")
    if not kinds:
        return maps, anatomy, ()
    if not bool(anatomy.mask.any()):
        raise MaskError("the brain is empty: there is nowhere to draw a lesion. Give an anatomy with a mask.")
    generator = torch.Generator().manual_seed(seed)
    dr = _dr(maps, anatomy)
    usual = _usual(maps, anatomy)
    search = _Search(anatomy)
    images = {name: getattr(maps, name).clone() for name in ("chi_pos", "chi_neg", "density", "r1", "r2", "r2prime")}
    labels, veins = anatomy.labels.clone(), anatomy.veins.clone()
    lesions: list[Lesion] = []
    for kind in kinds:
        lesion, core = _lesion(kind, len(lesions) + 1, usual, search, generator)
        lesions.append(lesion)
        box, share = lesion.box, lesion.share
        pos = lesion.rim + (lesion.chi_pos - lesion.rim) * core
        prime = dr[0] * pos + dr[1] * lesion.chi_neg
        for name, value in (("chi_pos", pos), ("r2prime", prime), *((n, getattr(lesion, n)) for n in ("chi_neg", "density", "r1", "r2"))):
            target = images[name][box]
            target.lerp_(torch.as_tensor(value).expand_as(target), share)
        veins[box] *= 1 - share
        labels[box].masked_fill_(share > 0.5, LABELS[_KINDS[kind].label])
    changed = maps._replace(**images, r2star=images["r2"] + images["r2prime"])
    return changed, anatomy._replace(labels=labels, veins=veins), tuple(lesions)


def lesion_labels(lesions: Sequence[Lesion], grid: Grid) -> Integer[Tensor, "x y z"]:
    """Return a map with each lesion's number where it fills most of a voxel, 0 elsewhere.

    Parameters
    ----------
    lesions
        As drawn on the grid.
    grid
        Where they lie.
    """
    image = torch.zeros(grid.shape, dtype=torch.int16)
    for lesion in lesions:
        image[lesion.box].masked_fill_(lesion.share > 0.5, lesion.label)
    return image


def _dr(maps: Maps, anatomy: Anatomy) -> tuple[float, float]:
    """Return the Dr± that the maps were made with, by least squares where no fibre turns them."""
    plain = anatomy.mask
    if anatomy.fibres is not None and bool((loose := plain & (anatomy.fibres.abs().sum(0) == 0)).any()):
        plain = loose
    pair = torch.stack([maps.chi_pos[plain], maps.chi_neg[plain]], 1)[::7].double()
    rate = maps.r2prime[plain][::7].double()
    pos, neg = torch.linalg.lstsq(pair.T @ pair, (pair.T @ rate)[:, None], driver="gelsd").solution[:, 0].tolist()
    return max(pos, 0.0), max(neg, 0.0)


def _usual(maps: Maps, anatomy: Anatomy) -> dict[str, float]:
    """Return the white matter's proton density and rates, or the whole inside's."""
    white = anatomy.mask & (anatomy.labels == LABELS["white_matter"])
    white = white if bool(white.any()) else anatomy.mask
    return {name: float(getattr(maps, name)[white].median()) for name in ("density", "r1", "r2")}


class _Search:
    """Places for lesions, on a lattice."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self.here = place(anatomy.grid)
        steps = [max(1, round(LATTICE / size)) for size in anatomy.grid.voxel_size]
        self.some = tuple(slice(None, None, step) for step in steps)
        spacing = [step * size for step, size in zip(steps, anatomy.grid.voxel_size, strict=True)]
        mask, self.labels = anatomy.mask[self.some].cpu(), anatomy.labels[self.some].cpu()
        self.depth = torch.from_numpy(distance_transform_edt(mask.numpy(), sampling=spacing)).float()
        ventricles = mask & (self.labels == LABELS["csf"]) & (self.depth > DEEP)
        far = distance_transform_edt(~ventricles.numpy(), sampling=spacing) if bool(ventricles.any()) else torch.zeros(mask.shape)
        self.from_ventricles = torch.as_tensor(far).float()

    def find(self, kind: str, radius: float, generator: torch.Generator) -> tuple[float, float, float]:
        """Return a place where a lesion of this kind and size may be, mm."""
        home = torch.isin(self.labels, torch.tensor([LABELS[name] for name in _KINDS[kind].homes], dtype=self.labels.dtype))
        home &= self.depth > 0
        first = home & (self.depth > 0.7 * radius)
        if "plaque" in kind:
            first &= (self.from_ventricles > 0.6 * radius) & (self.from_ventricles < radius + 12.0)
        elif kind == "calcification":  # the glands before the white matter
            first &= ~torch.isin(self.labels, torch.tensor([LABELS[name] for name in WHITE], dtype=self.labels.dtype))
        inner = (self.depth > min(radius, 0.6 * float(self.depth.max()))) & (self.depth > 0)
        for candidates in (first, home, inner):
            places = candidates.nonzero()
            if len(places):
                chosen = places[int(torch.randint(len(places), (), generator=generator))]
                return self._mm(chosen)
        return self._mm(self.anatomy.mask.nonzero()[0], whole=True)

    def _mm(self, voxel: Tensor, *, whole: bool = False) -> tuple[float, float, float]:
        axes = self.here if whole else tuple(axis[s] for axis, s in zip(self.here, self.some, strict=True))
        x, y, z = (float(axis[int(n)]) for axis, n in zip(axes, voxel, strict=True))
        return x, y, z


def _lesion(kind: str, label: int, usual: dict[str, float], search: _Search, generator: torch.Generator) -> tuple[Lesion, Tensor]:
    """Draw one lesion; return it and how much of each of its voxels is core."""
    ranges = _KINDS[kind]

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    radius, pos, neg = (between(*span) for span in (ranges.radius, ranges.chi_pos, ranges.chi_neg))
    rim = between(0.06, 0.12) if kind == "rim_plaque" else between(1.0, 1.5) * pos if kind == "haemorrhage" else pos
    centre = search.find(kind, radius, generator)
    box, distance = _outline(search, centre, radius, ranges.lumpy, generator)
    voxel = sum(search.anatomy.grid.voxel_size) / 3
    share = (0.5 + distance / voxel).clamp_(0, 1) * search.anatomy.mask[box]
    core = (0.5 + (distance - RIM) / voxel).clamp_(0, 1)
    rates = [getattr(ranges, name) * usual[name] for name in ("density", "r1", "r2")]
    density, r1, r2 = min(rates[0], 1.0), rates[1], rates[2]
    return Lesion(kind, centre, radius, pos, neg, rim, density, r1, r2, label, box, share), core


def _outline(
    search: _Search, centre: tuple[float, float, float], radius: float, lumpy: float, generator: torch.Generator
) -> tuple[Box, Tensor]:
    """Return a box around a lesion and about the distance to its irregular surface, positive inside, mm."""
    reach = 1.6 * radius + max(search.anatomy.grid.voxel_size)
    box = search.here.box([c - reach for c in centre], [c + reach for c in centre])
    if box is None:
        raise MaskError(f"there is no voxel at {centre} mm. Draw into an anatomy whose mask lies on its grid.")
    at = search.here.at(box)
    shape = [axis.numel() for axis in at]
    points = torch.stack([(u - c).expand(shape) for u, c in zip(at, centre, strict=True)], -1).reshape(-1, 3)
    turn, _ = torch.linalg.qr(torch.randn((3, 3), generator=generator))
    stretch = torch.exp(0.2 * torch.randn(3, generator=generator).clamp_(-2, 2))
    stretch = stretch / stretch.prod() ** (1 / 3)
    from_centre = ((points @ turn) / stretch).norm(dim=1)
    waves = Waves(2.2 * radius, 12, generator).value(points).clamp_(-1.5, 1.5)
    return box, (radius * (1 + lumpy * waves / 1.5) - from_centre).view(shape)
