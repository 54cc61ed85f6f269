"""Both sources at once from a field and a map of rates: the frame, the splittings and the loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paradia.fft import Window, irfftn, length, rfftn, times
from paradia.grid import Grid
from paradia.operators.dipole import Dipole
from paradia.operators.laplacian import Laplacian
from paradia.operators.weighting import Weighting, typical_noise
from paradia.separation._noise import doubt, field_noise
from paradia.separation._slopes import Slopes
from paradia.separation._voxel import solve
from paradia.solvers._solution import Solution, unfinished
from paradia.sources.doubt import believed_rate
from paradia.sources.inside import levelled, within
from paradia.types import Callback

MARGIN = 15.0
"""Distance between the mask and its periodic copies, mm."""

MARGIN_VOXELS = 3
"""Least margin in voxels' mean edges: the sphere that tells streaks fits in beside a single slice."""

LIFTS, LEVEL = 4, 2e-3
"""How often the lift that holds the mean is set anew at most, and how far off the mean may be, as a share of the root mean square."""

TINY = torch.finfo(torch.float32).tiny

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Frame:
    """The data in a window around the mask, all in ppm, with their weights."""

    window: Window
    field: Tensor
    """Local field less what an even χ could make of it, zero outside the mask."""
    even: Tensor
    """Field of an even χ in the mask, for one ppm."""
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
        window = Window.around(mask, grid, max(MARGIN, MARGIN_VOXELS * grid.voxel_volume ** (1 / 3)))
        mean = sum(drs) / 2
        f, total = (window.take(image) for image in (levelled(field, mask), within(rate / mean, mask)))
        even = Dipole(window.grid).to(f)(window.mask.to(f))
        weights = Weighting(window.mask, None if noise is None else window.take(noise)).to(f).weights.square()
        counts = weights > 0
        f = torch.where(counts, f - even * ((even * f * counts).sum() / (even * even * counts).sum().clamp_min(TINY)), 0.0)
        strength, level = field_noise(f, counts, window.grid)
        level = max(level, typical_noise(noise, mask))
        believed = window.take(torch.where(mask, believed_rate(rate, mask, rate_deviation) / mean, 0.0))
        variance = believed.square() + doubt(total, window.mask) ** 2
        firmness = window.mask * level**2 / variance
        return cls(window, f, even, total, (drs[0] / mean, drs[1] / mean), weights, firmness, strength, level)

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
    r"""The terms that know single voxels: the rates, pulls on χ+ − χ−, its mean, both signs and the mask.

    :math:`\frac\gamma2(up + vn - s)^2 + \sum_i\frac{\kappa_i}2(p - n - \chi_i - c_i)^2` with :math:`p, n \ge 0` and the mean of
    :math:`p - n` over the mask given. The offsets :math:`c_i`, one for all voxels of a pull, are free and follow the sources.

    Parameters
    ----------
    frame
        The data.
    coupling
        Penalty of the splitting.
    level
        Mean of p − n, ppm.
    pulls
        :math:`\kappa_i` and :math:`\chi_i`.
    """

    def __init__(self, frame: Frame, coupling: float, level: float, *pulls: Pair) -> None:
        u, v = frame.shares
        held = torch.stack([weight for weight, _ in pulls]).sum(0) if pulls else 0.0
        self.coupling, self.pulls, self.mask = coupling, pulls, frame.window.mask
        self.a = frame.firmness * (u * u) + held + coupling
        self.b = frame.firmness * (v * v) + held + coupling
        self.c = frame.firmness * (u * v) - held
        self.right = (frame.firmness * frame.total * u, frame.firmness * frame.total * v)
        self.difference = torch.zeros_like(frame.total)
        self.level, self.lift = level, 0.0
        ease = (self.a + self.b + 2 * self.c) / (self.a * self.b - self.c * self.c)
        self.stiffness = 1 / float((ease * self.mask).sum() / self.mask.sum())  # lift for a step of the mean, were there no signs

    def __call__(self, p: Tensor, n: Tensor) -> Pair:
        """Return the sources nearest to given ones."""
        right_p, right_n = torch.add(self.right[0], p, alpha=self.coupling), torch.add(self.right[1], n, alpha=self.coupling)
        for weight, chi in self.pulls:
            offset = (weight * (self.difference - chi)).sum() / weight.sum()
            pull = weight * (chi + offset)
            right_p.add_(pull)
            right_n.sub_(pull)
        for _ in range(LIFTS):
            p, n = (source.mul_(self.mask) for source in solve(self.a, self.b, self.c, right_p + self.lift, right_n - self.lift))
            self.difference = p - n
            off = self.level - float(self.difference.sum() / self.mask.sum())
            self.lift += self.stiffness * off
            if abs(off) <= LEVEL * float(self.difference.square().sum() / self.mask.sum()) ** 0.5:
                break
        return p, n


class Misfit:
    r"""The field's misfit as a term of the splitting: :math:`\frac12\|W(Dx - f)\|^2` with :math:`x = p - n`.

    An even shift of χ in the mask makes a field that sources outside could make as well, so that no background removal keeps it, and a
    constant is what background removals leave. Both shares of the field are left free, and follow the sources.

    Parameters
    ----------
    frame
        The data.
    coupling
        Penalty of the splitting.
    """

    def __init__(self, frame: Frame, coupling: float) -> None:
        self.field, self.coupling = frame.field, coupling
        self.dipole = Dipole(frame.window.grid).to(frame.field).kernel
        self.shrink = frame.weights / (frame.weights + coupling)
        self.nobodys = _apart(frame.weights, frame.even, frame.window.mask.to(frame.even))
        self.dual = torch.zeros_like(frame.field)

    def step(self, difference: Tensor) -> Tensor:
        """Move the dual to a spectrum of p − n and return that of the pull on it."""
        made = irfftn(times(difference, self.dipole), self.field.shape)
        field, left = self.field.clone(), made - self.field
        for heavy, pattern in self.nobodys:
            field.add_(pattern, alpha=float((heavy * left).sum()))
        target = made.sub_(field).add_(self.dual)
        self.dual = target * self.shrink
        return rfftn(target.sub_(self.dual, alpha=2).add_(field)).mul_(self.dipole).mul_(2 * self.coupling)


def joint(
    frame: Frame,
    voxels: Callable[[Tensor, Tensor], Pair],
    couplings: Couplings,
    limit: Sequence[Tensor] | None,
    *,
    max_iter: int,
    tol: float,
    callback: Callback | None,
) -> tuple[Pair, Solution]:
    r"""Minimise over both sources by ADMM: the field's misfit, the voxels' terms, and the absolute slopes of both.

    Split off are :math:`D(p - n)`, p and n themselves, and their slopes. What couples p and n in the frequency domain is the same for
    their difference and their sum, :math:`(2\mu D^2 + \rho L + \nu)\hat q` and :math:`(\rho L + \nu)\hat t`, so that an iteration takes
    three pairs of transforms and two divisions. The sources given back keep the signs and the mask exactly, and the mean of
    :math:`p - n`, which the misfit leaves free, is held by the voxels' terms.
    """
    shape, grid = frame.field.shape, frame.window.grid
    misfit = Misfit(frame, couplings.field)
    terms = None if limit is None else (Slopes(grid, limit, frame.field), Slopes(grid, limit, frame.field))
    base = Laplacian(grid).to(frame.field).kernel.mul(-couplings.slope).add_(couplings.voxel)
    for_difference, for_sum = (base + 2 * couplings.field * misfit.dipole.square()).reciprocal_(), base.reciprocal()
    stencil = base - couplings.voxel
    dual_p, dual_n = torch.zeros_like(frame.field), torch.zeros_like(frame.field)
    p, n = voxels(dual_p, dual_n)
    difference, total = rfftn(p - n), rfftn(p + n)
    iteration, relative = 0, math.inf
    while unfinished(relative, tol) and iteration < max_iter:
        iteration += 1
        pull = misfit.step(difference)
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
            new_difference.addcmul_(stencil, difference)
            new_total.addcmul_(stencil, total)
        difference, total = new_difference.mul_(for_difference), new_total.mul_(for_sum)
        relative = _change((p, n), before)
        if callback is not None:
            callback(iteration, relative)
    return (p, n), Solution(p, iteration, relative, relative <= tol)


def _apart(weights: Tensor, first: Tensor, second: Tensor) -> list[Pair]:
    """Return, for two fields made orthogonal under weights, what tells their share of a third, and the fields."""
    found: list[Pair] = []
    for field in (first, second):
        for heavy, other in found:
            field = field - other * (heavy * field).sum()
        heavy = weights * field
        found.append((heavy / (heavy * field).sum().clamp_min(TINY), field))
    return found


def _change(now: Pair, before: Pair) -> float:
    """Return the relative change of a pair."""
    moved = math.hypot(*(length(a - b) for a, b in zip(now, before, strict=True)))
    size = math.hypot(*map(length, now))
    return moved / size if size else moved
