"""Both sources at once from a field and a map of rates: the frame, the splittings and the loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paradia.fft import Window, irfftn, rfftn
from paradia.grid import Grid
from paradia.operators.dipole import Dipole
from paradia.operators.laplacian import Laplacian
from paradia.operators.weighting import Weighting
from paradia.separation._noise import doubt, field_noise, roughness
from paradia.separation._voxel import solve
from paradia.solvers._solution import Solution
from paradia.types import Callback

MARGIN = 15.0
"""Distance between the mask and its periodic copies, mm."""

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Frame:
    """The data in a window around the mask, all in ppm, with their weights."""

    window: Window
    field: Tensor
    """Local field, zero outside the mask."""
    total: Tensor
    """R2′ over the mean of both relaxivities."""
    shares: tuple[float, float]
    """Both relaxivities over their mean."""
    weights: Tensor
    """Squared weights of the field, about one in the mask and zero outside."""
    firmness: Tensor
    """Squared weights of the rates beside those of the field: the ratio of both variances; zero outside the mask."""
    strength: float
    """Standard deviation of the field."""
    noise: float
    """Standard deviation of its noise."""

    @classmethod
    def around(
        cls,
        field: Tensor,
        rate: Tensor,
        mask: Tensor,
        grid: Grid,
        drs: tuple[float, float],
        noise: Tensor | None = None,
        rate_deviation: Tensor | None = None,
    ) -> Frame:
        """Frame a mask."""
        window = Window.around(mask, grid, MARGIN)
        mean = sum(drs) / 2
        f, total = (window.take(image * mask) for image in (field, rate / mean))
        weights = Weighting(window.mask, None if noise is None else window.take(noise)).to(f).weights.square()
        strength, level = field_noise(f, window.mask, window.grid)
        if noise is not None:
            level = max(level, float(noise[mask].median()))
        error = doubt(total, window.mask)
        if rate_deviation is None:
            variance = torch.full_like(total, max(error, roughness(total, window.mask)) ** 2)
        else:
            variance = window.take(rate_deviation / mean).square() + error**2
        firmness = window.mask * level**2 / variance
        return cls(window, f, total, (drs[0] / mean, drs[1] / mean), weights, firmness, strength, level)

    @property
    def penalty(self) -> float:
        r"""What a unit of the weight of the slopes is worth beside squared residuals: :math:`\Delta\sigma^{3/2}F^{-1/2}`."""
        return self.voxel * math.sqrt(self.noise**3 / self.strength)

    @property
    def voxel(self) -> float:
        """Geometric mean of a voxel's edges, mm."""
        return self.window.grid.voxel_volume ** (1 / 3)


@dataclass
class Couplings:
    """Penalties of the splittings; they tell how fast, not where to."""

    field: float
    voxel: float
    slope: float = 0.0


class Voxels:
    r"""The terms that know single voxels: the rates, a tie of χ+ − χ− to a given χ, both signs and the mask.

    :math:`\frac\gamma2(up + vn - s)^2 + \frac\kappa2(p - n - \chi - c)^2 + \frac\lambda2(p - n - m)^2` with :math:`p, n \ge 0`. The offset
    c of the tie, and the mean m of the fluid, follow the sources.
    """

    def __init__(
        self,
        frame: Frame,
        coupling: float,
        tie: Tensor | None = None,
        chi: Tensor | None = None,
        fluid: Tensor | None = None,
        csf: float = 0.0,
    ):
        self.frame, self.coupling, self.chi, self.fluid = frame, coupling, chi, fluid
        u, v = frame.shares
        held = torch.zeros_like(frame.firmness)
        if tie is not None:
            held = held + tie
        if fluid is not None:
            held = held + csf * fluid
        self.tie, self.csf, self.held = tie, csf, held
        self.a = frame.firmness * (u * u) + held + coupling
        self.b = frame.firmness * (v * v) + held + coupling
        self.c = frame.firmness * (u * v) - held
        self.right = frame.firmness * frame.total
        self.counts = None if fluid is None else fluid.sum()
        self.whole = None if tie is None else tie.sum()
        self.p = torch.zeros_like(frame.total)
        self.n = torch.zeros_like(frame.total)

    def __call__(self, p: Tensor, n: Tensor) -> Pair:
        """Return the sources nearest to given ones."""
        u, v = self.frame.shares
        right_p, right_n = self.right * u + self.coupling * p, self.right * v + self.coupling * n
        q = self.p - self.n
        if self.tie is not None and self.chi is not None:
            offset = (self.tie * (q - self.chi)).sum() / self.whole
            pulled = self.tie * (self.chi + offset)
            right_p, right_n = right_p + pulled, right_n - pulled
        if self.fluid is not None:
            pulled = self.csf * self.fluid * ((self.fluid * q).sum() / self.counts)
            right_p, right_n = right_p + pulled, right_n - pulled
        p, n = solve(self.a, self.b, self.c, right_p, right_n)
        self.p, self.n = p.mul_(self.frame.window.mask), n.mul_(self.frame.window.mask)
        return self.p, self.n


class Slopes:
    r"""Dual of :math:`w\|P\nabla x\|_1`, the sum of absolute slopes along the axes (periodic), for several maps at once.

    Of the dual only its divergence is asked for: with :math:`t = \nabla x + u`, shrinking by the limit leaves
    :math:`u' = \mathrm{clamp}(t)` and the target :math:`t - 2u'`.
    """

    def __init__(self, grid: Grid, limit: float | Sequence[Tensor], like: Tensor) -> None:
        self.sizes, self.limit = grid.voxel_size, limit
        self.dual = [torch.zeros_like(like) for _ in range(3)]
        self.divergence = torch.zeros_like(like)

    def step(self, x: Tensor) -> Tensor:
        r"""Move the dual to a map and return :math:`\nabla^T u - 2\nabla^T u'`."""
        divergence = torch.zeros_like(x)
        for axis, (u, size) in enumerate(zip(self.dual, self.sizes, strict=True)):
            u.add_(slope(x, axis, size))
            limit = self.limit if isinstance(self.limit, float) else self.limit[axis]
            u.clamp_(-limit, limit)  # type: ignore[arg-type]
            divergence.add_(fall(u, axis, size))
        before, self.divergence = self.divergence, divergence
        return before.sub_(divergence, alpha=2)


def slope(x: Tensor, axis: int, size: float) -> Tensor:
    """Return the difference to the next voxel along an axis over the voxel size; the last voxel's next is the first."""
    return x.roll(-1, axis).sub_(x).div_(size)


def fall(u: Tensor, axis: int, size: float) -> Tensor:
    """Apply the adjoint of `slope`."""
    return u.roll(1, axis).sub_(u).div_(size)


def joint(
    frame: Frame,
    voxels: Callable[[Tensor, Tensor], Pair],
    couplings: Couplings,
    limit: float | Sequence[Tensor] | None,
    *,
    max_iter: int,
    tol: float,
    callback: Callback | None,
) -> tuple[Pair, Solution]:
    r"""Minimise over both sources by ADMM: the field's misfit, the voxels' terms, and the absolute slopes of both.

    Split off are :math:`D(p - n)`, p and n themselves, and their slopes. What couples p and n in the frequency domain is the same for
    their difference and their sum, :math:`(2\mu D^2 + \rho L + \nu)\hat q` and :math:`(\rho L + \nu)\hat t`, so that an iteration takes
    three pairs of transforms and two divisions. The sources given back keep the signs and the mask exactly.
    """
    shape = frame.field.shape
    dipole = Dipole(frame.window.grid).to(frame.field).kernel
    base = Laplacian(frame.window.grid).to(frame.field).kernel.mul(-couplings.slope).add_(couplings.voxel)
    for_difference = (dipole.square().mul_(2 * couplings.field) + base).reciprocal_()
    for_sum = base.reciprocal()
    shrink = frame.weights / (frame.weights + couplings.field)
    terms = None if limit is None else (Slopes(frame.window.grid, limit, frame.field), Slopes(frame.window.grid, limit, frame.field))
    dual, dual_p, dual_n = (torch.zeros_like(frame.field) for _ in range(3))
    p, n = voxels(dual_p, dual_n)
    difference, total = rfftn(p - n), rfftn(p + n)
    iteration, relative = 0, math.inf
    while relative > tol and iteration < max_iter:
        iteration += 1
        target = irfftn(difference * dipole, shape).sub_(frame.field).add_(dual)
        dual = target * shrink
        pull = rfftn(target.sub_(dual, alpha=2).add_(frame.field)).mul_(dipole).mul_(2 * couplings.field)
        x_difference, x_sum = irfftn(difference, shape), irfftn(total, shape)
        x_p, x_n = x_sum.add(x_difference).mul_(0.5), x_sum.sub_(x_difference).mul_(0.5)
        before = (p, n)
        dual_p.add_(x_p), dual_n.add_(x_n)
        p, n = voxels(dual_p, dual_n)
        dual_p.sub_(p), dual_n.sub_(n)
        pull_p, pull_n = (p - dual_p).mul_(couplings.voxel), (n - dual_n).mul_(couplings.voxel)
        if terms is not None:
            pull_p.add_(terms[0].step(x_p), alpha=couplings.slope)
            pull_n.add_(terms[1].step(x_n), alpha=couplings.slope)
        new_difference, new_total = rfftn(pull_p - pull_n).add_(pull), rfftn(pull_p.add_(pull_n))
        if terms is not None:
            stencil = base - couplings.voxel
            new_difference.addcmul_(stencil, difference)
            new_total.addcmul_(stencil, total)
        difference, total = new_difference.mul_(for_difference), new_total.mul_(for_sum)
        relative = _change((p, n), before)
        if callback is not None:
            callback(iteration, relative)
    return (p, n), Solution(p, iteration, relative, relative <= tol)


def _change(now: Pair, before: Pair) -> float:
    """Return the relative change of a pair."""
    moved = math.hypot(*(float(torch.linalg.vector_norm(a - b)) for a, b in zip(now, before, strict=True)))
    size = math.hypot(*(float(torch.linalg.vector_norm(a)) for a in now))
    return moved / size if size else moved
