"""Iterative least squares with streaks estimated and taken away."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paradia.errors import InputError
from paradia.fft import each, irfftn, rfftn
from paradia.grid import Grid
from paradia.inversion._inputs import MARGIN, STRONGEST, framed
from paradia.inversion._level import wiener
from paradia.operators.dipole import Dipole
from paradia.operators.gradient import Gradient
from paradia.operators.laplacian import Laplacian
from paradia.operators.smv import SMV
from paradia.operators.weighting import Weighting
from paradia.solvers.lsmr import lsmr
from paradia.sources.inside import within
from paradia.sources.knobs import check_not_negative, check_stop
from paradia.sources.streaks import ROUGH, flat_slopes, flatness, streaks
from paradia.types import Callback, Image, Mask, Volume

CITE = "10.1016/j.neuroimage.2014.12.043"

NEAR = (0.0058, 0.167)
"""Between these :math:`|D|` the fast estimate passes from a local mean to itself: 1 % and 30 % of all directions lie below."""

RADIUS = 3.0
"""Of that mean, in voxels' mean edges."""


def ilsqr(
    local_field: Image,
    mask: Mask,
    grid: Grid,
    noise: Volume | None = None,
    *,
    weight: float = 1.0,
    cone: float = 0.1,
    max_iter: int = 100,
    tol: float = 0.01,
    callback: Callback | None = None,
) -> Image:
    r"""Solve by weighted least squares, then take away the streaks that make flat tissue uneven.

    First :math:`\chi_L = \arg\min \|W(D\chi + b - f)\|^2 + w\alpha\|\chi\|^2`, where :math:`W` falls with the second derivative of the
    field and the constant b is free, as background removals leave one. Its streaks live where the dipole nearly vanishes. They are the
    :math:`\chi_S` made of frequencies with :math:`|D| < c` alone for which :math:`\sum_i\|G_i\nabla_i(\chi_L - \chi_S)\|^2` is least, with
    :math:`G_i` one where a fast estimate of χ is flat and zero at its edges. The result is :math:`\chi_L - \chi_S`.

    Parameters
    ----------
    local_field
        Field of the sources inside the mask, ppm.
    mask
        Voxels where it holds.
    grid
        Voxel size and direction of B0.
    noise
        Standard deviation of the field, any unit. :math:`W` is multiplied by one over it, scaled to a mean of one in the mask.
    weight
        :math:`w`, without unit. :math:`\alpha` is the noise's power over that of χ, both read off the field; 0 leaves least squares
        undamped, as in the paper, and the stopping to `max_iter`.
    cone
        :math:`c`, between 0 and 2/3: where streaks are looked for.
    max_iter
        Most iterations in each of the two problems.
    tol
        Stop each when its gradient has fallen to this share.
    callback
        Called as ``callback(iteration, relative_gradient)``.

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
    The fast estimate divides by the sign of the dipole, means frequencies near the cone over a small sphere in space (the paper
    smooths the spectrum there), and is not scaled to a thresholded division: of its slopes only the order is used.

    References
    ----------
    Li W, Wang N, Yu F, et al. NeuroImage 2015;108:111-122. doi:10.1016/j.neuroimage.2014.12.043.
    """
    check_not_negative(weight=weight)
    check_stop(max_iter=max_iter, tol=tol)
    if not 0 <= cone <= STRONGEST:
        raise InputError(f"cone must lie between 0 and 2/3, got {cone}.")
    radius = RADIUS * grid.voxel_volume ** (1 / 3)
    window = framed(local_field, mask, grid, max(MARGIN, 2 * radius), noise=noise)  # the sphere fits in beside a single slice
    known = Weighting(window.mask, None if noise is None else window.take(noise)).to(local_field).weights
    counts = known > 0
    dipole = Dipole(window.grid).to(local_field)
    laplacian = Laplacian(window.grid).to(local_field)
    low_pass = _low_pass(window.grid, dipole.kernel, radius)
    done = 0

    def told(iteration: int, relative: float) -> None:
        if callback is not None:
            callback(done + iteration, relative)

    def invert(field: Tensor) -> Tensor:
        nonlocal done
        done = 0
        field = within(field - field[counts].median(), counts)  # or weights and guide would show the mask's edge
        if not field.detach().any():
            return torch.zeros_like(field)
        weights = known * flatness(laplacian(field).abs_(), window.mask, ROUGH)
        total = weights.square().sum().clamp_min(torch.finfo(weights.dtype).tiny)
        damp = math.sqrt(weight * float(wiener(field, counts, window.grid)))

        def free(weighted: Tensor) -> Tensor:
            return weighted - (weighted * weights).sum() / total * weights

        solution = lsmr(
            lambda chi: free(dipole(chi).mul_(weights)),
            lambda residual: dipole(free(residual).mul_(weights)),
            free(weights * field),
            damp=damp,
            max_iter=max_iter,
            tol=tol,
            callback=told,
        )
        done = solution.iterations
        chi = solution.warn("ilsqr").x * window.mask
        guide = irfftn(rfftn(field) * low_pass, field.shape)
        flat = flat_slopes(Gradient(window.grid, periodic=True)(guide).abs_(), window.mask)
        found = streaks(chi, flat, dipole.kernel.abs() < cone, window, max_iter=max_iter, tol=tol, callback=told)
        return (chi - found.warn("ilsqr, streaks,").x).mul_(window.mask)

    return window.put(each(invert, window.take(within(local_field, mask))))


def _low_pass(grid: Grid, dipole: Tensor, radius: float) -> Tensor:
    """Return the spectrum that turns a field into the fast estimate, but for its scale."""
    strength = dipole.abs()
    itself = ((strength - NEAR[0]) / (NEAR[1] - NEAR[0])).clamp_(0, 1)
    mean = SMV(grid, radius).to(dipole).kernel
    return dipole.sign().mul_((itself + (1 - itself) * mean).square_())
