"""The smallest local field that a spherical mean value filter allows."""

from __future__ import annotations

import math

from torch import Tensor

from paradia.background._spheres import Spheres
from paradia.fft import irfftn, rfftn
from paradia.solvers._solution import Solution
from paradia.solvers.cg import cg
from paradia.sources.knobs import check_positive, check_stop
from paradia.types import Callback

WAVELENGTH = 100.0
"""Wavelength, mm, whose gain in the filter is the unit of the weight."""

AHEAD = 10.0
"""Multiple of the weight in the preconditioner: the mask leaves fewer small singular values than the filter has."""


def smallest(
    field: Tensor,
    spheres: Spheres,
    radius: float,
    *,
    weight: float,
    max_iter: int,
    tol: float,
    callback: Callback | None = None,
) -> tuple[Tensor, Solution]:
    r"""Minimise :math:`\|M_r(1 - S_r)(f - x)\|^2 + w\,g_r^2\,\|x\|^2`, :math:`g_r = \frac1{10}(2\pi r / 100\,\mathrm{mm})^2`.

    The minimum is :math:`x = (1 - S_r) M_r y` with :math:`(M_r (1 - S_r)^2 M_r + w g_r^2)\, y = M_r (1 - S_r) f`, which takes
    one pair of transforms an iteration where the equation for x takes two; one more goes to the preconditioner, the same
    without the mask.

    Returns
    -------
    Tensor
        The local field where the spheres fit.
    Solution
        Of the equation for y, with its relative residual.

    Raises
    ------
    InputError
        A knob out of range.
    """
    check_positive(weight=weight)
    check_stop(max_iter=max_iter, tol=tol)
    share, fits = spheres
    damp = weight * (0.1 * (2 * math.pi * radius / WAVELENGTH) ** 2) ** 2
    squared = share.square()
    inverse = 1 / (squared + AHEAD * damp)

    def filtered(image: Tensor, spectrum: Tensor) -> Tensor:
        return irfftn(rfftn(image).mul_(spectrum), field.shape).mul_(fits)

    solution = cg(
        lambda y: filtered(y, squared).add_(y, alpha=damp),
        filtered(field, share),
        precondition=lambda residual: filtered(residual, inverse),
        max_iter=max_iter,
        tol=tol,
        callback=callback,
    )
    return filtered(solution.x, share), solution
