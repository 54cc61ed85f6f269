"""Hybrid data fidelity: absolute residuals first, then squared ones where the first could explain the field."""

from __future__ import annotations

from torch import Tensor

from paradia.fft import irfftn, times
from paradia.grid import Grid
from paradia.inversion._splitting import Data, Frame, absolute, opened, quadratic, smooth, split
from paradia.sources.knobs import check_positive, check_stop
from paradia.types import Callback, Image, Mask, Volume

CITE = "10.1002/mrm.29218"

COUPLINGS = 0.3, 0.2
"""Penalty of the data's splitting, the first times the noise; tells how fast, not where to."""

FIRST_STEP = 8
"""Iterations of the first step: it tells which voxels to believe, not yet χ."""


def hdqsm(
    local_field: Image,
    mask: Mask,
    grid: Grid,
    noise: Volume | None = None,
    *,
    first_weight: float = 0.075,
    weight: float = 0.11,
    max_iter: int = 40,
    tol: float = 0.02,
    callback: Callback | None = None,
) -> Image:
    r"""Find which voxels to believe with absolute residuals, then χ with squared ones.

    Eight iterations with squared residuals begin, since absolute ones from nothing would call every strong source wrong; they are not
    in the paper. A few iterations on :math:`\|W(D\chi - f)\|_1 + w_1\Delta(\sigma/F)^{1/4}\|\nabla\chi\|_1` leave residuals
    :math:`r` that tell how far each voxel is to be believed, :math:`C = 1 - |r|/\max|r|`. The second step starts
    where the first ended and minimises :math:`\frac12\|C\,W(D\chi - f)\|^2 +
    w\,\Delta\sigma^{3/2}F^{-1/2}\|\nabla\chi\|_1`, both by ADMM. :math:`F` is the standard deviation of the field;
    :math:`\sigma` that of its noise, as the field itself tells where χ cannot show or as the noise map says,
    whichever is larger; :math:`\Delta` the geometric mean of a voxel's edges.
    No slope across the mask's border counts: beyond it nobody knows χ. A constant of the field is
    free: background removals leave one.

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
    first_weight
        :math:`w_1`, a plain number from about 0.03 (sharp) to 0.2 (smooth).
    weight
        :math:`w`, a plain number from about 0.05 (sharp) to 0.5 (smooth); it holds for any strength and noise of the field and
        any voxel.
    max_iter
        Most iterations of the second step.
    tol
        Stop when χ changes by less than this share of itself.
    callback
        Called as ``callback(iteration, relative_change)`` in the second step.

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

    References
    ----------
    Lambert M, Tejos C, Langkammer C, Milovic C. Magn Reson Med 2022;88:962-972. doi:10.1002/mrm.29218.
    """
    check_positive(first_weight=first_weight, weight=weight)
    check_stop(max_iter=max_iter, tol=tol)
    frame = Frame.around(local_field, mask, grid, noise)

    def invert(field: Tensor) -> Tensor:
        scale = frame.scale(field)
        slope = scale.slope
        variation = frame.variation(field, slope)  # its dual, a share of the limit, serves all steps
        start, constant = opened(frame, field, scale, variation, weight)
        coupling, rho = COUPLINGS[0] / scale.noise, first_weight * scale.share / slope
        data = Data(frame, field, absolute(frame.weights, coupling), coupling, constant)
        term = smooth(frame, variation.step, rho)
        first = split(frame, data, term, rho, start, max_iter=FIRST_STEP, tol=0.0, callback=None).x
        left = irfftn(times(first.detach(), frame.dipole), field.shape).sub_(field.detach()).add_(data.constant.detach())
        wrong = left.abs_().mul_(frame.weights > 0)
        trust = 1 - wrong / wrong.max().clamp_min(1e-3 * scale.noise)
        coupling, rho = COUPLINGS[1], weight * scale.penalty / slope
        data = Data(frame, field, quadratic((trust * frame.weights).square(), coupling), coupling, data.constant)
        term = smooth(frame, variation.step, rho)
        return split(frame, data, term, rho, first, max_iter=max_iter, tol=tol, callback=callback).warn("hdqsm").x

    return frame.invert(invert, local_field)
