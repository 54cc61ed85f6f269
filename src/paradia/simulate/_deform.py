"""Random smooth deformations that never fold, there and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from paradia.simulate.bank import Map

STEP = 5.0
"""Spacing of the knots, mm."""
LOW, SHAPE = (-110.0, -140.0, -145.0), (45, 57, 54)
SIDED = 0.15
"""Share of the random deformation's variance in which the two sides of a head differ."""
STEPS = 5
"""The velocity is followed in 2^5 steps."""


class Deformation(NamedTuple):
    """Maps places of a subject (mm from the middle of the grid) to the bank's frame and back."""

    matrix: Tensor
    """Affine part, 3 × 3."""
    centre: Tensor
    """Place of the bank that the middle of the grid shows, before the deformation."""
    there: Tensor
    """Displacement at the knots, mm, x y z first: subject to bank, before the affine part."""
    back: Tensor
    """The inverse displacement at the knots."""

    def to_subject(self, points: Tensor) -> Tensor:
        """Move points (n, 3) of the bank to the subject."""
        flat = (points - self.centre.to(points)) @ torch.linalg.inv(self.matrix).to(points).T
        return flat + look_up(self.back.to(points), LOW, STEP, flat).T

    def to_bank(self, points: Tensor) -> Tensor:
        """Move points (n, 3) of the subject to the bank."""
        moved = points + look_up(self.there.to(points), LOW, STEP, points).T
        return moved @ self.matrix.to(points).T + self.centre.to(points)

    def on(self, axes: Sequence[Tensor]) -> Tensor:
        """Return the places in the bank (n, 3) of all points of a rectangular grid."""
        moved = spline(self.there.to(axes[0]), axes)
        for i, axis in enumerate(axes):
            moved[i] += axis.reshape([-1 if j == i else 1 for j in range(3)])
        return torch.addmm(self.centre.to(moved), moved.reshape(3, -1).T, self.matrix.to(moved).T)

    def at_knots(self) -> Tensor:
        """Return the places in the bank (n, 3) of the knots."""
        return (grid_points() + self.there.reshape(3, -1).T) @ self.matrix.T + self.centre


def draw(matrix: Tensor, centre: Tensor, widening: Map, widen: float, generator: torch.Generator, strength: float) -> Deformation:
    """Draw a deformation.

    Parameters
    ----------
    matrix, centre
        The affine part.
    widening
        Velocities that widen the ventricles, in the bank's frame.
    widen
        How far they move the walls, mm.
    generator
        Source of randomness.
    strength
        Scales the random part.
    """
    axes = knots()
    velocity = torch.zeros((3, *SHAPE))
    for scale, size in ((70.0, 4.2), (34.0, 2.3), (17.0, 1.35)):  # knots this far apart, SD in mm
        coarse = [math.ceil(n * STEP / scale) + 4 for n in SHAPE]
        values = torch.randn((3, *coarse), generator=generator) * (size * strength)
        low = [a - 1.5 * scale for a in LOW]
        velocity += (
            spline(values, axes, low, scale) / 0.48
        )  # SD of a cubic spline of white noise at its knots and between, to the power 3/2
    mirrored = velocity.flip(1) * torch.tensor([-1.0, 1.0, 1.0])[:, None, None, None]
    velocity = (velocity + mirrored) * math.sqrt((1 - SIDED) / 2) + (velocity - mirrored) * math.sqrt(SIDED / 2)
    # in the frame before the affine part, where the velocity lives
    points = grid_points() @ matrix.T + centre
    push = look_up((widening.values.float() - 128) / widening.scale[0], widening.origin, widening.spacing, points)
    velocity -= widen * (torch.linalg.inv(matrix) @ (push * inside_map(points, widening))).reshape(velocity.shape)
    return Deformation(matrix, centre, _exponential(velocity), _exponential(-velocity))


def knots() -> list[Tensor]:
    """Return the coordinates of the knots along each axis."""
    return [low + STEP * torch.arange(n, dtype=torch.float32) for low, n in zip(LOW, SHAPE, strict=True)]


def spline(values: Tensor, axes: Sequence[Tensor], low: Sequence[float] = LOW, step: float = STEP) -> Tensor:
    """Evaluate cubic B-splines (c, x, y, z) on a rectangular grid; beyond the last knot they stay constant."""
    for axis, first in zip(axes, low, strict=True):  # contracts the axis after the channels and appends the new one
        count = values.shape[1]
        t = ((axis - first) / step).clamp(0, count - 1)
        d = (t[:, None] - torch.arange(count, dtype=torch.float32, device=t.device)).abs()
        weights = torch.where(d < 1, 2 / 3 - d * d * (1 - d / 2), (2 - d).clamp(min=0) ** 3 / 6)
        weights = weights / weights.sum(1, keepdim=True)
        values = torch.tensordot(values, weights, dims=([1], [1]))
    return values


def look_up(values: Tensor, low: Sequence[float], step: float, points: Tensor) -> Tensor:
    """Interpolate maps (c, x, y, z) at points (n, 3); beyond the edge they stay constant."""
    scale = torch.tensor([2.0 / step / max(n - 1, 1) for n in values.shape[1:]], device=points.device)
    shift = -torch.tensor(low, device=points.device) * scale - 1.0
    found = torch.nn.functional.grid_sample(
        values.permute(0, 3, 2, 1)[None],  # its last axis is the first of the points
        torch.addcmul(shift, points, scale)[None, :, None, None],
        mode="bilinear",
        padding_mode="border",
        align_corners=True,
    )
    return found.reshape(values.shape[0], -1)


def grid_points() -> Tensor:
    """Return all knots (n, 3), mm."""
    return torch.stack(torch.meshgrid(*knots(), indexing="ij"), -1).reshape(-1, 3)


def inside_map(points: Tensor, m: Map) -> Tensor:
    """Tell which points (n, 3) lie on a map's lattice."""
    low = torch.tensor(m.origin, device=points.device)
    high = low + m.spacing * (torch.tensor(m.values.shape[1:], device=points.device) - 1)
    return ((points >= low) & (points <= high)).all(1)


def _exponential(velocity: Tensor) -> Tensor:
    """Follow a constant velocity for unit time by repeated squaring."""
    points = grid_points()
    moved = velocity.reshape(3, -1) / 2**STEPS
    for _ in range(STEPS):
        moved = moved + look_up(moved.reshape(3, *SHAPE), LOW, STEP, points + moved.T)
    return moved.reshape(3, *SHAPE)
