"""Total variation."""

from __future__ import annotations

from torch import Tensor

from paradia.grid import Grid
from paradia.inversion._splitting import Data, Frame, quadratic, smooth, split
from paradia.sources.knobs import check_positive, check_stop
from paradia.types import Callback, Image, Mask, Volume

CITE = "10.1002/mrm.25029"

COUPLING = 0.2
"""Penalty of the data's splitting; tells how fast, not where to."""

SLOPE = 0.5
"""Step of χ at which its splitting is scaled, as a share of the field's standard deviation; likewise."""


def tv(
    local_field: Image,
    mask: Mask,
    grid: Grid,
    noise: Volume | None = None,
    *,
    weight: float = 0.11,
    max_iter: int = 50,
    tol: float = 0.01,
    callback: Callback | None = None,
) -> Image:
    r"""Find the χ of least total variation that explains the field within its noise, by ADMM.

    Minimises :math:`\frac12\|W(D\chi - f)\|^2 + w\,\Delta\sigma^{3/2}F^{-1/2}\|\nabla\chi\|_1`. :math:`F` is the standard
    deviation of the field; :math:`\sigma` that of its noise, as the field itself tells where χ cannot show or as the
    noise map says, whichever is larger; :math:`\Delta` the geometric mean of a voxel's edges.
    No slope across the mask's border counts: beyond it nobody knows χ. A constant of the field is
    free: background removals leave one.

    The data count inside the mask only, by their noise, so that what the field would be outside, which nobody
    measured, does not pull on χ. Both :math:`\nabla\chi` and :math:`D\chi` are split off; an iteration takes two pairs of
    transforms.

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
    weight
        :math:`w`, a plain number from about 0.05 (sharp) to 0.5 (smooth); it holds for any strength and noise of the field and
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

    References
    ----------
    Bilgic B, Fan AP, Polimeni JR, et al. Magn Reson Med 2014;72:1444-1459. doi:10.1002/mrm.25029.
    Milovic C, Bilgic B, Zhao B, Acosta-Cabronero J, Tejos C. Magn Reson Med 2018;80:814-821. doi:10.1002/mrm.27073.
    """
    check_positive(weight=weight)
    check_stop(max_iter=max_iter, tol=tol)
    frame = Frame.around(local_field, mask, grid, noise)

    def invert(field: Tensor) -> Tensor:
        scale = frame.scale(field)
        slope = SLOPE * scale.field / scale.voxel
        rho = weight * scale.penalty / slope
        data = Data(frame, field, quadratic(frame.weights.square(), COUPLING), COUPLING)
        term = smooth(frame, frame.variation(field, slope).step, rho)
        return split(frame, data, term, rho, frame.zero(field), max_iter=max_iter, tol=tol, callback=callback).warn("tv").x

    return frame.invert(invert, local_field)
