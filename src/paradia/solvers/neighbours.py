"""How far the step between two neighbouring voxels can be trusted."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paradia.solvers.spanning import Edges

TERMS = ("phase", "gradient", "linearity", "magnitude")
"""Terms of the weight that are used unless others are named."""

FLOOR = 0.1
"""Least value of a term, so that one bad term does not hide the others."""

BORDER = 0.9
"""Linearity of a triplet that leaves the mask."""

GRADES = 1 << 14
"""Grades of the cost of an edge."""

SLAB = 1 << 18
"""Voxels weighed at a time, few enough to stay in the cache."""


def grid_edges(
    turns: Tensor, magnitude: Tensor, mask: Tensor, second: tuple[Tensor, float] | None, terms: tuple[str, ...]
) -> tuple[Edges, int]:
    """Return the graph of the neighbours inside a mask.

    Parameters
    ----------
    turns
        Wrapped phase, turns.
    magnitude
        Magnitude, any unit.
    mask
        Voxels that are nodes, numbered in order.
    second
        Phase at another echo time, turns, and the factor that scales it to this one.
    terms
        Names of the terms of the weight.

    Returns
    -------
    tuple of Edges and int
        The graph, and how many nodes it has.
    """
    node = mask.flatten().cumsum(0).view(mask.shape) - 1
    reference = _reference(magnitude, mask) if "signal" in terms else 0.0
    rows = max(1, SLAB // max(1, math.prod(mask.shape[1:])))
    u, v, cost, jump = [], [], [], []
    for axis in range(3):
        for start in range(0, mask.shape[0], rows):
            stop = min(start + rows, mask.shape[0])
            low, high = _pairs(axis, start, stop, mask.shape)
            both = (mask[low] & mask[high]).flatten().nonzero().squeeze(1)
            if both.numel() == 0:
                continue
            step = turns[high] - turns[low]
            wraps = step.round()
            weight = torch.ones_like(step)
            if "phase" in terms:
                weight *= _term(1 - 2 * (step - wraps).abs())
            if "gradient" in terms and second is not None:
                other = second[0][high] - second[0][low]
                other -= other.round()
                weight *= _term(1 - math.tau * (step - wraps - other * second[1]).abs())
            if "linearity" in terms:
                weight *= _term(_linearity(turns, mask, axis, start, stop))
            if "magnitude" in terms or "signal" in terms:
                weight *= _strength(magnitude[low], magnitude[high], reference, terms)
            cost.append(((1 - weight) * GRADES).flatten().index_select(0, both).round_().int())
            jump.append(wraps.flatten().index_select(0, both).long())
            u.append(node[low].flatten().index_select(0, both))
            v.append(node[high].flatten().index_select(0, both))
    nodes = int(node.flatten()[-1]) + 1
    if not cost:
        empty = node.new_zeros(0)
        return Edges(empty, empty, empty, empty), nodes
    return Edges(torch.cat(u), torch.cat(v), unique_keys(torch.cat(cost)), torch.cat(jump)), nodes


def unique_keys(cost: Tensor) -> Tensor:
    """Return keys that sort by integer cost and differ from one another."""
    bits = max(1, (cost.numel() - 1).bit_length())
    return (cost.long() << bits) | torch.arange(cost.numel(), device=cost.device)


def _pairs(axis: int, start: int, stop: int, shape: torch.Size) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the slices of the lower and the upper ends of the edges along an axis, for some rows of the first axis."""
    low, high = [slice(start, stop), slice(None), slice(None)], [slice(start, stop), slice(None), slice(None)]
    if axis == 0:
        last = min(stop, shape[0] - 1)
        low[0], high[0] = slice(start, max(last, start)), slice(start + 1, max(last, start) + 1)
    else:
        low[axis], high[axis] = slice(0, shape[axis] - 1), slice(1, shape[axis])
    return tuple(low), tuple(high)


def _term(quality: Tensor) -> Tensor:
    return quality.clamp_min_(0).mul_(1 - FLOOR).add_(FLOOR)


def _linearity(turns: Tensor, mask: Tensor, axis: int, start: int, stop: int) -> Tensor:
    """Return for each edge the product of how straight the phase is at its two ends."""
    size = turns.shape[0]
    if axis == 0:
        first, last = max(start - 1, 0), min(stop + 2, size)
    else:
        first, last = start, stop
    phase, inside = turns[first:last], mask[first:last]
    n = phase.shape[axis]
    straight = torch.full_like(phase, BORDER)
    if n > 2:
        below, here, above = (phase.narrow(axis, i, n - 2) for i in range(3))
        bend = below - 2 * here + above
        bend -= bend.round()
        whole = inside.narrow(axis, 0, n - 2) & inside.narrow(axis, 2, n - 2)
        straight.narrow(axis, 1, n - 2).copy_(torch.where(whole, (1 - math.pi * bend.abs()).clamp_min_(0), BORDER))
    edges = straight.narrow(axis, 0, n - 1) * straight.narrow(axis, 1, n - 1)
    if axis == 0:
        wanted = max(min(stop, size - 1) - start, 0)
        edges = edges.narrow(0, start - first, wanted)
    return edges


def _strength(low: Tensor, high: Tensor, reference: Tensor | float, terms: tuple[str, ...]) -> Tensor:
    small, big = torch.minimum(low, high), torch.maximum(low, high)
    weight = torch.ones_like(small)
    if "magnitude" in terms:
        weight *= _term((small / big.clamp_min(torch.finfo(big.dtype).tiny)).square())
    if "signal" in terms:
        weight *= _term(0.5 + 0.5 * (small / reference).clamp_max(1))
    return weight


def _reference(magnitude: Tensor, mask: Tensor) -> Tensor:
    """Return half of the strong signal inside the mask."""
    values = magnitude[mask]
    rank = max(1, int(0.95 * values.numel()))
    return (0.5 * values.kthvalue(rank).values).clamp_min(torch.finfo(values.dtype).tiny)
