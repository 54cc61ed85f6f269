"""The Laplacian boundary value method."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from paradia.background._harmonic import continued
from paradia.background._layers import any_of_27
from paradia.background._spheres import peeled
from paradia.errors import MaskError
from paradia.fft import Window, each
from paradia.grid import Grid
from paradia.operators._convolution import frequencies
from paradia.sources.inside import check_numbers, within
from paradia.sources.knobs import check_not_negative, check_stop
from paradia.types import Callback, Image, LocalField, Mask

CITE = "10.1002/nbm.3064"


def lbv(
    total_field: Image,
    mask: Mask,
    grid: Grid,
    *,
    peel: float = 3.0,
    max_iter: int = 200,
    tol: float = 1e-3,
    callback: Callback | None = None,
) -> LocalField:
    r"""Subtract the harmonic field that has the total field's values at the edge.

    .. math:: \nabla^2 b = 0 \text{ inside}, \quad b = f \text{ at the edge},

    with the Laplacian of 27 points, for which every harmonic polynomial up to the fifth degree is harmonic whatever the
    voxel sizes.

    Parameters
    ----------
    total_field
        Total field, ppm.
    mask
        Voxels where it holds.
    grid
        Voxel size.
    peel
        Depth to take off the mask first, mm, so that the edge is not where the field is least certain; 0 to 5.
    max_iter
        Most iterations to do.
    tol
        Stop when the field at the edge is matched to this share of its deviation. Inside, the error is smaller.
    callback
        Called as ``callback(iteration, relative_residual)``.

    Returns
    -------
    LocalField
        Local field, ppm, and the peeled mask less its outermost layer.

    Raises
    ------
    InputError
        A knob out of range.
    GeometryError
        Shapes that do not fit the grid.
    MaskError
        The mask is empty, or nothing is left of it.
    NonFiniteError
        The field is NaN or Inf in the mask.

    Notes
    -----
    The local field is taken to vanish in the outermost layer of the peeled mask. There it would come out as zero, which is
    no measurement: that layer is left out of the mask. What the layer holds of local field and noise is continued into the
    inside and stays there as an error that is largest beside the edge; nothing else is lost, whatever its wavelength.

    The edge, not the inside, carries the unknowns: charges whose potential matches the field there. Conjugate gradients
    then need one pair of transforms an iteration and few iterations.

    References
    ----------
    Zhou D, Liu T, Spincemaille P, Wang Y. NMR Biomed 2014;27:312-319. doi:10.1002/nbm.3064.
    """
    check_not_negative(peel=peel)
    check_stop(max_iter=max_iter, tol=tol)
    window = Window.around(mask, grid, 2 * max(*grid.voxel_size, peel), total_field=total_field)
    check_numbers(mask, total_field=total_field)
    inside = any_of_27(~peeled(window, peel)).logical_not_()
    if not inside.any():
        raise MaskError(f"no voxel deeper than {peel:g} mm in the mask has all its neighbours there. Give a larger mask or a smaller peel.")
    edge = any_of_27(inside) & ~inside
    stiffness = _stiffness(window.grid).to(total_field)

    def remove(field: Tensor) -> Tensor:
        background, solution = continued(field, edge, stiffness, max_iter=max_iter, tol=tol, callback=callback)
        solution.warn("lbv")
        return (field - background).mul_(inside)

    return LocalField(window.put(each(remove, window.take(within(total_field, mask)))), window.put(inside))


def _stiffness(grid: Grid) -> Tensor:
    r"""Return the half spectrum of minus the Laplacian of 27 points, double precision.

    Where :math:`\nabla^2 b = 0`, the error of the seven-point stencil is :math:`\frac1{12}\sum_i h_i^2 \partial_i^4 b =
    -\frac1{12}\sum_{i<j}(h_i^2 + h_j^2)\partial_i^2\partial_j^2 b` up to sixth derivatives, and is taken away.
    """
    second = [(2 - 2 * torch.cos(2 * torch.pi * k * d)) / d**2 for k, d in zip(frequencies(grid), grid.voxel_size, strict=True)]
    total = second[0] + second[1] + second[2]
    for i, j in combinations(range(3), 2):
        total -= (grid.voxel_size[i] ** 2 + grid.voxel_size[j] ** 2) / 12 * second[i] * second[j]
    return total
