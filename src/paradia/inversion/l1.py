"""Nonlinear inversion with absolute residuals."""

from __future__ import annotations

from torch import Tensor

from paradia.grid import Grid
from paradia.inversion._splitting import Data, Frame, opened, phase_absolute, smooth, split
from paradia.scan import Scan
from paradia.sources.knobs import check_positive, check_stop
from paradia.types import Callback, Image, Mask, Volume

CITE = "10.1002/mrm.28957"

COUPLING = 0.3
"""Penalty of the data's splitting, times the noise; tells how fast, not where to."""


def l1(
    local_field: Image,
    mask: Mask,
    grid: Grid,
    noise: Volume | None = None,
    scan: Scan | None = None,
    *,
    weight: float = 0.075,
    max_iter: int = 60,
    tol: float = 0.01,
    callback: Callback | None = None,
) -> Image:
    r"""Find a χ of little total variation that explains most of the field exactly and forgives what is wrong.

    Minimises :math:`\frac1s\|W(e^{isD\chi} - e^{isf})\|_1 + w\,\Delta(\sigma/F)^{1/4}\|\nabla\chi\|_1` by ADMM: the
    residual counts by its absolute value, so that a voxel of wrong field costs no more than its share, and whole
    turns of the phase cost nothing. :math:`F` is the standard deviation of the field; :math:`\sigma` that of its
    noise, as the field itself tells where χ cannot show or as the noise map says, whichever is larger; :math:`\Delta`
    the geometric mean of a voxel's edges.
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
    scan
        Tells :math:`s`, the phase that one ppm gathers between two echoes, rad. Without it :math:`s` makes the noise of
        the field 0.05 rad, or the largest field a quarter turn if that is less.
    weight
        :math:`w`, a plain number from about 0.03 (sharp) to 0.2 (smooth); it holds for any strength and noise of the field and
        any voxel.
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
    The paper splits off the complex residual; here its proximal map is solved in place, which spares one splitting. Eight iterations
    with squared residuals go before, not counted in `max_iter`: absolute ones from nothing leave strong sources behind.

    References
    ----------
    Milovic C, Lambert M, Langkammer C, Bredies K, Irarrazaval P, Tejos C. Magn Reson Med 2022;87:457-473. doi:10.1002/mrm.28957.
    """
    check_positive(weight=weight)
    check_stop(max_iter=max_iter, tol=tol)
    frame = Frame.around(local_field, mask, grid, noise, scan)

    def invert(field: Tensor) -> Tensor:
        scale = frame.scale(field)
        coupling, slope = COUPLING / scale.noise, scale.slope
        rho = weight * scale.share / slope
        variation = frame.variation(field, slope)  # its dual, a share of the limit, serves the opening as well
        start, constant = opened(frame, field, scale, variation)
        data = Data(frame, field, phase_absolute(frame.weights, coupling, scale.phase), coupling, constant)
        term = smooth(frame, variation.step, rho)
        solution = split(frame, data, term, rho, start, max_iter=max_iter, tol=tol, callback=callback)
        return solution.warn("l1").x

    return frame.invert(invert, local_field)
