"""A total field split into what sources inside a mask and sources outside it make.

The field of the sources outside is a thousand times that of the tissue. No iteration that treats all voxels alike gets there soon,
so both kinds are first fitted with quadratic penalties, where least squares converge; a penalty on slopes then starts from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from paradia.errors import InputError
from paradia.fft import Window, bounding_box, irfftn, length, rfftn, times
from paradia.operators.dipole import Dipole
from paradia.operators.laplacian import Laplacian
from paradia.operators.weighting import Weighting
from paradia.solvers._solution import Solution, unfinished
from paradia.sources.inside import depth
from paradia.sources.knobs import check_count, check_not_negative
from paradia.sources.slopes import Variation, edges
from paradia.sources.start import OUTSIDE, begin
from paradia.sources.structure import expected
from paradia.types import Callback

MARGIN = 20.0
"""How far beyond the mask's box sources may lie, mm; those further away are matched by sources within it."""

RIM = 4.0
"""Depth of the rim, mm, in which tissue is told from sources just outside the mask by its size alone."""

COUPLING, RHO, HOLD = 0.3, 0.05, 1e-3
"""Penalties of the splittings of Dχ and ∇χ (mm²), and what holds χ where neither does: how fast it converges, not where to."""


@runtime_checkable
class Slopes(Protocol):
    """A penalty on slopes, by its dual."""

    share: float
    """How many times over the penalty's own step counts in the metric."""

    def step(self, chi: Tensor) -> Tensor:
        r"""Move the dual to an image and return the pull :math:`\nabla^T(u - 2u')`."""


class Split:
    """The means to split a total field in its window into sources.

    Parameters
    ----------
    window
        Around the mask.
    deviation
        Standard deviation of the field in the window, ppm.
    rim
        Standard deviation of susceptibility in the rim of the mask, ppm.
    outside
        Standard deviation of susceptibility outside the mask that the start expects, ppm.

    Raises
    ------
    InputError
        The deviation in the rim is not positive.
    """

    def __init__(self, window: Window, deviation: Tensor, rim: float, outside: float = OUTSIDE) -> None:
        if not rim > 0:  # infinite is none
            raise InputError(f"rim must be positive, got {rim} ppm. 0.02 to 0.1 are usual.")
        self.mask = window.mask
        root = Weighting(self.mask, deviation).to(deviation).weights
        self.scale = deviation[self.mask].reciprocal().mean().reciprocal()  # ppm; the weights are one over the deviation, times this
        self.precision, self.weights = root / self.scale, root.square()
        near = depth(window.mask, window.grid) <= RIM
        self.decay = torch.where(self.mask & near, (self.scale / rim).square(), 0.0)
        self.grid, self.outside = window.grid, outside
        self.dipole = Dipole(window.grid).to(deviation)
        self.stencil = -Laplacian(window.grid).to(deviation).kernel

    @property
    def unit(self) -> float:
        r"""What turns a weight against :math:`\sigma^{-1}` into a limit of its dual."""
        return float(self.scale.square()) / RHO

    def start(self, field: Tensor, max_iter: int) -> Tensor:
        """Return where `refine` may begin: the most probable sources under quadratic penalties, see `start.begin`."""
        return begin(field, self.precision, self.mask, self.grid, self.dipole, max_iter=max_iter, outside=self.outside)

    def refine(self, field: Tensor, chi: Tensor, slopes: Slopes, *, max_iter: int, tol: float, callback: Callback | None) -> Solution:
        r"""Move sources to where data, slopes and the size of those in the rim balance; those outside the mask are free.

        A primal-dual iteration whose metric is that of the splittings, so that every frequency takes a step of its own length.
        """
        dipole, shape = self.dipole.kernel, field.shape
        metric = (COUPLING * dipole.square() + slopes.share * RHO * self.stencil).add_(HOLD).reciprocal_()
        pull = _data(self.weights, field, self.weights * (self.dipole(chi) - field) / COUPLING)
        hold, held = self.decay / (self.decay + HOLD), torch.zeros_like(chi)
        spectrum = rfftn(chi)
        box = bounding_box(self.mask)
        inside = self.mask[box]
        iteration, relative = 0, float("inf")
        while unfinished(relative, tol) and iteration < max_iter:
            iteration += 1
            force = slopes.step(chi).mul_(-RHO).sub_(held, alpha=HOLD)
            held.add_(chi).mul_(hold)
            step = rfftn(force.add_(held, alpha=2 * HOLD))
            step.addcmul_(rfftn(pull(irfftn(times(spectrum, dipole), shape))), dipole, value=COUPLING)
            spectrum = spectrum - step.mul_(metric)
            before, chi = chi, irfftn(spectrum, shape)
            relative = _change(chi[box], before[box], inside)
            if callback is not None:
                callback(iteration, relative)
        return Solution(chi, iteration, relative, relative <= tol)


@dataclass(frozen=True)
class Effort:
    """How long to try."""

    start: int
    """Most iterations to find the start."""
    rounds: int
    """How often the structure is learnt."""
    max_iter: int
    """Iterations in a round."""

    def __post_init__(self) -> None:
        check_not_negative(start=self.start)
        check_count(rounds=self.rounds, max_iter=self.max_iter)


def structured(split: Split, window: Window, field: Tensor, weight: float, effort: Effort, callback: Callback | None = None) -> Solution:
    r"""Find sources of few edges inside, each expected where the last fit had one, and free ones outside.

    Parameters
    ----------
    split
        Of the field.
    window
        Around the mask.
    field
        Total field in the window, ppm, zero outside the mask.
    weight
        Price of the total variation, without unit: it is multiplied by the voxel's mean edge and by one over the field's standard
        deviation, so that one weight serves for any noise and resolution.
    effort
        How long to try.
    callback
        Called as ``callback(iteration, relative_change)``.

    Returns
    -------
    Solution
        Sources in the window, ppm, and the relative change in the last iteration.
    """
    side = window.grid.voxel_volume ** (1 / 3)
    price = weight * side / float(split.scale) * split.unit
    usual = [edge.to(field) * price for edge in edges(window.mask)]
    slopes = Variation(window.grid, usual)
    sources, relative, done = split.start(field, effort.start), 0.0, 0

    def told(iteration: int, change: float) -> None:
        if callback is not None:
            callback(done + iteration, change)

    for turn in range(effort.rounds):
        if turn:
            slopes.limits = [limit * factor for limit, factor in zip(usual, expected(sources, window), strict=True)]
        sources, _, relative, _ = split.refine(field, sources, slopes, max_iter=effort.max_iter, tol=0.0, callback=told)
        done += effort.max_iter
    return Solution(sources, done, relative, True)


def _change(now: Tensor, before: Tensor, mask: Tensor) -> float:
    """Return the change inside the mask, relative to what is there; its mean, which no field tells, left out."""
    now, before = now.detach(), before.detach()
    mean = (now * mask).sum() / mask.sum()
    whole = length((now - mean).mul_(mask))
    return length((now - before).mul_(mask)) / whole if whole else 0.0


def _data(weights: Tensor, field: Tensor, dual: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the dual step of the data: from Dχ to 2u' − u."""
    share = weights / (weights + COUPLING)

    def step(image: Tensor) -> Tensor:
        nonlocal dual
        before, dual = dual, image.add_(dual).sub_(field).mul_(share)
        return torch.sub(2 * dual, before)

    return step
