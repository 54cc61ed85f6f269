"""What total-field inversions share: sources inside the mask, held down by a penalty on slopes, and free ones outside it.

The field of the sources outside is a thousand times that of the tissue. No iteration that treats all voxels alike gets there soon,
so both kinds are first fitted with quadratic penalties, where least squares converge; the penalty on slopes then starts from there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from paradia.fft import Window, each, irfftn, rfftn
from paradia.operators.dipole import Dipole
from paradia.operators.laplacian import Laplacian
from paradia.operators.weighting import Weighting
from paradia.solvers._solution import Solution
from paradia.solvers.lsmr import lsmr
from paradia.types import Callback

MARGIN = 20.0
"""How far beyond the mask's box sources may lie, mm; those further away are matched by sources within it."""

INSIDE = 0.04
"""Standard deviation of tissue susceptibility for the quadratic start, ppm."""

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


class Total:
    """A total field in its window, and the means to split it into sources.

    Parameters
    ----------
    window
        Around the mask.
    noise
        Standard deviation of the field in the window, any unit; all voxels count alike without.
    model_error
        What it holds beside noise, ppm.
    outside
        Standard deviation of susceptibility outside the mask that the start expects, ppm.
    rim
        Standard deviation of susceptibility in the rim of the mask, ppm.
    like
        A tensor of the device and precision to use.
    """

    def __init__(self, window: Window, noise: Tensor | None, model_error: float, outside: float, rim: float, like: Tensor) -> None:
        self.mask = window.mask
        error = like.new_tensor(model_error)
        deviation = torch.where(self.mask, error, 0.0) if noise is None else noise.hypot(error)
        root = Weighting(self.mask, deviation).to(like).weights
        self.scale = deviation[self.mask].reciprocal().mean().reciprocal()  # ppm; the weights are one over the deviation, times this
        self.precision, self.weights = root / self.scale, root.square()
        near = _depth(window) <= RIM
        self.decay = torch.where(self.mask & near, (self.scale / rim).square(), 0.0)
        self.dipole = Dipole(window.grid).to(like)
        self.stencil = -Laplacian(window.grid).to(like).kernel
        self.spread = torch.where(self.mask, INSIDE, outside).to(like)

    def start(self, field: Tensor, max_iter: int, tol: float) -> Tensor:
        """Return the most probable sources under quadratic penalties."""
        solution = lsmr(
            lambda y: self.dipole(self.spread * y).mul_(self.precision),
            lambda residual: self.dipole(self.precision * residual).mul_(self.spread),
            self.precision * field,
            damp=1.0,
            max_iter=max_iter,
            tol=tol,
        )
        return self.spread * solution.x

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
            step.addcmul_(rfftn(pull(irfftn(dipole * spectrum, shape))), dipole, value=COUPLING)
            spectrum = spectrum - step.mul_(metric)
            before, chi = chi, irfftn(spectrum, shape)
            relative = _change(chi, before, self.mask)
            if callback is not None:
                callback(iteration, relative)
        return Solution(chi, iteration, relative, relative <= tol)


def _depth(window: Window) -> Tensor:
    """Return how far each voxel of the mask lies from the nearest outside it, mm."""
    rim = np.pad(window.mask.cpu().numpy(), 1)
    depth = distance_transform_edt(rim, sampling=window.grid.voxel_size)[1:-1, 1:-1, 1:-1]
    return torch.from_numpy(depth).to(window.mask.device)


def invert(
    name: str,
    penalty: Callable[[float], Slopes],
    window: Window,
    total_field: Tensor,
    mask: Tensor,
    noise: Tensor | None,
    *,
    model_error: float,
    outside: float,
    rim: float,
    start: int,
    max_iter: int,
    tol: float,
    callback: Callback | None,
) -> Tensor:
    r"""Split every total field of a batch into sources, and return those inside the mask.

    The penalty is made from what turns a weight against :math:`\sigma^{-1}` into a limit of its dual.
    """
    total = Total(window, None if noise is None else window.take(noise), model_error, outside, rim, total_field)

    unit = float(total.scale.square()) / RHO

    def one(field: Tensor) -> Tensor:
        sources = total.start(field, start, START)
        solution = total.refine(field, sources, penalty(unit), max_iter=max_iter, tol=tol, callback=callback)
        return solution.warn(name).x * window.mask

    return window.put(each(one, window.take(total_field * mask)))


def _change(now: Tensor, before: Tensor, mask: Tensor) -> float:
    """Return the change inside the mask, relative to what is there; its mean, which no field tells, left out."""
    change, size = (v[mask].detach() for v in (now - before, now))
    size = size - size.mean()
    whole = float(torch.linalg.vector_norm(size))
    return float(torch.linalg.vector_norm(change)) / whole if whole else 0.0


def _data(weights: Tensor, field: Tensor, dual: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the dual step of the data: from Dχ to 2u' − u."""
    share = weights / (weights + COUPLING)

    def step(image: Tensor) -> Tensor:
        nonlocal dual
        before, dual = dual, image.add_(dual).sub_(field).mul_(share)
        return torch.sub(2 * dual, before)

    return step
