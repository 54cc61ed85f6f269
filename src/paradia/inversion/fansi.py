"""Nonlinear inversion with total variation or total generalised variation."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from paradia.errors import InputError
from paradia.grid import Grid
from paradia.inversion._generalised import GeneralisedVariation
from paradia.inversion._splitting import Data, Frame, phase_quadratic, smooth, split
from paradia.scan import Scan
from paradia.sources.knobs import check_positive, check_stop
from paradia.types import Callback, Image, Mask, Volume

CITE = "10.1002/mrm.27073"

COUPLING = 0.2
"""Penalty of the data's splitting; tells how fast, not where to."""


def fansi(
    local_field: Image,
    mask: Mask,
    grid: Grid,
    noise: Volume | None = None,
    scan: Scan | None = None,
    *,
    regulariser: Literal["tv", "tgv"] = "tv",
    weight: float = 0.11,
    bend: float = 2.0,
    max_iter: int = 50,
    tol: float = 0.01,
    callback: Callback | None = None,
) -> Image:
    r"""Find a smooth χ whose phase, not whose field, explains the measured one.

    Minimises :math:`\frac{1}{2s^2}\|W(e^{isD\chi} - e^{isf})\|^2 + w\,\Delta\sigma^{3/2}F^{-1/2} R(\nabla\chi)` by
    ADMM, where :math:`R` is :math:`\|\nabla\chi\|_1` (``tv``) or :math:`\min_p \|\nabla\chi - p\|_1 +
    b\,\Delta\|\mathcal E p\|_1` (``tgv``). :math:`F` is the standard deviation of the field; :math:`\sigma` that of
    its noise, as the field itself tells where χ cannot show or as the noise map says, whichever is larger;
    :math:`\Delta` the geometric mean of a voxel's edges.
    No slope across the mask's border counts (``tv``): beyond it nobody knows χ. A constant of the field is
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
    scan
        Tells :math:`s`, the phase that one ppm gathers between two echoes, rad. Without it :math:`s` makes the noise of
        the field 0.05 rad, or the largest field a quarter turn if that is less.
    regulariser
        ``tv`` keeps χ piecewise constant, ``tgv`` piecewise linear: fewer steps on slopes, three times the work.
    weight
        :math:`w`, a plain number from about 0.05 (sharp) to 0.5 (smooth); it holds for any strength and noise of the field and
        any voxel.
    bend
        :math:`b`, price of a change of slope over one voxel in terms of a step. For ``tgv``.
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
        There is no such regulariser, or a knob out of range.
    GeometryError
        Shapes that do not fit the grid.
    MaskError
        The mask is empty.
    NonFiniteError
        The field is NaN or Inf in the mask.

    References
    ----------
    Milovic C, Bilgic B, Zhao B, Acosta-Cabronero J, Tejos C. Magn Reson Med 2018;80:814-821. doi:10.1002/mrm.27073.
    """
    if regulariser not in ("tv", "tgv"):
        raise InputError(f"the regulariser must be tv or tgv, got {regulariser!r}.")
    check_positive(weight=weight, bend=bend)
    check_stop(max_iter=max_iter, tol=tol)
    frame = Frame.around(local_field, mask, grid, noise, scan)
    ratio = bend * grid.voxel_volume ** (1 / 3)

    def invert(field: Tensor) -> Tensor:
        scale = frame.scale(field)
        slope = scale.slope
        rho = weight * scale.penalty / slope
        data = Data(frame, field, phase_quadratic(frame.weights.square(), COUPLING, scale.phase), COUPLING)
        variation = frame.variation(field, slope) if regulariser == "tv" else GeneralisedVariation(frame.window.grid, slope, ratio, field)
        term = smooth(frame, variation.step, rho)
        solution = split(frame, data, term, rho, frame.zero(field), max_iter=max_iter, tol=tol, callback=callback)
        return solution.warn("fansi").x

    return frame.invert(invert, local_field)
