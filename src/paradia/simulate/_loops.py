"""Loops of wire around a head: where they lie, and their fields in closed form."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ellipe, ellipk

GOLDEN = math.pi * (3 - math.sqrt(5))
"""Angle that spreads points evenly over a sphere when each is turned by it, rad."""

LOWEST = -0.5
"""Cosine of the polar angle at which the helmet ends: below it is the neck."""

OVERLAP = 1.5
"""Distance of neighbouring loops in radii; near it the flux through a neighbour cancels, so that arrays are built so."""

WIRE = 4.0
"""Half the width of the conductor, mm. Fields are those of a current smeared over it, and so finite everywhere."""

NEAR_AXIS = 1e-3
"""Closer to the axis than this, in radii of the loop, the first term of the series is used; it is good to its square."""


class Loops(NamedTuple):
    """Circular loops in the scanner's frame, whose origin is the middle of the helmet and whose z axis is B0."""

    centres: NDArray[np.float64]
    """(loop, 3), mm."""
    frames: NDArray[np.float64]
    """(loop, 3, 3): rows are two directions in the plane of the loop, and its axis, which points outwards."""
    radius: float
    """Of every loop, mm."""


def helmet(n: int, radius: tuple[float, float, float], seed: int) -> Loops:
    """Spread loops evenly over an ellipsoid that is open towards the neck; no two helmets are quite the same.

    Parameters
    ----------
    n
        How many loops.
    radius
        Semi-axes of the ellipsoid, mm.
    seed
        Turns the row of loops about the axis of the helmet and shifts each by up to a tenth of its radius.
    """
    generator = np.random.default_rng(seed)
    axes = np.asarray(radius, dtype=float)
    height = 1 - (np.arange(n) + 0.5) / n * (1 - LOWEST)
    angle = GOLDEN * np.arange(n) + generator.uniform(0, 2 * math.pi)
    flat = np.sqrt(1 - height**2)
    unit = np.stack([flat * np.cos(angle), flat * np.sin(angle), height], 1)
    area = 2 * math.pi * (1 - LOWEST) * float(np.prod(axes)) ** (2 / 3)
    size = math.sqrt(2 / math.sqrt(3) * area / n) / OVERLAP  # each loop has a hexagon to itself
    size = min(size, 0.8 * float(axes.min()))
    unit += generator.uniform(-0.1, 0.1, unit.shape) * size / axes
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    outwards = unit / axes
    outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
    return Loops(unit * axes, np.stack([_frame(axis) for axis in outwards]), size)


def magnetic(points: NDArray, loops: Loops, wire: float = WIRE) -> NDArray[np.float64]:
    r"""Return the field of each loop for unit current and :math:`\mu_0 = 1`, by complete elliptic integrals.

    A current smeared so that distances :math:`r` become :math:`\sqrt{r^2 + w^2}` has the closed form of a thin loop with
    :math:`z^2 + w^2` in the place of :math:`z^2`.

    Parameters
    ----------
    points
        Places (point, 3), mm.
    loops
        Where the loops lie.
    wire
        The w of the formula, mm.

    Returns
    -------
    ndarray
        (loop, point, 3), per mm.
    """
    fields = np.empty((len(loops.centres), len(points), 3))
    for field, centre, frame in zip(fields, loops.centres, loops.frames, strict=True):
        x, y, z = ((points - centre) @ frame.T).T
        across, along = _of_one(np.hypot(x, y), z, loops.radius, wire)
        field[:] = np.stack([across * x, across * y, along], 1) @ frame
    return fields


def receive(points: NDArray, loops: Loops, delay: float) -> NDArray[np.complex128]:
    """Return the sensitivity of every loop at places in the scanner's frame, (loop, point); see `coils.sensitivities`."""
    field = magnetic(points, loops)
    seen = field[..., 0] - 1j * field[..., 1]
    if delay:
        distance = np.linalg.norm(points[None] - loops.centres[:, None], axis=-1)
        seen = seen * np.exp(-1e-3j * delay * distance)
    return seen


def potential(points: NDArray, loops: Loops, wire: float = WIRE) -> NDArray[np.float64]:
    """Return the vector potential of each loop for unit current and µ0 = 1: (loop, point, 3)."""
    values = np.empty((len(loops.centres), len(points), 3))
    a = loops.radius
    for value, centre, frame in zip(values, loops.centres, loops.frames, strict=True):
        x, y, z = ((points - centre) @ frame.T).T
        rho = np.hypot(x, y)
        square = z * z + wire * wire
        far = (a + rho) ** 2 + square
        m = 4 * a * rho / far
        with np.errstate(invalid="ignore", divide="ignore"):
            round_ = np.sqrt(a / (rho * m)) / math.pi * ((1 - m / 2) * ellipk(m) - ellipe(m)) / rho
        round_ = np.where(rho < NEAR_AXIS * a, a * a / (4 * (a * a + square) ** 1.5), round_)
        value[:] = np.stack([-round_ * y, round_ * x, np.zeros_like(x)], 1) @ frame
    return values


def inductance(loops: Loops, segments: int = 240) -> NDArray[np.float64]:
    """Return the inductances for µ0 = 1, mm: flux of each loop's field through each other, and through itself."""
    turn = (np.arange(segments) + 0.5) * 2 * math.pi / segments
    ring = np.stack([np.cos(turn), np.sin(turn), 0 * turn], 1)
    tangent = np.stack([-np.sin(turn), np.cos(turn), 0 * turn], 1) * 2 * math.pi * loops.radius / segments
    matrix = np.empty((len(loops.centres),) * 2)
    for row, centre, frame in zip(matrix, loops.centres, loops.frames, strict=True):
        row[:] = np.einsum("nsc,sc->n", potential(centre + loops.radius * ring @ frame, loops), tangent @ frame)
    return 0.5 * (matrix + matrix.T)


def _frame(axis: NDArray) -> NDArray[np.float64]:
    """Complete an axis to a right-handed frame; rows are its directions."""
    other = np.eye(3)[int(np.abs(axis).argmin())]
    first = np.cross(other, axis)
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(axis, first), axis])


def _of_one(rho: NDArray, z: NDArray, a: float, wire: float) -> tuple[NDArray, NDArray]:
    """Return the field across the axis, divided by the distance from it, and along it."""
    square = z * z + wire * wire
    near, far = (a - rho) ** 2 + square, (a + rho) ** 2 + square
    m = 4 * a * rho / far
    first, second = ellipk(m), ellipe(m)
    scale = 1 / (2 * math.pi * near * np.sqrt(far))
    along = scale * ((a * a - rho * rho - square) * second + near * first)
    with np.errstate(invalid="ignore", divide="ignore"):
        across = scale * z / (rho * rho) * ((a * a + rho * rho + square) * second - near * first)
    return np.where(rho < NEAR_AXIS * a, 0.75 * a * a * z / (a * a + square) ** 2.5, across), along
