"""Minimum spanning forest of a large sparse graph, and the whole turns that its edges add up to.

Borůvka's method: every component takes its cheapest outgoing edge, all at once, and the components so joined become one.
Each round at least halves the number of components. It is written in gathers and scattered minima alone, runs on CPU and CUDA, and
gives the same forest every time, because no two edges have the same key.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LIGHT = 0.45
"""Share of the edges that is joined first; most of the others then lie inside a component and never enter a round."""

CHUNK = 1 << 18
"""Edges renamed at a time, few enough to stay in the cache."""

NONE = torch.iinfo(torch.int64).max


class Edges(NamedTuple):
    """Edges of a graph: ends, unique sortable keys, and turns ``k_u - k_v`` that make the ends continuous."""

    u: Tensor
    v: Tensor
    key: Tensor
    jump: Tensor

    def keep(self, where: Tensor) -> Edges:
        """Return the edges at these positions."""
        return Edges(*(part.index_select(0, where) for part in self))

    def join(self, label: Tensor, shift: Tensor) -> Edges:
        """Rename the ends after components were joined, and drop the edges inside a component."""
        u, v = label.take(self.u), label.take(self.v)
        outer = (u != v).nonzero().squeeze(1)
        old = self.keep(outer)
        jump = old.jump + shift.take(old.v) - shift.take(old.u)
        return Edges(u.index_select(0, outer), v.index_select(0, outer), old.key, jump)


def spanning_shifts(edges: Edges, nodes: int) -> tuple[Tensor, Tensor]:
    """Return for every node the turns to add and the component that it belongs to.

    Parameters
    ----------
    edges
        The graph; ``jump`` is the turns of ``u`` less those of ``v``.
    nodes
        How many nodes there are, numbered from 0.

    Returns
    -------
    tuple of Tensor
        Whole turns of each node relative to the root of its tree, and the number of its tree.
    """
    label = torch.arange(nodes, device=edges.u.device)
    shift = torch.zeros_like(label)
    if edges.u.numel() == 0:
        return shift, label
    count = max(1, int(LIGHT * edges.key.numel()))
    limit = edges.key[:: max(1, edges.key.numel() // 10_000)].sort().values
    limit = limit[min(limit.numel() - 1, count * limit.numel() // edges.key.numel())]
    light = edges.key <= limit
    for part in (light, ~light):
        where = part.nonzero().squeeze(1)
        pieces = [edges.keep(piece).join(label, shift) for piece in where.split(CHUNK)]
        joined = Edges(*(torch.cat(column) for column in zip(*pieces, strict=True)))
        step_shift, step_label = _forest(joined, int(label.max()) + 1)
        shift = shift + step_shift.take(label)
        label = step_label.take(label)
    return shift, label


def _forest(edges: Edges, nodes: int) -> tuple[Tensor, Tensor]:
    """Run Borůvka's rounds until no edge leads out of a component."""
    levels = []
    while edges.u.numel():
        label, shift, left = join_cheapest(edges, nodes)
        levels.append((label, shift))
        edges, nodes = edges.join(label, shift), left
    label = torch.arange(nodes, device=edges.u.device)
    shift = torch.zeros_like(label)
    for below, turns in reversed(levels):
        shift = turns + shift.take(below)
        label = label.take(below)
    return shift, label


def join_cheapest(edges: Edges, nodes: int) -> tuple[Tensor, Tensor, int]:
    """Join every component with the one its cheapest edge leads to, all at once.

    Parameters
    ----------
    edges
        The graph; no two keys are the same.
    nodes
        How many components there are, numbered from 0.

    Returns
    -------
    tuple
        New number and whole turns of each component, and how many are left.
    """
    best = torch.full((nodes,), NONE, dtype=torch.int64, device=edges.key.device)
    best.scatter_reduce_(0, edges.u, edges.key, "amin")
    best.scatter_reduce_(0, edges.v, edges.key, "amin")
    parent = torch.arange(nodes, device=best.device)
    shift = torch.zeros_like(parent)
    for near, far, sign in ((edges.u, edges.v, 1), (edges.v, edges.u, -1)):
        chosen = (best.take(near) == edges.key).nonzero().squeeze(1)
        start = near.index_select(0, chosen)
        parent[start] = far.index_select(0, chosen)
        shift[start] = sign * edges.jump.index_select(0, chosen)
    index = torch.arange(nodes, device=best.device)
    root = (parent.take(parent) == index) & (index <= parent)  # two that chose the same edge: the lower number leads
    parent = torch.where(root, index, parent)
    shift = torch.where(root, 0, shift)
    while True:
        above = parent.take(parent)
        if torch.equal(above, parent):
            break
        shift = shift + shift.take(parent)
        parent = above
    number = root.cumsum(0) - 1
    return number.take(parent), shift, int(number[-1]) + 1
