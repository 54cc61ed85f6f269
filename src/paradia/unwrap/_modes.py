"""Several echoes: each unwrapped in space, or one in space and the others in time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from paradia.solvers.pieces import level

Spatial = Callable[[Tensor, Tensor, Tensor, tuple[Tensor, float] | None], tuple[Tensor, Tensor]]
"""Unwraps one volume: ``(turns, magnitude, mask, second)`` to the whole turns of the voxels of the mask, and their pieces."""


def in_space(spatial: Spatial, turns: Tensor, magnitude: Tensor, mask: Tensor, times: tuple[float, ...]) -> Tensor:
    """Unwrap every echo for itself, and bring the echoes to one global number of turns."""
    whole = torch.empty_like(turns)
    previous: list[Tensor] = []
    for echo in range(len(times)):
        partner = echo + 1 if echo + 1 < len(times) else echo - 1
        second = (turns[partner], times[echo] / times[partner]) if partner >= 0 else None
        k, piece = spatial(turns[echo], magnitude[echo], mask, second)
        value = turns[echo][mask] + k
        k = k + level(value, piece, previous, times[: echo + 1])
        previous.append(turns[echo][mask] + k)
        whole[echo] = 0
        whole[echo][mask] = k.to(whole.dtype)
    return whole


def by_template(spatial: Spatial, turns: Tensor, magnitude: Tensor, mask: Tensor, times: tuple[float, ...], first: int) -> Tensor:
    """Unwrap one echo and one phase difference in space, the rest in time."""
    other = first + 1 if first + 1 < len(times) else first - 1
    early, late = min(first, other), max(first, other)
    span = times[late] - times[early]
    theta = turns[late] - turns[early]
    theta = theta - theta.round()
    strength = (magnitude[late] * magnitude[early]).sqrt()
    k, piece = spatial(turns[first], magnitude[first], mask, (theta, times[first] / span))
    k = k + level(turns[first][mask] + k, piece, [], times[:1])
    n, piece = spatial(theta, strength, mask, (turns[first], span / times[first]))
    n = n + level(theta[mask] + n, piece, [], times[:1])
    rate = (theta[mask] + n) / span
    wrapped = turns[:, mask]
    smooth = torch.empty_like(wrapped)
    smooth[first] = wrapped[first] + k
    for echo, before in [(e, e - 1) for e in range(first + 1, len(times))] + [(e, e + 1) for e in range(first - 1, -1, -1)]:
        expected = smooth[before] + rate * (times[echo] - times[before])
        smooth[echo] = wrapped[echo] + (expected - wrapped[echo]).round()
    whole = torch.zeros_like(turns)
    whole[:, mask] = (smooth - wrapped).round()
    return whole
