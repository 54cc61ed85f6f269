"""Several echoes: each unwrapped in space, or one in space and the others in time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from paradia.errors import InputError
from paradia.fft import bounding_box
from paradia.solvers.pieces import level
from paradia.sources.inside import single
from paradia.sources.readout import to_and_fro

TURN = 2 * torch.pi

HARMLESS = 0.5
"""Rise across the mask of the phase between readout directions, rad, up to which echoes are told from each other as they are."""

PLANES = 40
"""Planes of voxels, at least, whose steps tell such a rise: more know it no better than needed."""

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
    """Unwrap one echo and one phase difference in space, the rest in time; what a bipolar readout adds to and fro is left out of that."""
    turns = turns - alternation(turns, mask, times)
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


def alternation(turns: Tensor, mask: Tensor, times: tuple[float, ...]) -> Tensor:
    """Return the ramps that echoes have to and fro where every other one is read backwards, turns; zero where they cannot disturb.

    A step from voxel to voxel seldom wraps, whatever the phase does across the head, so that the steps tell the ramp before anything is
    unwrapped. From echo to echo it is twice as steep as in one, and four times in what one difference of echoes predicts of the next.
    """
    ramp = torch.zeros_like(turns[0])
    if len(times) < 3:
        return torch.zeros_like(turns)
    sign, pick = to_and_fro(turns.new_tensor(times))
    for axis, n in enumerate(mask.shape):
        across = (axis + 1) % 3
        some = tuple(slice(None, None, max(1, size // PLANES) if a == across else None) for a, size in enumerate(mask.shape))
        seen, some_turns = mask[some], turns[:, *some]
        both = seen.narrow(axis, 0, n - 1) & seen.narrow(axis, 1, n - 1)
        if not bool(both.any()):
            continue
        steps = some_turns.diff(dim=axis + 1)[:, both]
        slope = torch.tensordot(pick, steps - steps.round(), dims=1).median()
        places = torch.arange(n, device=turns.device, dtype=turns.dtype) - (n - 1) / 2
        ramp += (slope * places).view([-1 if a == axis else 1 for a in range(3)])
    inside = ramp[mask]
    if TURN * float(inside.max() - inside.min()) < HARMLESS:
        return torch.zeros_like(turns)
    return sign[:, None, None, None] * ramp
