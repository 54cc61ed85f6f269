"""Where everything lies in the head: x to the right, y forward, z up, mm; the middle of the field of view is CENTRE."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from paradia.simulate._canvas import Canvas
from paradia.simulate._noise import Waves
from paradia.simulate._shapes import Frame, Point, coverage, ellipsoid, join, superellipsoid, tube

CENTRE: Point = (0.0, -10.0, 10.0)
CEREBRUM: tuple[Point, Point, float] = ((0.0, -15.0, 22.0), (67.0, 83.0, 50.0), 38.0)
SIDES = (-1.0, 1.0)
CSF, SKULL, SCALP = 2.2, 6.5, 5.0
RIBBON, FISSURE = 2.8, 0.8

# name, centre on the right, semi-axes, turn in degrees about x, y, z; mirrored to the left
NUCLEI: tuple[tuple[str, Point, Point, Point], ...] = (
    ("putamen", (27.0, 3.0, 3.0), (4.8, 15.0, 10.0), (0.0, 0.0, 10.0)),
    ("globus_pallidus", (20.0, -2.0, 1.0), (3.6, 9.0, 6.5), (0.0, 0.0, 18.0)),
    ("thalamus", (12.0, -19.0, 8.0), (8.0, 13.5, 8.5), (0.0, 0.0, 22.0)),
    ("red_nucleus", (5.0, -21.0, -7.0), (3.2, 3.6, 4.2), (0.0, 0.0, 0.0)),
    ("substantia_nigra", (10.5, -17.0, -11.0), (2.2, 6.2, 3.6), (0.0, 25.0, 35.0)),
    ("dentate", (15.0, -58.0, -33.0), (3.2, 8.5, 5.5), (10.0, 25.0, -30.0)),
)
CAUDATE = ([(13.5, 22.0, 5.0), (15.0, 12.0, 15.0), (18.0, -6.0, 23.0), (23.0, -26.0, 20.0)], [5.8, 5.5, 3.4, 1.6])
VENTRICLE = (
    [(8.0, 30.0, 8.0), (9.0, 8.0, 20.0), (13.0, -16.0, 25.0), (22.0, -42.0, 16.0), (30.0, -25.0, -8.0), (33.0, -8.0, -16.0)],
    [3.0, 4.2, 4.0, 5.5, 2.2, 1.5],
)
HORN = ([(22.0, -42.0, 16.0), (22.0, -66.0, 9.0)], [5.0, 1.5])


def envelope(frame: Frame) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return distances to the cerebrum, the cerebellum, the whole brain, and the cerebrum's ρ."""
    at = frame.at((slice(None),) * 3)
    cerebrum, rho = superellipsoid(at, CEREBRUM[0], CEREBRUM[1], CEREBRUM[2])
    for side in SIDES:
        cerebrum = join(cerebrum, ellipsoid(at, (side * 43.0, -12.0, -17.0), (22.0, 42.0, 21.0), (-8.0, 0.0, 0.0)), 3.0)
    cerebellum = ellipsoid(at, (0.0, -62.0, -31.0), (49.0, 30.0, 24.0), (-12.0, 0.0, 0.0))
    stem = tube(at, [(0.0, -18.0, -4.0), (0.0, -25.0, -25.0), (0.0, -40.0, -52.0), (0.0, -44.0, -150.0)], [14.0, 14.5, 9.5, 5.5])
    brain = join(join(cerebrum, cerebellum, 3.0), stem, 3.0)
    return cerebrum, cerebellum, brain, rho


def head(canvas: Canvas, generator: torch.Generator, *, sinuses: bool, calcification: bool) -> Tensor:
    """Paint everything and return the brain: the surface of the pia with all that lies under it."""
    cerebrum, cerebellum, brain, rho = envelope(canvas.frame)
    _shells(canvas, brain)
    if sinuses:
        _cavities(canvas, brain)
    inside = coverage(brain)
    canvas.paint("white_matter", brain)
    _cerebellum(canvas, cerebellum, generator)
    _cortex(canvas, cerebrum, rho, generator)
    _deep(canvas)
    _vessels(canvas, generator)
    if calcification:
        _ellipsoid(canvas, "calcification", (0.0, -31.0, 8.0), (2.6, 3.0, 2.2))
        for side in SIDES:
            _ellipsoid(canvas, "calcification", (side * 22.5, -43.0, 14.0), (1.6, 3.2, 1.8))
    low_end = canvas.frame.z > -58.0
    return (inside > 0.5) & low_end


def _shells(canvas: Canvas, brain: Tensor) -> None:
    at = canvas.frame.at((slice(None),) * 3)
    face = superellipsoid(at, (0.0, 38.0, -42.0), (56.0, 60.0, 62.0))[0]
    nose = ellipsoid(at, (0.0, 96.0, -28.0), (13.0, 16.0, 22.0), (-25.0, 0.0, 0.0))
    neck = tube(at, [(0.0, -22.0, -20.0), (0.0, -28.0, -200.0)], [56.0, 62.0])
    outer = join(join(join(brain + (CSF + SKULL + SCALP), face, 8.0), neck, 12.0), nose, 6.0)
    canvas.paint("muscle", outer)
    canvas.paint("fat", torch.minimum(outer - 1.2, SCALP - outer))
    canvas.paint("bone", brain + (CSF + SKULL))
    canvas.paint("marrow", 1.1 - (brain + CSF + SKULL / 2).abs())
    canvas.paint("csf", brain + CSF)


def _cavities(canvas: Canvas, brain: Tensor) -> None:
    """Air beside the brain, never nearer than two millimetres of bone and water."""
    spared = -brain - 2.0
    boxes = [
        ((0.0, 44.0, -19.0), (12.0, 19.0, 11.0)),  # ethmoid
        ((0.0, 17.0, -29.0), (13.0, 11.0, 9.5)),  # sphenoid
        ((0.0, 62.0, -50.0), (9.0, 28.0, 14.0)),  # nose
        ((0.0, 20.0, -62.0), (10.0, 9.0, 24.0)),  # pharynx
    ]
    for side in SIDES:
        boxes += [
            ((side * 9.0, 72.0, -2.0), (9.0, 8.0, 11.0)),  # frontal
            ((side * 26.0, 56.0, -46.0), (12.0, 14.0, 14.0)),  # maxillary
            ((side * 59.0, -41.0, -42.0), (8.0, 11.0, 11.0)),  # mastoid
        ]
    for centre, semi in boxes:
        _ellipsoid(canvas, "bone", centre, tuple(s + 1.2 for s in semi), limit=spared)  # type: ignore[arg-type]
        _ellipsoid(canvas, "air", centre, semi, limit=spared)
    for side in SIDES:
        _ellipsoid(canvas, "csf", (side * 32.0, 66.0, -17.0), (11.5, 12.0, 11.5), limit=spared)  # eye
        _tube(canvas, "air", [(side * 44.0, -22.0, -37.0), (side * 100.0, -26.0, -36.0)], [4.0, 3.0], limit=spared)


def _cerebellum(canvas: Canvas, distance: Tensor, generator: torch.Generator) -> None:
    """Water under the tentorium, grey folia on white branches."""
    box = canvas.frame.box((-55.0, -98.0, -62.0), (55.0, -28.0, 0.0))
    if box is None:
        return
    inner = distance[box]
    x, y, z = canvas.frame.at(box)
    radius = torch.hypot(y + 48.0, z + 30.0) + 0 * x
    angle = torch.atan2(z + 30.0, y + 48.0)
    jitter = 2 * math.pi * torch.rand(2, generator=generator)
    fold = torch.sin(13 * angle + 0.05 * x + jitter[0]) + 0.5 * torch.sin(29 * angle + 0.03 * radius + jitter[1])
    behind = coverage((-34.0 - y) + 0 * (x + z))
    canvas.paint("csf", inner + 1.0, box, behind)
    canvas.paint("grey_matter", inner, box, behind)
    canvas.paint("csf", torch.minimum(inner, torch.minimum(-0.8 - fold, 8.0 - inner)) * 1.5, box, behind)
    canvas.paint("white_matter", torch.minimum(inner - 2.5, inner - 9.0 + 6.0 * fold), box, behind)


def _cortex(canvas: Canvas, distance: Tensor, rho: Tensor, generator: torch.Generator) -> None:
    """A grey ribbon that follows the sulci: winding sheets of water that run inwards from the surface."""
    folds, depth = Waves(25.0, 28, generator), Waves(45.0, 12, generator)
    stem = canvas.frame.z[None, None, :] + 0 * distance < -26.0
    near = ((distance > -1.0) & (distance < 36.0)).nonzero()
    centre = torch.tensor(CEREBRUM[0])
    place = torch.stack([axis[near[:, i]] for i, axis in enumerate(canvas.frame)], 1)
    d, r = distance[tuple(near.T)], rho[tuple(near.T)].clamp(min=0.2)
    water = torch.full_like(d, 50.0)
    shallow = d < 32.0
    flat = centre + (place[shallow] - centre) / r[shallow, None]
    flat = flat * torch.where(place[shallow, :1] < 0, torch.tensor([-1.0, 1.0, 1.0]), torch.tensor([1.0, 1.0, 1.0])) + 7.0 * torch.sin(
        flat.roll(1, 1) / 13.0
    )
    reach = 18.0 + 5.0 * depth.value(flat).clamp(-1.5, 1.5)
    water[shallow] = torch.hypot(folds.distance(flat), (d[shallow] - reach).clamp(min=0)) - FISSURE
    core = ((place[:, 1] + 6.0) / 52.0).square() + ((place[:, 2] - 6.0) / 24.0).square()
    midline = torch.hypot(place[:, 0], (1 - core.sqrt()).mul(-22.0).neg().clamp(min=0)) - FISSURE
    water = torch.minimum(water, midline).clamp(max=6.0)  # no jump anywhere that would pass for an edge
    ribbon = torch.full_like(distance, 6.0)
    ribbon[tuple(near.T)] = torch.minimum(d, water)
    sheet = torch.full_like(distance, -6.0)
    sheet[tuple(near.T)] = -water
    outside = distance < -1.0
    ribbon[outside], sheet[outside] = -5.0, -6.0
    where = coverage(distance) * ~(stem & (distance < 0))
    core_stem = canvas.frame.at((slice(None),) * 3)
    trunk = tube(core_stem, [(0.0, -18.0, 2.0), (0.0, -22.0, -20.0)], [17.0, 16.0])
    where = where * (1 - coverage(trunk))
    canvas.paint("grey_matter", RIBBON - ribbon, within=where)
    canvas.paint("csf", torch.minimum(sheet, distance), within=where)


def _deep(canvas: Canvas) -> None:
    """Ventricles and nuclei."""
    for side in SIDES:
        for path, radii in (VENTRICLE, HORN):
            _tube(canvas, "csf", [(side * x, y, z) for x, y, z in path], radii)
    _ellipsoid(canvas, "csf", (0.0, -8.0, 3.0), (1.8, 12.0, 8.0))
    _tube(canvas, "csf", [(0.0, -18.0, -4.0), (0.0, -34.0, -14.0)], [1.0, 1.0])
    _ellipsoid(canvas, "csf", (0.0, -41.0, -27.0), (5.5, 5.0, 7.5))
    _ellipsoid(canvas, "csf", (0.0, -4.0, -17.0), (11.0, 8.0, 3.5))
    for side in SIDES:
        _tube(canvas, "caudate", [(side * x, y, z) for x, y, z in CAUDATE[0]], CAUDATE[1])
        for name, (x, y, z), semi, (a, b, c) in NUCLEI:
            _ellipsoid(canvas, name, (side * x, y, z), semi, (a, side * b, side * c))


def _vessels(canvas: Canvas, generator: torch.Generator) -> None:
    """Dural sinuses, the deep veins, cortical and medullary veins."""
    (cx, cy, cz), (_, ay, az), below = CEREBRUM
    arc = []
    for degrees in range(20, 196, 8):
        t = math.radians(degrees)
        up = (az if t < math.pi else below) + 3.6
        arc.append(
            (
                cx,
                cy + (ay + 3.6) * math.copysign(abs(math.cos(t)) ** 0.8, math.cos(t)),
                cz + up * math.copysign(abs(math.sin(t)) ** 0.8, math.sin(t)),
            )
        )
    _tube(canvas, "vein", arc, [1.5 + 2.5 * i / len(arc) for i in range(len(arc))])
    _tube(canvas, "vein", [(0.0, -40.0, 12.0), (0.0, -62.0, 2.0), (0.0, -94.0, 0.0)], [1.8, 2.2, 2.8])
    _tube(canvas, "vein", [(0.0, -34.0, 13.0), (0.0, -42.0, 16.0), (0.0, -42.0, 11.0)], [1.8, 2.0, 1.8])
    for side in SIDES:
        _tube(
            canvas,
            "vein",
            [(0.0, -97.0, 0.0), (side * 30.0, -88.0, -11.0), (side * 58.0, -58.0, -18.0), (side * 60.0, -34.0, -34.0)],
            [4.0, 4.0, 3.5, 3.5],
        )
        _tube(canvas, "vein", [(side * 2.0, 4.0, 13.0), (side * 2.0, -18.0, 16.0), (side * 1.2, -34.0, 13.0)], [0.9, 1.2, 1.5])
        _tube(canvas, "vein", [(side * 2.0, 4.0, 13.0), (side * 5.0, 16.0, 15.0), (side * 7.5, 28.0, 17.0)], [0.9, 0.8, 0.6])
        _tube(canvas, "vein", [(side * 2.0, 4.0, 13.0), (side * 16.0, -8.0, 20.0), (side * 21.0, -24.0, 21.0)], [0.9, 0.9, 0.7])
        _tube(
            canvas,
            "vein",
            [(side * 14.0, -4.0, -14.0), (side * 15.0, -22.0, -8.0), (side * 8.0, -36.0, 4.0), (0.0, -40.0, 12.0)],
            [0.9, 1.1, 1.2, 1.4],
        )
    for _ in range(44):
        draw = torch.rand(6, generator=generator).tolist()
        _vein(canvas, draw)


def _vein(canvas: Canvas, draw: list[float]) -> None:
    """Run a vein from the surface of the cerebrum inwards with a bend."""
    azimuth, height = 2 * math.pi * draw[0], -0.15 + 1.1 * draw[1]
    flat = math.sqrt(max(1 - min(height, 0.98) ** 2, 0.04))
    direction = (flat * math.cos(azimuth), flat * math.sin(azimuth), min(height, 0.98))
    (c, semi, below) = CEREBRUM
    size = (semi[0], semi[1], semi[2] if direction[2] > 0 else below)
    rho = sum(abs(u) ** 2.5 for u in direction) ** 0.4
    surface = [a * u / rho for a, u in zip(size, direction, strict=True)]
    bend = [9.0 * (v - 0.5) for v in draw[2:5]]
    shares = (0.985, 0.86, 0.70, 0.48 + 0.15 * draw[5])
    path = []
    for n, share in enumerate(shares):
        x, y, z = (m + share * s + b * math.sin(1.6 * n) for m, s, b in zip(c, surface, bend, strict=True))
        path.append((x, y, z))
    thick = 0.65 + 0.7 * draw[5]
    _tube(canvas, "vein", path, [thick * 1.2, thick, 0.8 * thick, 0.5 * thick])


def _ellipsoid(canvas: Canvas, name: str, centre: Point, semi: Point, turn: Point = (0.0, 0.0, 0.0), limit: Tensor | None = None) -> None:
    reach = max(semi) + 4.0
    box = canvas.frame.box([c - reach for c in centre], [c + reach for c in centre])
    if box is None:
        return
    distance = ellipsoid(canvas.frame.at(box), centre, semi, turn)
    canvas.paint(name, distance if limit is None else torch.minimum(distance, limit[box]), box)


def _tube(canvas: Canvas, name: str, path: list[Point], radii: list[float], limit: Tensor | None = None) -> None:
    for (a, ra), (b, rb) in pairwise(zip(path, radii, strict=True)):  # piece by piece: the boxes stay small
        reach = max(ra, rb) + 4.0
        box = canvas.frame.box(
            [min(p, q) - reach for p, q in zip(a, b, strict=True)], [max(p, q) + reach for p, q in zip(a, b, strict=True)]
        )
        if box is None:
            continue
        distance = tube(canvas.frame.at(box), [a, b], [ra, rb])
        canvas.paint(name, distance if limit is None else torch.minimum(distance, limit[box]), box)
