"""Regularised spherical mean value filtering."""

from __future__ import annotations

from torch import Tensor

from paradia.background._smallest import smallest
from paradia.background._spheres import least_radius, spheres
from paradia.fft import Window, each
from paradia.grid import Grid
from paradia.sources.inside import check_numbers, within
from paradia.types import Callback, Image, LocalField, Mask

CITE = "10.1002/mrm.24765"


def resharp(
    total_field: Image,
    mask: Mask,
    grid: Grid,
    *,
    radius: float = 5.0,
    weight: float = 0.3,
    max_iter: int = 150,
    tol: float = 3e-3,
    callback: Callback | None = None,
) -> LocalField:
    r"""Find the smallest local field whose difference from its mean over a sphere is that of the total field.

    Minimises

    .. math:: \|M_r(1 - S_r)(f - x)\|^2 + w\,g_r^2\,\|x\|^2,

    :math:`M_r` the voxels around which the sphere fits into the mask and :math:`g_r` the gain of :math:`1 - S_r` at a
    wavelength of 100 mm, :math:`\frac1{10}(2\pi r / 100\,\mathrm{mm})^2`.

    Parameters
    ----------
    total_field
        Total field, ppm.
    mask
        Voxels where it holds.
    grid
        Voxel size.
    radius
        Radius of the sphere, mm, and at least one and a half voxels; the mask loses as much.
    weight
        :math:`w`: with 1 half of a wave of 100 mm is given up, and with w half of one of :math:`100\,w^{-1/4}` mm. A pure
        number that means the same for all radii, voxels, field strengths and scales of the field; 0.01 to 10.
    max_iter
        Most iterations to do.
    tol
        Stop when the residual has fallen to this share.
    callback
        Called as ``callback(iteration, relative_residual)``.

    Returns
    -------
    LocalField
        Local field, ppm, and the mask where the sphere fits.

    Raises
    ------
    InputError
        A knob out of range.
    GeometryError
        Shapes that do not fit the grid.
    MaskError
        The mask is empty, or nowhere deep enough for the sphere.
    NonFiniteError
        The field is NaN or Inf in the mask.

    Notes
    -----
    Of all local fields that fit, the smallest over the whole mask is taken: parts that are harmonic inside are lost, most
    of them near the edge. Closer to the edge than the radius the field is tied to the total field from one side only, which
    is why that rim is left out of the mask.

    References
    ----------
    Sun H, Wilman AH. Magn Reson Med 2014;71:1151-1157. doi:10.1002/mrm.24765.
    """
    radius = least_radius(grid.voxel_size, radius)
    window = Window.around(mask, grid, radius, total_field=total_field)
    check_numbers(mask, total_field=total_field)
    found = spheres(window, radius, total_field)

    def remove(field: Tensor) -> Tensor:
        local, solution = smallest(field, found, radius, weight=weight, max_iter=max_iter, tol=tol, callback=callback)
        solution.warn("resharp")
        return local

    return LocalField(window.put(each(remove, window.take(within(total_field, mask)))), window.put(found.fits))
