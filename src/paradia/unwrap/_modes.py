"""Several echoes: each unwrapped in space, or one in space and the others in time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from paradia.errors import InputError
from paradia.fft import bounding_box
from paradia.solvers.pieces import level
from paradia.sources.inside import single

TURN = 2 * torch.pi

Spatial = Callable[[Tensor, Tensor, Tensor, tuple[Tensor, float] | None], tuple[Tensor, Tensor]]
"""Unwraps one volume: ``(turns, magnitude, mask, second)`` to the whole turns of the voxels of the mask, and their pieces."""


def check_mode(echoes: int, mode: str, template: int) -> None:
    """Refuse a mode or an echo that does not exist."""
    if mode not in ("template", "individual"):
        raise InputError(f"mode must be 'template' or 'individual', got {mode!r}.")
    if not 1 <= template <= echoes:
        raise InputError(f"template must be an echo from 1 to {echoes}, got {template}.")


def exactly(spatial: Spatial, phase: Tensor, magnitude: Tensor, mask: Tensor, times: tuple[float, ...], mode: str, template: int) -> Tensor:
    """Unwrap all echoes by what unwraps one volume; what a magnitude has that is none, NaN, Inf or less than nothing, counts as dark."""
    box = bounding_box(mask)
    inside = mask[box]
    turns = torch.where(inside, phase[:, *box], 0) / TURN
    strength = torch.nan_to_num(single(magnitude[:, *box]), posinf=0.0, neginf=0.0).clamp_min(0)
    if mode == "individual" or phase.shape[0] == 1:
        whole = in_space(spatial, turns, strength, inside, times)
    else:
        whole = by_template(spatial, turns, strength, inside, times, template - 1)
    unwrapped = torch.zeros_like(phase)
    unwrapped[:, *box] = torch.where(inside, phase[:, *box] + TURN * whole, 0)
    return unwrapped


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
