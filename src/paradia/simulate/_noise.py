"""Smooth random fields that depend on place, not on the grid they are sampled on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paradia.simulate._shapes import Frame

REACH = 130.0
"""Random fields are defined this far from the middle of the head, mm."""


def texture(frame: Frame, generator: torch.Generator, scales: tuple[float, ...] = (3.0, 7.0, 18.0)) -> Tensor:
    """Draw a random field of mean 0 and standard deviation 1 with structure at several lengths in mm."""
    total = torch.zeros([len(axis) for axis in frame])
    for scale in scales:
        knots = torch.arange(-REACH, REACH + scale, scale)
        values = torch.randn((len(knots),) * 3, generator=generator)
        for axis in frame:  # contracts the first axis and appends the new one: after three turns the order is x, y, z
            weights = torch.exp(-0.5 * ((axis[:, None] - knots) / (0.6 * scale)).square())
            weights = weights / weights.square().sum(1, keepdim=True).sqrt().clamp(min=1e-6)
            values = torch.tensordot(values, weights, dims=([0], [1]))
        total += values
    return total / math.sqrt(len(scales))


class Waves:
    """A sum of plane waves of one wavelength in random directions; its zero surfaces wind like sulci."""

    def __init__(self, wavelength: float, count: int, generator: torch.Generator) -> None:
        directions = torch.randn((count, 3), generator=generator)
        directions = directions / directions.norm(dim=1, keepdim=True)
        self.k = directions * (2 * math.pi / wavelength)
        self.phase = 2 * math.pi * torch.rand(count, generator=generator)
        self.scale = math.sqrt(2 / count)

    def value(self, points: Tensor) -> Tensor:
        """Evaluate at points (n, 3) in mm."""
        return torch.addmm(self.phase, points, self.k.T).cos_().sum(1) * self.scale

    def distance(self, points: Tensor) -> Tensor:
        """Return the distance to the zero surface at points (n, 3), mm, to first order."""
        angle = torch.addmm(self.phase, points, self.k.T)
        value = angle.cos().sum(1)
        slope = torch.sin_(angle) @ self.k
        return value.abs() / (slope.norm(dim=1) + 0.15 * float(self.k.norm(dim=1).mean()) * math.sqrt(len(self.k)))
