"""A total field split into what sources inside a mask and sources outside it make.

The field of the sources outside is a thousand times that of the tissue. No iteration that treats all voxels alike gets there soon,
so both kinds are first fitted with quadratic penalties, where least squares converge, and those outside before that on a grid twice as
coarse, where an iteration takes an eighth of the time; a penalty on slopes then starts from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, interpolate

from paradia.errors import InputError
from paradia.fft import Window, crop, irfftn, length, rfftn, times
from paradia.grid import Grid
from paradia.operators.dipole import Dipole
from paradia.operators.laplacian import Laplacian
from paradia.operators.weighting import Weighting
from paradia.solvers._solution import Solution
from paradia.solvers.lsmr import lsmr
from paradia.sources.inside import depth
from paradia.sources.slopes import Variation, edges
from paradia.sources.structure import expected
from paradia.types import Callback

MARGIN = 20.0
"""How far beyond the mask's box sources may lie, mm; those further away are matched by sources within it."""

INSIDE, OUTSIDE = 0.04, 2.0
"""Standard deviations of susceptibility for the quadratic start, ppm; only their ratio matters much."""

FOLD = 2
"""Voxels along each axis that share one of the coarse grid."""

LEFT = 0.55
"""Share of the deviation outside that what the coarse grid leaves has."""

START = 1e-4
"""Share to which the gradient has to fall for the start to be done."""

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
        r"""Move the dual to an image and return :math:`\nabla^T(2u' - u)`."""


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
        if rim <= 0:
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

    def start(self, field: Tensor, max_iter: int, tol: float) -> Tensor:
        """Return the most probable sources under quadratic penalties, those outside about what the coarse grid tells of them.

        Both grids take at most as many iterations.
        """
        far = self._far(field, max_iter, tol)
        spread = torch.where(self.mask, INSIDE, LEFT * self.outside).to(field)
        return far + _probable(field - self.dipole(far), self.precision, spread, self.dipole, max_iter, tol)

    def _far(self, field: Tensor, max_iter: int, tol: float) -> Tensor:
        """Return the sources outside as a coarse grid sees them, zero in the mask; nothing where no coarse voxel is in it."""
        share = _folded(self.mask.to(field))
        weights = _folded(self.weights)
        mask = (share > 0.5) & (weights > 0)
        if not mask.any():
            return torch.zeros_like(field)
        nx, ny, nz = mask.shape
        x, y, z = (FOLD * size for size in self.grid.voxel_size)
        dipole = Dipole(Grid((nx, ny, nz), (x, y, z), self.grid.b0_dir)).to(field)
        seen = torch.where(mask, _folded(self.weights * field) / weights.clamp_min(torch.finfo(weights.dtype).tiny), 0.0)
        precision = torch.where(mask, _folded(self.precision) / share.clamp_min(0.5), 0.0)
        found = _probable(seen, precision, torch.where(mask, INSIDE, self.outside).to(field), dipole, max_iter, tol)
        size = [FOLD * n for n in mask.shape]
        fine = interpolate(torch.where(mask, 0.0, found)[None, None], size, mode="trilinear")[0, 0]
        return torch.where(self.mask, 0.0, crop(fine, field.shape))

    def refine(self, field: Tensor, chi: Tensor, slopes: Slopes, *, max_iter: int, tol: float, callback: Callback | None) -> Solution:
        r"""Move sources to where data, slopes and the size of those in the rim balance; those outside the mask are free.

        A primal-dual iteration whose metric is that of the splittings, so that every frequency takes a step of its own length.
        """
        dipole, shape = self.dipole.kernel, field.shape
        metric = (COUPLING * dipole.square() + slopes.share * RHO * self.stencil).add_(HOLD).reciprocal_()
        pull = _data(self.weights, field, self.weights * (self.dipole(chi) - field) / COUPLING)
        hold, held = self.decay / (self.decay + HOLD), torch.zeros_like(chi)
        spectrum = rfftn(chi)
        iteration, relative = 0, float("inf")
        while relative > tol and iteration < max_iter:
            iteration += 1
            force = slopes.step(chi).mul_(RHO).sub_(held, alpha=HOLD)
            held.add_(chi).mul_(hold)
            step = rfftn(force.add_(held, alpha=2 * HOLD))
            step.addcmul_(rfftn(pull(irfftn(times(spectrum, dipole), shape))), dipole, value=COUPLING)
            spectrum = spectrum - step.mul_(metric)
            before, chi = chi, irfftn(spectrum, shape)
            relative = _change(chi, before, self.mask)
            if callback is not None:
                callback(iteration, relative)
        return Solution(chi, iteration, relative, relative <= tol)


def _probable(field: Tensor, precision: Tensor, spread: Tensor, dipole: Dipole, max_iter: int, tol: float) -> Tensor:
    """Return the most probable sources of a field, given one over its deviation and the deviation of the sources."""
    solution = lsmr(
        lambda y: dipole(spread * y).mul_(precision),
        lambda residual: dipole(precision * residual).mul_(spread),
        precision * field,
        damp=1.0,
        max_iter=max_iter,
        tol=tol,
    )
    return spread * solution.x


def _folded(image: Tensor) -> Tensor:
    """Return means over blocks of voxels; of those that reach beyond the end, over what they hold."""
    return avg_pool3d(image[None, None], FOLD, ceil_mode=True, count_include_pad=False)[0, 0]


@dataclass(frozen=True)
class Effort:
    """How long to try."""

    start: int
    """Most iterations to find the start."""
    rounds: int
    """How often the structure is learnt."""
    max_iter: int
    """Iterations in a round."""


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
    slopes = Variation(window.grid, [edge.to(field) * price for edge in edges(window.mask)])
    sources, relative, done = split.start(field, effort.start, START), 0.0, 0

    def told(iteration: int, change: float) -> None:
        if callback is not None:
            callback(done + iteration, change)

    for turn in range(effort.rounds):
        if turn:
            slopes.expect(expected(sources, window).unbind())
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
