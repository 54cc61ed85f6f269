"""Nonlinear dipole inversion."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from paradia.fft import each, irfftn, rfftn
from paradia.grid import Grid
from paradia.inversion._inputs import MARGIN, check_reach, framed
from paradia.inversion._level import wiener
from paradia.inversion._region import region
from paradia.operators.dipole import Dipole
from paradia.operators.weighting import Weighting
from paradia.solvers._solution import Solution, unfinished
from paradia.solvers.admm import relative_change
from paradia.sources.inside import levelled
from paradia.sources.knobs import check_positive, check_stop
from paradia.types import Callback, Image, Mask, Volume

CITE = "10.1002/nbm.4271"

STRONGEST = 4 / 9
"""Largest square of the dipole's spectrum."""

OPENING = 8
"""Iterations in which the circle is a line. From χ = 0 a field of half a turn and more would be taken for the turn nearest to nothing."""


def ndi(
    local_field: Image,
    mask: Mask,
    grid: Grid,
    noise: Volume | None = None,
    *,
    weight: float = 1.5,
    rad_per_ppm: float = 16.0,
    reach: float = 4.0,
    max_iter: int = 60,
    tol: float = 0.01,
    callback: Callback | None = None,
) -> Image:
    r"""Fit the phase on the circle, without any prior on structure, by accelerated gradient descent.

    Minimises :math:`\sum_r W^2\,(1 - \cos s(D\chi + b - f)) / s^2 + \frac{w\alpha}{2}\|\chi\|^2`. The constant b is free, as background
    removals leave one. For small errors this is least squares; an error of half a turn, as noise in veins and bleeds makes, hardly counts.
    The first eight iterations are those of least squares: when they are done, the strong field of a bleed is no such error any more.

    Plain descent of this kind fits χ first and noise later, and is stopped early by hand. Here the quadratic term does what the
    stopping did, as strongly as the noise asks for, :math:`\alpha = \bar{D^2}\sigma^2 / (\|f\|^2 - \sigma^2)` (Wiener's), so that
    the result is the minimum and no matter of when to stop.

    Parameters
    ----------
    local_field
        Field of the sources inside the mask, ppm.
    mask
        Voxels where it holds.
    grid
        Voxel size and direction of B0.
    noise
        Standard deviation of the field, any unit. :math:`W` is one over it, scaled to a mean of one in the mask.
    weight
        :math:`w`, without unit; 1 is Wiener's. :math:`\sigma` is read off the frequencies at which the dipole vanishes.
    rad_per_ppm
        :math:`s`, the phase that 1 ppm makes, rad: :math:`2\pi\cdot 42.577\,B_0\,TE`, about 16 for 20 ms at 3 T. Higher forgives
        smaller errors.
    reach
        How far beyond the mask χ may differ from zero, mm; negative lets χ be anywhere.
    max_iter
        Most iterations to do.
    tol
        Stop when χ changes by less than this share of itself.
    callback
        Called as ``callback(iteration, relative_change)``.

    Returns
    -------
    Image
        χ, ppm, zero outside the mask, not referenced.

    Raises
    ------
    InputError
        A knob out of range.
    GeometryError
        Shapes that do not fit the grid.
    MaskError
        The mask is empty.
    NonFiniteError
        The field is NaN or Inf in the mask.

    Notes
    -----
    Nesterov's momentum, restarted when it points uphill, takes about a fifth of the iterations of the paper's plain descent.

    References
    ----------
    Polak D, Chatnuntawech I, Yoon J, et al. NMR Biomed 2020;33:e4271. doi:10.1002/nbm.4271.
    O'Donoghue B, Candès E. Found Comput Math 2015;15:715-732. doi:10.1007/s10208-013-9150-3.
    """
    check_positive(weight=weight, rad_per_ppm=rad_per_ppm)
    check_stop(max_iter=max_iter, tol=tol)
    check_reach(reach)
    window = framed(local_field, mask, grid, max(MARGIN, 3 * reach), noise=noise)
    weights = Weighting(window.mask, None if noise is None else window.take(noise)).to(local_field).weights.square_()
    dipole = Dipole(window.grid).to(local_field).kernel
    inside = region(window.mask, window.grid, reach)
    steepest = STRONGEST * weights.amax()

    def invert(field: Tensor) -> Tensor:
        if not field.detach().any():
            return torch.zeros_like(field)
        damping = weight * wiener(field, weights > 0, window.grid)

        def gradient(chi: Tensor, iteration: int) -> Tensor:
            error = irfftn(rfftn(chi).mul_(dipole), field.shape).sub_(field)
            if iteration > OPENING:
                angle = error * rad_per_ppm
                constant = torch.atan2((weights * angle.sin()).sum(), (weights * angle.cos()).sum())
                error = (angle - constant).sin_().div_(rad_per_ppm)
            else:
                error = error - (weights * error).sum() / weights.sum()
            return irfftn(rfftn(error.mul_(weights)).mul_(dipole), field.shape).addcmul_(damping, chi).mul_(inside)

        solution = _descend(gradient, torch.zeros_like(field), 1 / (steepest + damping), max_iter, tol, callback)
        return solution.warn("ndi").x * window.mask

    return window.put(each(invert, window.take(levelled(local_field, mask))))


def _descend(
    gradient: Callable[[Tensor, int], Tensor], chi: Tensor, step: Tensor, max_iter: int, tol: float, callback: Callback | None
) -> Solution:
    """Descend with momentum, dropped whenever it points uphill; not done before the opening is over."""
    ahead, pace = chi, 1.0
    iteration, relative = 0, math.inf
    while (unfinished(relative, tol) or iteration <= OPENING) and iteration < max_iter:
        iteration += 1
        slope = gradient(ahead, iteration)
        before, chi = chi, torch.addcmul(ahead, -step, slope)
        moved = chi - before
        uphill = float(torch.dot(slope.detach().flatten(), moved.detach().flatten())) > 0
        pace, last = (1 + math.sqrt(1 + 4 * pace**2)) / 2, pace
        momentum = 0.0 if uphill else (last - 1) / pace
        pace = 1.0 if uphill else pace
        ahead = torch.add(chi, moved, alpha=momentum)
        relative = relative_change(chi, before)
        if callback is not None:
            callback(iteration, relative)
    return Solution(chi, iteration, relative, relative <= tol)
