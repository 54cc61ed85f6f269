"""Iterated spherical mean values."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.background._harmonic import continued
from paradia.background._spheres import least_radius, reached, spheres
from paradia.fft import Window, each
from paradia.grid import Grid
from paradia.sources.inside import check_numbers, within
from paradia.sources.knobs import check_not_negative, check_stop
from paradia.types import Callback, Image, LocalField, Mask

CITE = "10.1002/mrm.24998"


def ismv(
    total_field: Image,
    mask: Mask,
    grid: Grid,
    *,
    radius: float = 6.0,
    radius_min: float = 1.5,
    max_iter: int = 200,
    tol: float = 1e-3,
    callback: Callback | None = None,
) -> LocalField:
    r"""Subtract the field that is its own mean over every sphere and equals the total field in a rim.

    Replacing the field by its mean over a sphere wherever the sphere fits, again and again, and leaving it alone in the rim
    where it does not, tends to

    .. math:: b = S_r b \text{ where the sphere fits}, \quad b = f \text{ in the rim}.

    This limit is computed, first with a large sphere, whose thick rim evens out noise and local field. With the background
    known inside, a second pass continues it into the rim with the smallest sphere.

    Parameters
    ----------
    total_field
        Total field, ppm.
    mask
        Voxels where it holds.
    grid
        Voxel size.
    radius
        Radius of the first sphere, mm; 3 to 10.
    radius_min
        Radius of the second sphere, mm, and at least one and a half voxels; what lies closer to the edge is given up.
    max_iter
        Most iterations to do in each pass.
    tol
        Stop when the field in the rim is matched to this share of its deviation.
    callback
        Called as ``callback(iteration, relative_residual)``, anew in each pass.

    Returns
    -------
    LocalField
        Local field, ppm, and the mask where the smallest sphere fits.

    Raises
    ------
    InputError
        A knob out of range.
    GeometryError
        Shapes that do not fit the grid.
    MaskError
        The mask is empty, or nowhere deep enough for the spheres.
    NonFiniteError
        The field is NaN or Inf in the mask.

    Notes
    -----
    No frequency is given up, unlike with `sharp`. What the rim holds of local field is taken for background, though, and
    continued inside. Between where the first and where the second sphere fits the error grows towards the edge; in the
    outermost layer the local field would come out as zero, and that is left out of the mask.

    The iteration of the paper stops early instead, which keeps some of the field's long waves as background.

    References
    ----------
    Wen Y, Zhou D, Liu T, Spincemaille P, Wang Y. Magn Reson Med 2014;72:1065-1071. doi:10.1002/mrm.24998.
    """
    check_not_negative(radius=radius)
    check_stop(max_iter=max_iter, tol=tol)
    small = least_radius(grid.voxel_size, radius_min, "radius_min")
    large = max(radius, small)
    window = Window.around(mask, grid, large, total_field=total_field)
    check_numbers(mask, total_field=total_field)
    first = spheres(window, large, total_field)
    second = spheres(window, small, total_field)
    rim = window.mask & ~second.fits
    beyond = second.fits & ~first.fits
    band = first.fits & reached(window, beyond, small)

    def remove(field: Tensor) -> Tensor:
        deep, solution = continued(field, window.mask & ~first.fits, first.share, max_iter=max_iter, tol=tol, callback=callback)
        solution.warn("ismv")
        if beyond.any():
            held = torch.where(first.fits, deep, field)
            shallow, solution = continued(held, rim | band, second.share, max_iter=max_iter, tol=tol, callback=callback)
            solution.warn("ismv")
            deep = torch.where(beyond, shallow, deep)
        return (field - deep).mul_(second.fits)

    return LocalField(window.put(each(remove, window.take(within(total_field, mask)))), window.put(second.fits))
