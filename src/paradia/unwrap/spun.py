"""Region growing from many seeds, the regions joined by the majority of what their interfaces say."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from paradia.errors import InputError
from paradia.scan import Scan
from paradia.solvers.neighbours import GRADES, TERMS, grid_edges
from paradia.solvers.spanning import Edges, join_cheapest, spanning_shifts
from paradia.types import Echoes, Mask
from paradia.unwrap._checks import check
from paradia.unwrap._modes import check_mode, exactly

CITE = "10.3389/fnins.2025.1522227"

CLEAR = 0.75
"""Share of the votes of an interface that makes it clear; what is not clear waits until all that is has been joined."""


def spun(
    phase: Echoes,
    magnitude: Echoes,
    mask: Mask,
    scan: Scan,
    *,
    mode: Literal["template", "individual"] = "template",
    template: int = 1,
    quality: float = 0.3,
) -> Echoes:
    r"""Unwrap by growing regions from many seeds, and join the regions by the majority along their interfaces.

    All seeds grow at once, best neighbours first, as long as the step from voxel to voxel can be trusted; inside a region the phase
    follows its minimum spanning tree. Every step between two regions then votes, with the cube of its weight, for the whole turns
    between them; clear majorities are joined first, the largest before the smaller, and votes are counted anew after each round.

    Parameters
    ----------
    phase
        Wrapped phase of every echo, rad.
    magnitude
        Magnitude of every echo, any unit.
    mask
        Voxels to unwrap.
    scan
        Echo times.
    mode
        ``template`` unwraps in space one echo and the phase difference to a neighbouring echo, and continues both to the other echoes
        in time; ``individual`` unwraps every echo in space.
    template
        Number of the echo that is unwrapped in space, counted from 1.
    quality
        Weight up to which a region grows, 0 to 1: at 0 there is one region and nothing to vote on, at 1 every voxel is a region.

    Returns
    -------
    Echoes
        Unwrapped phase, rad: the wrapped phase plus whole turns inside the mask, zero outside it.

    Raises
    ------
    GeometryError, MetadataError, MaskError, NonFiniteError
        Shapes or the number of echo times do not fit, the mask is empty, or the phase inside it is not finite.
    InputError
        A mode or an echo that does not exist, or a quality outside its range.

    Notes
    -----
    Named after the seed-prioritised unwrapping of the references, of which is known that regions grow from seeds in order of
    priority and that the result is exact. The weights (those of ``romeo``), the votes and the order in which regions are joined are a
    design of this project. A spanning tree leaves a bad region through its one best edge, and where noise made that edge lie, the
    whole region is a turn off; here the other edges of the interface can outvote it. On simulated heads the errors of the two are
    as rare: votes gain where few edges lie, and lose where most of an interface is too steep.

    References
    ----------
    Ye Y, et al. Seed-prioritised unwrapping. J Magn Reson Imaging 2019;50:62.
    Zhou Y, et al. Front Neurosci 2025;19:1522227, where it is part of a pipeline. https://doi.org/10.3389/fnins.2025.1522227
    """
    check(phase, mask, magnitude, scan)
    check_mode(phase.shape[0], mode, template)
    _check_quality(quality)
    return exactly(partial(_grow_and_join, quality=quality), phase, magnitude, mask, scan.echo_times, mode, template)


def _grow_and_join(
    turns: Tensor, magnitude: Tensor, mask: Tensor, second: tuple[Tensor, float] | None = None, *, quality: float
) -> tuple[Tensor, Tensor]:
    """Return the whole turns of each voxel of the mask and the piece of the mask that it belongs to."""
    edges, nodes = grid_edges(turns, magnitude, mask, second, TERMS)
    cost = edges.key >> max(1, (edges.key.numel() - 1).bit_length())
    good = cost <= round((1 - quality) * GRADES)
    shift, label = spanning_shifts(edges.keep(good.nonzero().squeeze(1)), nodes)
    rest = (~good).nonzero().squeeze(1)
    votes = (GRADES - cost.take(rest)).mul(1024).div(GRADES, rounding_mode="floor").clamp_min(1).pow(3)
    table = _count(edges.keep(rest)._replace(key=votes).join(label, shift))
    join_shift, join_label = _join(table, int(label.max()) + 1)
    return shift + join_shift.take(label), join_label.take(label)


def _join(table: Edges, regions: int) -> tuple[Tensor, Tensor]:
    """Join regions round by round, first those whose interface is clear; `table` holds votes in place of keys."""
    label = torch.arange(regions, device=table.u.device)
    shift = torch.zeros_like(label)
    only_clear = True
    while table.u.numel():
        pairs = _decide(table, only_clear)
        if pairs.u.numel() == 0:
            only_clear = False
            continue
        below, turns, regions = join_cheapest(pairs, regions)
        shift, label = shift + turns.take(label), below.take(label)
        table = _count(table.join(below, turns))
    return shift, label


def _count(votes: Edges) -> Edges:
    """Add up the votes of each pair of regions for each number of turns; pairs are sorted, the lower region first."""
    if votes.u.numel() == 0:
        return votes
    swap = votes.u > votes.v
    low, high = torch.where(swap, votes.v, votes.u), torch.where(swap, votes.u, votes.v)
    jump = torch.where(swap, -votes.jump, votes.jump)
    least, regions = int(jump.min()), int(high.max()) + 1
    span = int(jump.max()) - least + 1
    kinds, place = torch.unique((low * regions + high) * span + (jump - least), return_inverse=True)
    total = torch.zeros_like(kinds).index_add_(0, place, votes.key)
    pair = kinds.div(span, rounding_mode="floor")
    return Edges(pair.div(regions, rounding_mode="floor"), pair % regions, total, kinds % span + least)


def _decide(table: Edges, only_clear: bool) -> Edges:
    """Return one edge for each interface: the turns most votes are for, keyed so that the largest majority comes first."""
    new = torch.ones_like(table.u, dtype=torch.bool)
    new[1:] = (table.u[1:] != table.u[:-1]) | (table.v[1:] != table.v[:-1])
    pair = new.cumsum(0) - 1
    pairs = int(pair[-1]) + 1
    total = table.key.new_zeros(pairs).index_add_(0, pair, table.key)
    most = table.key.new_zeros(pairs).scatter_reduce_(0, pair, table.key, "amax")
    # Ties go to fewer turns, so that the result does not depend on how regions are numbered.
    rank = torch.where(table.key == most.take(pair), table.jump.abs(), torch.iinfo(torch.int64).max)
    fewest = torch.full_like(most, torch.iinfo(torch.int64).max).scatter_reduce_(0, pair, rank, "amin")
    winner = torch.full_like(most, table.u.numel())
    index = torch.arange(table.u.numel(), device=pair.device)
    winner.scatter_reduce_(0, pair, torch.where(rank == fewest.take(pair), index, table.u.numel()), "amin")
    if only_clear:
        clear = most >= CLEAR * total
        winner, most, total = winner[clear], most[clear], total[clear]
    chosen = table.keep(winner)
    order = (total - 2 * most).argsort(stable=True)  # the largest majority has the smallest key
    key = torch.empty_like(order)
    key[order] = torch.arange(order.numel(), device=order.device)
    return chosen._replace(key=key)


def _check_quality(quality: float) -> None:
    if not 0 <= quality <= 1:
        raise InputError(f"quality must lie between 0 and 1, got {quality}.")
