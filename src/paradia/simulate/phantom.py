"""Spheres and cylinders of known susceptibility, whose field is known exactly."""

from __future__ import annotations

import math
from itertools import product
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from paradia.errors import GeometryError, InputError
from paradia.grid import Grid
from paradia.simulate.head import Head

RADIUS = 75.0
"""Of the bottle of water that holds it all, mm."""

COARSEST = 5.0
"""Voxels larger than this, mm, cannot show what the bottle holds."""

PARTS = 3
"""A voxel is divided into this many along each axis, to tell how much of it is inside."""

WATER = (1.0, 2.0)
"""Signal and R2* in 1/s of the water."""

RELAXIVITY = 45.0
"""R2* that χ brings at 3 T, 1/s per ppm."""


class Sphere(NamedTuple):
    """A ball; lengths in mm from the middle of the bottle, χ in ppm."""

    centre: tuple[float, float, float]
    radius: float
    chi: float


class Cylinder(NamedTuple):
    """A cylinder without ends along an array axis."""

    centre: tuple[float, float, float]
    axis: int
    radius: float
    chi: float


def _ring(degrees: float) -> tuple[float, float, float]:
    """Return a place on the ring of the spheres."""
    return 35.0 * math.cos(math.radians(degrees)), 35.0 * math.sin(math.radians(degrees)), 36.0


CONTENTS: dict[str, Sphere | Cylinder] = {
    "sphere_50ppb": Sphere(_ring(0.0), 10.0, 0.05),
    "sphere_100ppb": Sphere(_ring(50.0), 10.0, 0.1),
    "sphere_200ppb": Sphere(_ring(100.0), 10.0, 0.2),
    "sphere_minus_100ppb": Sphere(_ring(150.0), 10.0, -0.1),
    "sphere_minus_200ppb": Sphere(_ring(290.0), 10.0, -0.2),
    "cylinder_x_100ppb": Cylinder((0.0, 30.0, -35.0), 0, 6.0, 0.1),
    "cylinder_y_minus_100ppb": Cylinder((30.0, 0.0, -10.0), 1, 6.0, -0.1),
    "cylinder_z_100ppb": Cylinder((-25.0, -25.0, 0.0), 2, 6.0, 0.1),
}
"""What the bottle holds; nothing touches anything else."""


def phantom(grid: Grid, *, b0: float = 3.0) -> Head:
    r"""Fill a bottle of water with spheres and cylinders of known χ and compute their field in closed form.

    A sphere makes no field inside and :math:`\frac{\chi}{3}\left(\frac{a}{r}\right)^3(3\cos^2\theta - 1)` outside; a cylinder at the
    angle θ with B0 makes :math:`\frac{\chi}{6}(3\cos^2\theta - 1)` inside and
    :math:`\frac{\chi}{2}\left(\frac{a}{\rho}\right)^2\sin^2\theta\cos2\varphi` outside.  What surrounds the bottle has the χ of
    water, as if it were immersed in it, and the cylinders go on there.

    Parameters
    ----------
    grid
        Where to sample; the middle of the grid is the middle of the bottle, whose diameter is 150 mm.
    b0
        Field strength, T; sets R2*.

    Returns
    -------
    Head
        Maps on the grid: χ and the mask share voxels by how much of them is inside; the field is that in the middle of each voxel.

    Raises
    ------
    GeometryError
        Voxels too coarse for what the bottle holds.
    InputError
        The field strength is not positive.

    References
    ----------
    Schenck JF. The role of magnetic susceptibility in magnetic resonance imaging. Med Phys 1996;23:815-850. doi:10.1118/1.597854.
    """
    if max(grid.voxel_size) > COARSEST:
        raise GeometryError(f"voxels of {grid.voxel_size} mm are too coarse for spheres of 20 mm. Take {COARSEST:g} mm or less.")
    if not (math.isfinite(b0) and b0 > 0):
        raise InputError(f"the field strength must be positive, got {b0}.")
    axes = [(torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * v for n, v in zip(grid.shape, grid.voxel_size, strict=True)]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    direction = torch.tensor(grid.b0_dir, dtype=torch.float64)
    chi, field = (torch.zeros(grid.shape, dtype=torch.float64) for _ in range(2))
    labels = torch.zeros(grid.shape, dtype=torch.int64)
    bottle = _share(axes, Sphere((0.0, 0.0, 0.0), RADIUS, 0.0), grid)
    mask = bottle > 0.5
    labels[mask] = 1
    for number, body in enumerate(CONTENTS.values(), 2):
        share = _share(axes, body, grid)
        chi += body.chi * share
        field += _field(place, body, direction)
        labels[(share > 0.5) & mask] = number
    names = MappingProxyType(dict(enumerate(["outside", "water", *CONTENTS])))
    signal, rate = WATER
    r2star = (rate + RELAXIVITY * b0 / 3 * chi.abs()) * mask
    maps = [image.to(torch.float32) for image in (chi, signal * bottle, r2star, field)]
    return Head(maps[0], mask, labels, names, maps[1], maps[2], maps[3], maps[3].clone(), torch.zeros(grid.shape), grid, float(b0))


def _across(offset: Tensor, body: Sphere | Cylinder) -> Tensor:
    """Return the distance from the centre or from the axis."""
    if isinstance(body, Cylinder):
        offset = offset[..., [axis for axis in range(3) if axis != body.axis]]
    return offset.square().sum(-1).sqrt()


def _share(axes: list[Tensor], body: Sphere | Cylinder, grid: Grid) -> Tensor:
    """Return how much of each voxel a body fills."""
    total = torch.zeros(grid.shape)
    free = body.axis if isinstance(body, Cylinder) else None
    near, offsets = [], []
    for number, (axis, size, centre) in enumerate(zip(axes, grid.voxel_size, body.centre, strict=True)):
        close = ((axis - centre).abs() <= body.radius + size).nonzero().flatten().tolist() or [0]
        part = slice(0, len(axis)) if number == free else slice(close[0], close[-1] + 1)
        near.append(part)
        offsets.append(axis[part] * 0 if number == free else axis[part] - centre)
    x_box, y_box, z_box = near
    box = total[x_box, y_box, z_box]  # a view: what is added to it is added to the volume
    steps = [((n - (PARTS - 1) / 2) / PARTS) for n in range(PARTS)]
    for shift in product(steps, repeat=3):
        x, y, z = (
            (offset + (0.0 if number == free else step * size)).square().float()
            for number, (offset, step, size) in enumerate(zip(offsets, shift, grid.voxel_size, strict=True))
        )
        box += x[:, None, None] + y[:, None] + z <= body.radius**2
    return total / PARTS**3


def _field(place: Tensor, body: Sphere | Cylinder, direction: Tensor) -> Tensor:
    """Return the field of a body, ppm."""
    offset = place - torch.tensor(body.centre, dtype=torch.float64)
    distance = _across(offset, body)
    inside = distance <= body.radius
    if isinstance(body, Sphere):
        cosine = (offset @ direction) / distance.clamp(min=1e-9)
        outside = body.chi / 3 * (body.radius / distance.clamp(min=1e-9)) ** 3 * (3 * cosine.square() - 1)
        return torch.where(inside, 0.0, outside)
    across = direction.clone()
    across[body.axis] = 0.0
    sine = float(across.square().sum())
    double = 2 * (offset @ across).square() / (distance.square() * max(sine, 1e-30)).clamp(min=1e-30) - 1
    outside = body.chi / 2 * (body.radius / distance.clamp(min=1e-9)).square() * sine * double
    return torch.where(inside, torch.full_like(outside, body.chi / 6 * (3 * (1 - sine) - 1)), outside)
