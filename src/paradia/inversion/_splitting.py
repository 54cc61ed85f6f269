"""What the sparsity methods share: the frame, the data terms, and the loop that couples them to the variation of χ."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from paradia.fft import Window, each, irfftn, length, rfftn, times
from paradia.grid import Grid
from paradia.inversion._inputs import MARGIN, framed
from paradia.operators.dipole import Dipole
from paradia.operators.laplacian import Laplacian
from paradia.operators.weighting import Weighting, typical_noise
from paradia.scan import Scan
from paradia.solvers._solution import Solution
from paradia.solvers.admm import admm
from paradia.sources.cone import level
from paradia.sources.inside import levelled
from paradia.sources.slopes import Variation, spared
from paradia.types import Callback, Image, Mask, Volume

SLOPE = 0.8
"""Step of χ at which its splitting is scaled, as a share of the field's standard deviation; tells how fast, not where to."""

PHASE_NOISE, LARGEST_PHASE = 0.05, math.pi / 2
"""Phases, rad, when no scan tells: what the noise of a field is taken for, that of an image of signal-to-noise ratio 20, unless the largest
field were more than a quarter turn then. Half a turn and beyond is taken for less, and nobody said that the field was wrapped."""

OPENING, OPENING_WEIGHT, OPENING_COUPLING = 8, 0.11, 0.2
"""Iterations, weight and penalty of the data's splitting, with squared residuals, before absolute ones. The dual of these moves by little
more than the noise in an iteration: from nothing a haemorrhage would take hundreds, each changing so little that it seems the last."""

NEWTON = 2
"""Newton steps for a nonlinear residual; each squares the error."""

Force = Callable[[Tensor], Tensor]
"""From a residual before a proximal step to the dual after it."""


@dataclass(frozen=True)
class Scale:
    """How large things are in one field, so that one weight serves all."""

    field: float
    """Standard deviation of the field in the mask, ppm."""
    noise: float
    """Standard deviation of its noise, ppm."""
    phase: float
    """Phase a field of one ppm stands for, rad."""
    voxel: float
    """Geometric mean of a voxel's edges, mm."""

    @property
    def penalty(self) -> float:
        r"""Return what a unit of the weight is worth beside squared residuals: :math:`\Delta\sigma^{3/2} F^{-1/2}`."""
        return self.voxel * math.sqrt(self.noise**3 / self.field)

    @property
    def share(self) -> float:
        r"""Return what a unit of the weight is worth beside absolute residuals: :math:`\Delta(\sigma/F)^{1/4}`."""
        return self.voxel * (self.noise / self.field) ** 0.25

    @property
    def slope(self) -> float:
        """Return the slope of χ at which its splitting is scaled, ppm/mm."""
        return SLOPE * self.field / self.voxel


@dataclass(frozen=True)
class Frame:
    """A window with the kernels and weights that hold for every field of a batch."""

    window: Window
    weights: Tensor
    """One over the noise, mean one in the mask, zero outside."""
    dipole: Tensor
    stencil: Tensor
    """Squared spectrum of the gradient."""
    noise: float
    """Median of the noise map where it is known, ppm; zero without one."""
    scan: Scan | None

    @classmethod
    def around(
        cls, local_field: Image, mask: Mask, grid: Grid, noise: Volume | None, scan: Scan | None = None, **images: Tensor | None
    ) -> Frame:
        """Frame a mask; ``images`` must fit the grid as well."""
        window = framed(local_field, mask, grid, MARGIN, noise=noise, **images)
        weights = Weighting(window.mask, None if noise is None else window.take(noise)).to(local_field).weights
        kernels = (operator(window.grid).to(local_field).kernel for operator in (Dipole, Laplacian))
        return cls(window, weights, next(kernels), -next(kernels), typical_noise(noise, mask), scan)

    @cached_property
    def priced(self) -> list[Tensor]:
        """Mark along each axis where a slope to the next voxel costs: not across the mask's border."""
        return spared(self.window.mask, self.window.grid, None, 0.0)

    def scale(self, field: Tensor) -> Scale:
        """Measure a field."""
        counts = self.weights > 0
        inside = field.detach()[counts]
        strength = inside.std(correction=0)
        told = level(field, counts, self.window.grid, strength)
        size = max(float(strength), torch.finfo(torch.float32).tiny ** 0.25)
        noise = max(float(told), self.noise, 1e-3 * size)
        return Scale(size, noise, self.rate(noise, float(inside.abs().max())), self.window.grid.voxel_volume ** (1 / 3))

    def lean(self, dual: Tensor) -> Tensor:
        """Return the mean of a dual over the voxels that count: zero where a constant of the field explains what it can."""
        counts = self.weights > 0
        return (dual * counts).sum() / counts.sum()

    def rate(self, noise: float, largest: float) -> float:
        """Return the phase that one ppm stands for: that of the scan, or what `PHASE_NOISE` and `LARGEST_PHASE` make of it."""
        if self.scan is None:
            return min(PHASE_NOISE / noise, LARGEST_PHASE / max(largest, noise))
        times = self.scan.echo_times
        return self.scan.rad_per_ppm(min((b - a for a, b in pairwise(times)), default=times[0]))

    def invert(self, one: Callable[[Tensor], Tensor], local_field: Image) -> Image:
        """Invert every field of a batch by itself: from a field in the window to a spectrum of χ."""

        def image(field: Tensor) -> Tensor:
            return irfftn(one(field), field.shape).mul_(self.window.mask)

        return self.window.put(each(image, levelled(self.window.take(local_field), self.window.mask)))

    def zero(self, field: Tensor) -> Tensor:
        """Return the spectrum of nothing."""
        return torch.zeros_like(self.dipole, dtype=field.dtype.to_complex())

    def variation(self, field: Tensor, limit: float, priced: Sequence[Tensor] | None = None) -> Variation:
        """Return the variation's term; ``limit`` is the slope its dual may make up for, ppm/mm, where one is priced."""
        return Variation(self.window.grid, [(limit * costs).to(field) for costs in priced or self.priced])


class Data:
    r"""The term :math:`\ell(D\chi + b - f)` for `admm`; only the dual is kept, and the constant b, which follows it.

    A field may be off by a constant, of which background removals leave a few parts per billion. It serves best where the duals sum to
    nothing, whatever :math:`\ell` forgives.

    Parameters
    ----------
    frame
        Kernels.
    field
        :math:`f`.
    force
        From :math:`v = D\chi + b - f + u` to the new dual :math:`u'`, which solves :math:`c\,u' = \ell'(v - u')`. May be
        changed between steps.
    coupling
        :math:`c`.
    constant
        :math:`b` to begin with, ppm; that which the median of the field asks for without it.
    """

    def __init__(self, frame: Frame, field: Tensor, force: Force, coupling: float, constant: Tensor | None = None) -> None:
        self.frame, self.field, self.force, self.coupling = frame, field, force, coupling
        self.dual = torch.zeros_like(field)
        self.constant = field[frame.weights > 0].median() if constant is None else constant
        """:math:`b`, ppm."""
        self.look: Callable[[Tensor], None] | None = None
        """Shown every residual, before the step."""

    def __call__(self, chi: Tensor) -> Tensor:
        """Move the dual to a χ and return the pull on the next."""
        field = self.field - self.constant
        target = irfftn(times(chi, self.frame.dipole), field.shape).sub_(field)
        if self.look is not None:
            self.look(target)
        target.add_(self.dual)
        self.dual = self.force(target)
        target.sub_(self.dual, alpha=2).add_(field)
        self.constant = self.constant - self.frame.lean(self.dual)
        return rfftn(target).mul_(self.frame.dipole).mul_(self.coupling)


Step = Callable[[Tensor], Tensor]
r"""From χ to the pull of a term on its slopes less :math:`\nabla^T\nabla\chi`, in units of the penalty."""


def smooth(frame: Frame, step: Step, rho: float, look: Callable[[Tensor], Tensor | None] | None = None) -> Step:
    """Return a term on the slopes for `admm`; ``look`` sees every χ in space and may return a pull of its own, divided by ``rho``."""

    def term(chi: Tensor) -> Tensor:
        x = irfftn(chi, frame.window.grid.shape)
        more = look(x) if look is not None else None
        pull = step(x)
        return rfftn(pull if more is None else pull.add_(more)).addcmul_(frame.stencil, chi).mul_(rho)

    return term


def split(
    frame: Frame,
    data: Data,
    smoothness: Callable[[Tensor], Tensor],
    rho: float,
    start: Tensor,
    *,
    near: float = 0.0,
    max_iter: int,
    tol: float,
    callback: Callback | None,
) -> Solution:
    """Minimise a data term and the variation of χ; an iteration takes two pairs of transforms.

    ``near`` is the penalty of a third term, one on χ itself, whose pull comes with that of the smoothness.
    """
    inverse = frame.dipole.square().mul_(data.coupling).add_(frame.stencil, alpha=rho).add_(near)
    inverse[0, 0, 0] = torch.inf  # neither the field nor its slopes know the mean of χ
    inverse.reciprocal_()
    return admm(lambda pull: pull.mul_(inverse), (data, smoothness), start, max_iter=max_iter, tol=tol, callback=callback, change=change)


def opened(frame: Frame, field: Tensor, scale: Scale, variation: Variation, weight: float = OPENING_WEIGHT) -> tuple[Tensor, Tensor]:
    """Return the spectrum of a χ for absolute residuals to begin with, near the one that squared residuals lead to, and the constant."""
    rho = weight * scale.penalty / scale.slope
    data = Data(frame, field, quadratic(frame.weights.square(), OPENING_COUPLING), OPENING_COUPLING)
    term = smooth(frame, variation.step, rho)
    chi = split(frame, data, term, rho, frame.zero(field), max_iter=OPENING, tol=0.0, callback=None).x
    return chi, data.constant


def change(now: Tensor, before: Tensor) -> float:
    """Return the relative change of a χ from its half spectra, the same whichever axis was halved."""
    moved, size = (_power(v) for v in (now - before, now))
    return math.sqrt(moved / size) if size else math.sqrt(moved)


def _power(spectrum: Tensor) -> float:
    """Return the sum of squares over the whole spectrum; the windows' sides are even."""
    whole, first, last = (length(part) ** 2 for part in (spectrum, spectrum[..., 0], spectrum[..., -1]))
    return max(2 * whole - first - last, 0.0)


def quadratic(weights: Tensor, coupling: float) -> Force:
    r"""Return the force of :math:`\frac12 w r^2`."""
    share = weights / (weights + coupling)
    return share.mul


def absolute(weights: Tensor, coupling: float) -> Force:
    r"""Return the force of :math:`w|r|`."""
    limit = weights / coupling
    return lambda target: target.clone().clamp_(-limit, limit)  # a gradient asks for the target later, when it has changed


def phase_quadratic(weights: Tensor, coupling: float, rate: float) -> Force:
    r"""Return the force of :math:`\frac{w}{2s^2}|e^{isr} - 1|^2 = \frac{w}{s^2}(1 - \cos sr)`."""
    total = weights + coupling

    def force(target: Tensor) -> Tensor:
        target = _nearest(target, rate)
        residual = (target * coupling).div_(total)
        for _ in range(NEWTON):
            angle = residual * rate
            slope = torch.cos(angle).clamp_min_(0).mul_(weights).add_(coupling)
            wrong = torch.sin(angle).mul_(weights / rate).add_(residual - target, alpha=coupling)
            residual = residual.sub_(wrong.div_(slope))
        return target.sub_(residual)

    return force


def phase_absolute(weights: Tensor, coupling: float, rate: float) -> Force:
    r"""Return the force of :math:`\frac{w}{s}|e^{isr} - 1| = \frac{2w}{s}|\sin\frac{sr}{2}|`."""
    limit = weights / coupling

    def force(target: Tensor) -> Tensor:
        target = _nearest(target, rate)
        dual = target.clamp(-limit, limit)
        for _ in range(NEWTON):  # a fixed point: the cosine hardly moves
            held = torch.cos((target - dual).mul_(rate / 2)).mul_(limit)
            dual = target.clamp(-held, held)
        return dual

    return force


def _nearest(residual: Tensor, rate: float) -> Tensor:
    """Take whole turns out of a residual: phase does not know them."""
    turn = 2 * math.pi / rate
    return residual - torch.round(residual.detach() / turn) * turn
