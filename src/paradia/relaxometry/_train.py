"""A table of echo trains by R2 and refocusing, and the batched fit that goes between its entries."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from paradia.epg import train
from paradia.errors import MetadataError
from paradia.types import Callback

LOWEST = 0.2
"""Smallest R2 of the table, 1/s: slower than any fluid decays within a train."""

RATES = 72
"""Entries of the table along the logarithm of R2."""

NEGLIGIBLE = 1e-4
"""Dimensions in which trains vary by less than this, relative to the strongest, are left out."""

TINY = 1e-30

LONGEST = 64
"""Most echoes that a train is taken to have."""

SHORTEST = 0.003
"""Shortest spacing of pulses, s: shorter ones would fit any times."""

OFF = 0.02
"""Share of the spacing by which an echo time may be off: at the shortest one, what times in tenths of a millisecond are rounded by."""

MINIMA = 6
"""Parts of the range of shares, each of which has at most one minimum without the first echo."""

FIRST, RAISED, EASED = 2.0, 4.0, 0.5
"""Damping after the first step that leads upwards, and its factors after further ones and after steps downwards."""

TERMS = ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))
"""Orders of the derivatives that stand for an entry's surroundings."""


class Fit(NamedTuple):
    """What was found in each voxel."""

    rate: Tensor
    """R2, 1/s."""
    kept: Tensor
    """Share not refocused."""
    height: Tensor
    """Signal right after the excitation."""
    information: Tensor
    """Inverse variance of R2 for noise of one, 1/s²; what the other unknowns take is taken off."""
    squares: Tensor
    """Sum of squares that is left."""
    moving: Tensor
    """Whether it was still moving when the steps ended."""


class Table(NamedTuple):
    """Trains on a grid of log R2 and share kept, with derivatives, in the few dimensions that they span."""

    basis: Tensor
    """Orthonormal (echo, dimension)."""
    entries: Tensor
    """(rate · share, term · dimension)."""
    low: tuple[float, float]
    """First log R2 and share."""
    step: tuple[float, float]
    """Steps of log R2 and share."""
    shares: int
    """Entries along the share."""
    starts: int
    """Parts of the range of shares that are searched on their own: without the first echo there are several minima."""

    def unfolded(self) -> Table:
        """Return the same trains echo by echo, for voxels that do not have them all."""
        entries = self.entries.unflatten(1, (len(TERMS), -1)) @ self.basis.T
        whole = torch.eye(len(self.basis), dtype=self.basis.dtype)
        return self._replace(basis=whole, entries=entries.flatten(1), starts=MINIMA)  # the first echo may be the one that is not there


def spacing_of(times: tuple[float, ...]) -> tuple[float, tuple[int, ...]]:
    """Find the spacing of the pulses, and which echo of the train each one is.

    Raises
    ------
    MetadataError
        The times are no multiples of one spacing.
    """
    for first in range(1, LONGEST + 1):
        if times[0] / first < SHORTEST:
            break
        numbers, along, squares = [first], first * times[0], first**2
        for time in times[1:]:  # each echo mends the spacing by which the next one is counted: the first may be off by rounding
            numbers.append(round(time * squares / along))
            along, squares = along + numbers[-1] * time, squares + numbers[-1] ** 2
        if numbers[-1] > LONGEST:
            break
        spacing = along / squares
        if all(abs(time - n * spacing) <= OFF * spacing for time, n in zip(times, numbers, strict=True)):
            return spacing, tuple(numbers)
    raise MetadataError(
        f"the echo times {times} are no multiples of one spacing, so that they are no train of refocused echoes. "
        "Leave other echoes out, or take r2_two_echo."
    )


@lru_cache(maxsize=8)
def table(times: tuple[float, ...], highest: float, most: float, r1: float) -> Table:
    """Compute the trains with R2 up to a highest and a share kept up to the most."""
    spacing, numbers = spacing_of(times)
    picked, shares = torch.tensor(numbers) - 1, max(20, 2 * numbers[-1])  # echo n is a polynomial of order 2n − 1 in the share
    low, top = (math.log(LOWEST), 0.0), (math.log(highest), most)
    step = ((top[0] - low[0]) / (RATES - 1), (top[1] - low[1]) / (shares - 1))
    steps = torch.cartesian_prod(torch.arange(RATES, dtype=torch.float64), torch.arange(shares, dtype=torch.float64))
    u, c = low[0] + step[0] * steps[:, 0], step[1] * steps[:, 1]
    longitudinal = torch.tensor(math.exp(-spacing * r1), dtype=torch.float64)

    def echoes(du: float, dc: float) -> Tensor:
        return train(torch.exp(-spacing * (u + du).exp()), c + dc, longitudinal, numbers[-1])[picked]

    terms = _series(echoes, 1e-3)  # (term, echo, entry)
    basis, sizes, _ = torch.linalg.svd(terms[0], full_matrices=False)
    basis = basis[:, sizes > NEGLIGIBLE * sizes[0]]
    entries = (basis.T @ terms).permute(2, 0, 1).flatten(1)
    return Table(basis.float(), entries.float(), low, step, shares, 1 if numbers[0] == 1 else MINIMA)


def _series(function: Callable[[float, float], Tensor], h: float) -> Tensor:
    """Return a function of two shifts at no shift, and its derivatives as in `TERMS`, by central differences."""
    middle, (left, right), (below, above) = function(0.0, 0.0), (function(-h, 0.0), function(h, 0.0)), (function(0.0, -h), function(0.0, h))
    corners = function(h, h) - function(h, -h) - function(-h, h) + function(-h, -h)
    first = [(right - left) / (2 * h), (above - below) / (2 * h)]
    second = [(right - 2 * middle + left) / h**2, corners / (4 * h**2), (above - 2 * middle + below) / h**2]
    return torch.stack([middle, *first, *second])


def match(signal: Tensor, table: Table, max_iter: int, tol: float, callback: Callback | None = None) -> Fit:
    """Find the nearest train of each voxel (echo, voxel): the best coarse entry, then damped steps of Gauss and Newton around the entries.

    The height is eliminated in closed form.  Around an entry the trains are its Taylor series to second order.  An echo that is zero in a
    voxel was not measured there, and does not count.
    """
    holes = (signal == 0).any(0)
    if not bool(holes.any()):
        return _match(signal, table, False, max_iter, tol, callback)
    parts = [(~holes, table), (holes, table.unfolded())]
    found = [_match(signal[:, place], trains, trains is not table, max_iter, tol, callback) for place, trains in parts]
    order = torch.cat([place.nonzero()[:, 0] for place, _ in parts]).argsort()
    return Fit(*(torch.cat(columns)[order] for columns in zip(*found, strict=True)))


def _match(signal: Tensor, table: Table, holes: bool, max_iter: int, tol: float, callback: Callback | None) -> Fit:
    grid = _Grid.of(table, holes, signal)
    inside = table.basis.to(signal).T @ signal
    outside = (signal.square().sum(0) - inside.square().sum(0)).clamp_min(0)
    bounds = [round(part * table.shares / table.starts) for part in range(table.starts + 1)]
    found = [_refine(grid.nearest(inside, *part), inside, grid, max_iter, tol, callback) for part in pairwise(bounds)]
    best = found[0]
    for other in found[1:]:
        better = other.squares < best.squares
        best = Fit(*(torch.where(better, new, old) for new, old in zip(other, best, strict=True)))
    return best._replace(squares=best.squares + outside)


def _refine(x: Tensor, inside: Tensor, grid: _Grid, max_iter: int, tol: float, callback: Callback | None) -> Fit:
    """Step downwards from a start until it rests; voxels that do are left alone while others go on."""
    x, resting = x.clone(), torch.zeros(x.shape[1], dtype=torch.bool, device=x.device)
    at, here, signal = torch.arange(x.shape[1], device=x.device), x, inside
    near, damping = _About.of(here, signal, grid), torch.zeros_like(here[0])
    for iteration in range(1, max_iter + 1):
        new = torch.minimum(torch.maximum(here + _step(here, near, damping, grid), grid.low), grid.high)
        moved = (new - here).abs().amax(0)
        there = _About.of(new, signal, grid)
        lower = there.rest.square().sum(0) <= near.rest.square().sum(0)
        here, near = torch.where(lower, new, here), _About(*(torch.where(lower, n, o) for n, o in zip(there, near, strict=True)))
        damping = torch.where(lower, EASED * damping, (RAISED * damping).clamp_min(FIRST))
        x[:, at] = here
        change = float(moved.max())
        if callback is not None:
            callback(iteration, change)
        resting[at] = moved < tol
        going = (~(moved < tol)).nonzero()[:, 0]
        if not len(going):
            break
        at, here, signal, damping = at[going], here[:, going], signal[:, going], damping[going]
        near = _About(*(part[..., going] for part in near))
    near = _About.of(x, inside, grid)
    free = (near.a - near.b.square() / near.d.clamp_min(TINY)).clamp_min(0)  # of log R2, the other unknowns taken off
    rate = x[0].exp()
    return Fit(rate, x[1], near.height, free * (near.height / rate).square(), near.rest.square().sum(0), ~resting)


class _Grid(NamedTuple):
    """The table where the signal is."""

    entries: Tensor
    low: Tensor
    high: Tensor
    size: Tensor
    counts: Tensor
    holes: bool
    """Whether what is zero in a signal was not measured; the dimensions are then the echoes."""

    @classmethod
    def of(cls, table: Table, holes: bool, like: Tensor) -> _Grid:
        low, size, last = (like.new_tensor(v)[:, None] for v in (table.low, table.step, (RATES - 1, table.shares - 1)))
        return cls(table.entries.to(like).unflatten(1, (len(TERMS), -1)), low, low + size * last, size, last, holes)

    def nearest(self, inside: Tensor, first: int, end: int) -> Tensor:
        """Return the place of the entry that is most parallel to the signal, of every third rate and share in a range."""
        rates, shares = torch.arange(0, RATES, 3, device=inside.device), torch.arange(first, end, 3, device=inside.device)
        places = torch.cartesian_prod(rates, shares)
        atoms = self.entries[places[:, 0] * (int(self.counts[1]) + 1) + places[:, 1], 0]
        if self.holes:
            along = (atoms @ inside) / (atoms.square() @ (inside != 0).to(atoms)).clamp_min(TINY).sqrt()
        else:
            along = torch.nn.functional.normalize(atoms, dim=1) @ inside
        return self.low + self.size * places[along.argmax(0)].T

    def expand(self, x: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluate trains and their slopes from the series about the nearest entry, where the signal was measured."""
        node = torch.round((x - self.low) / self.size)
        du, dc = x - (self.low + self.size * node)
        value, u, c, uu, uc, cc = self.entries[(node[0] * (self.counts[1] + 1) + node[1]).long()].permute(1, 2, 0)
        slope_u, slope_c = u + uu * du + uc * dc, c + uc * du + cc * dc
        value = value + 0.5 * (du * (u + slope_u) + dc * (c + slope_c))
        if not self.holes:
            return value, slope_u, slope_c
        there = inside != 0
        return value * there, slope_u * there, slope_c * there


class _About(NamedTuple):
    """The signal around a train: its best height, what is left, and the normal equations for a height of one."""

    height: Tensor
    rest: Tensor
    a: Tensor
    b: Tensor
    d: Tensor
    p: Tensor
    q: Tensor

    @classmethod
    def of(cls, x: Tensor, inside: Tensor, grid: _Grid) -> _About:
        model, u, c = grid.expand(x, inside)
        norm = model.square().sum(0).clamp_min(TINY)
        height = (model * inside).sum(0) / norm
        rest = inside - height * model
        along_u, along_c = (u * model).sum(0), (c * model).sum(0)  # the height takes this part of the slopes
        a = u.square().sum(0) - along_u.square() / norm
        b = (u * c).sum(0) - along_u * along_c / norm
        d = c.square().sum(0) - along_c.square() / norm
        return cls(height, rest, a, b, d, (rest * u).sum(0), (rest * c).sum(0))


def _step(x: Tensor, near: _About, damping: Tensor, grid: _Grid) -> Tensor:
    """Return a step towards the least squares; where the share would leave the table, it goes to the rim and the rate as that demands."""
    height = torch.where(near.height > 0, near.height, torch.inf)
    p, q, a, b, d = near.p / height, near.q / height, near.a * (1 + damping), near.b, near.d * (1 + damping)
    det = (a * d - b.square()).clamp_min(TINY)
    share = (a * q - b * p) / det
    share = torch.minimum(torch.maximum(x[1] + share, grid.low[1]), grid.high[1]) - x[1]
    rate = (p - b * share) / a.clamp_min(TINY)
    limit = 3 * grid.size  # the series is about one entry and knows nothing of far ones
    return torch.minimum(torch.maximum(torch.stack([rate, share]), -limit), limit)
