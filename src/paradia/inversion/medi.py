"""Morphology-enabled dipole inversion."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from paradia.errors import InputError
from paradia.grid import Grid
from paradia.inversion._inputs import checked_echoes
from paradia.inversion._splitting import Data, Frame, phase_quadratic, smooth, split
from paradia.scan import Scan
from paradia.sources.fluid import ventricles
from paradia.sources.knobs import check_not_negative, check_positive, check_stop
from paradia.sources.slopes import spared
from paradia.types import Callback, Echoes, Image, Mask, Volume

CITE = "10.1002/mrm.26946"

COUPLING = 0.2
"""Penalty of the data's splitting; tells how fast, not where to."""

NEAR = 0.02
"""Penalty of the splitting of χ in the fluid; likewise."""

FIRST, EVERY, LAST = 12, 6, 24
"""Iterations at which outliers are looked for: the first, how often, and the last, after which the functional stays."""

OUTLIER = 6.0
"""Residual that makes an outlier, in standard deviations."""


def medi(
    local_field: Image,
    mask: Mask,
    grid: Grid,
    noise: Volume | None = None,
    magnitude: Echoes | None = None,
    r2star: Volume | None = None,
    scan: Scan | None = None,
    *,
    weight: float = 0.11,
    edges: float = 0.1,
    csf: float = 0.1,
    reweight: bool = True,
    max_iter: int = 50,
    tol: float = 0.01,
    callback: Callback | None = None,
) -> Image:
    r"""Find a χ whose edges are those of the magnitude and whose cerebrospinal fluid is even.

    Minimises :math:`\frac{1}{2s^2}\|W(e^{isD\chi} - e^{isf})\|^2 + w\,\Delta\sigma^{3/2}F^{-1/2}\|P\nabla\chi\|_1 +
    \frac{\lambda}{2}\|M_\mathrm{CSF}(\chi - \bar\chi_\mathrm{CSF})\|^2` by ADMM; :math:`P` is zero at the edges of
    the magnitude and across the border of the mask, beyond which nobody knows χ, and one elsewhere. Voxels whose residual
    is beyond six standard deviations lose weight while it runs (MERIT). :math:`F` is the standard deviation of the field;
    :math:`\sigma` that of its noise, as the field itself tells where χ cannot show or as the noise map says, whichever is
    larger; :math:`\Delta` the geometric mean of a voxel's edges. A constant of the field is free: background removals leave
    one.

    Parameters
    ----------
    local_field
        Field of the sources inside the mask, ppm.
    mask
        Voxels where it holds; the field counts in them only.
    grid
        Voxel size and direction of B0.
    noise
        Standard deviation of the field, ppm. :math:`W` is one over it, scaled to a mean of one in the mask.
    magnitude
        Magnitudes of the echoes, any unit. Without them no edge is spared.
    r2star
        Relaxation rate, 1/s; where it is below 5 1/s near the middle of the mask is fluid. Without it nothing is asked of it.
    scan
        Tells :math:`s`, the phase that one ppm gathers between two echoes, rad. Without it :math:`s` makes the noise of
        the field 0.05 rad, or the largest field a quarter turn if that is less.
    weight
        :math:`w`, a plain number from about 0.05 (sharp) to 0.5 (smooth); it holds for any strength and noise of the field and
        any voxel.
    edges
        Share of the magnitude's slopes, the steepest, that are edges, between 0 and 1.
    csf
        :math:`\lambda`, how firmly the fluid is even, as a share of the data's firmness.
    reweight
        Take weight from outliers.
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
    The papers descend by Gauss-Newton steps with conjugate gradients; the functional is the same.

    References
    ----------
    Liu T, Wisnieff C, Lou M, Chen W, Spincemaille P, Wang Y. Magn Reson Med 2013;69:467-476. doi:10.1002/mrm.24272.
    Liu Z, Spincemaille P, Yao Y, Zhang Y, Wang Y. Magn Reson Med 2018;79:2795-2803. doi:10.1002/mrm.26946.
    """
    check_positive(weight=weight)
    check_stop(max_iter=max_iter, tol=tol)
    check_not_negative(csf=csf)
    if not 0 <= edges < 1:
        raise InputError(f"edges must be a share from 0 to below 1, got {edges}.")
    frame = Frame.around(local_field, mask, grid, noise, scan, r2star=r2star)
    magnitude = checked_echoes(magnitude, mask, grid)
    window = frame.window
    strength = None if magnitude is None else window.take(magnitude.to(local_field).square().sum(0).sqrt())  # squares of integers overflow
    prices = spared(window.mask, window.grid, strength, edges)
    fluid = None if r2star is None or csf == 0 else window.take(ventricles(r2star, mask, grid))
    near = 0.0 if fluid is None or not bool(fluid.any()) else NEAR

    def invert(field: Tensor) -> Tensor:
        scale = frame.scale(field)
        slope = scale.slope
        rho = weight * scale.penalty / slope
        variation = frame.variation(field, slope, prices)
        data = Data(frame, field, phase_quadratic(frame.weights.square(), COUPLING, scale.phase), COUPLING)
        data.look = _outliers(data, scale.phase) if reweight else None
        even = None if fluid is None or not near else _even(fluid, csf, field, rho)
        term = smooth(frame, variation.step, rho, even)
        solution = split(frame, data, term, rho, frame.zero(field), near=near, max_iter=max_iter, tol=tol, callback=callback)
        return solution.warn("medi").x

    return frame.invert(invert, local_field)


def _outliers(data: Data, rate: float) -> Callable[[Tensor], None]:
    """Return what lowers the weights of voxels that no χ explains."""
    base = data.frame.weights
    inside = base > 0
    seen = 0

    def look(residual: Tensor) -> None:
        nonlocal seen
        seen += 1
        if seen < FIRST or seen > LAST or (seen - FIRST) % EVERY:
            return
        apart = torch.sin(residual.detach() * (rate / 2)).abs_().mul_(base)  # half the distance on the circle
        typical = apart.square().sum().div_(inside.sum()).sqrt_()
        excess = apart.div_((OUTLIER * typical).clamp_min(1e-30)).clamp_min_(1)
        data.force = phase_quadratic(base.div(excess.square_()).square_(), data.coupling, rate)

    return look


def _even(fluid: Tensor, csf: float, field: Tensor, rho: float) -> Callable[[Tensor], Tensor]:
    """Return what pulls χ in the fluid to its mean."""
    dual = torch.zeros_like(field)
    count = fluid.sum()
    held = csf / (csf + NEAR)

    def look(x: Tensor) -> Tensor:
        target = dual + x
        mean = (target * fluid).sum() / count
        kept = (target - mean).mul_(fluid).mul_(held)
        pull = target.sub_(kept, alpha=2).mul_(NEAR / rho)
        dual.copy_(kept)
        return pull

    return look
