"""Projection onto dipole fields."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.fft import Window, each
from paradia.grid import Grid
from paradia.operators.dipole import Dipole
from paradia.operators.weighting import Weighting, known_noise
from paradia.solvers.lsmr import lsmr
from paradia.sources.inside import check_numbers, levelled
from paradia.sources.knobs import check_not_negative, check_stop
from paradia.types import Callback, Image, LocalField, Mask, Volume

CITE = "10.1002/nbm.1670"


def pdf(
    total_field: Image,
    mask: Mask,
    grid: Grid,
    noise: Volume | None = None,
    *,
    model_error: float = 0.01,
    margin: float = 20.0,
    max_iter: int = 150,
    tol: float = 1e-4,
    callback: Callback | None = None,
) -> LocalField:
    r"""Subtract what sources outside the mask can explain.

    Minimises :math:`\|W(f - D\chi_\mathrm{out})\|^2`.

    Parameters
    ----------
    total_field
        Total field, ppm.
    mask
        Voxels where it holds.
    grid
        Voxel size and direction of B0.
    noise
        Standard deviation of the field, ppm; :math:`W` is one over it and the model error, added in squares. Where it is zero or not
        finite it is unknown, and the field there does not count.
    model_error
        Standard deviation, ppm, of what the sources outside do not explain: above all the local field itself. Unless
        noise exceeds it, weighting by noise alone lets the background leak into the noisiest voxels.
    margin
        How far beyond the mask's box sources may lie, mm. What is further away is matched by sources within it.
    max_iter
        Most iterations to do.
    tol
        Stop when the gradient has fallen to this share.
    callback
        Called as ``callback(iteration, relative_gradient)``.

    Returns
    -------
    LocalField
        Local field, ppm, and the mask given.

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
    The part of the local field that sources outside could also make is lost, most of it near the edge of the mask;
    `joint` keeps more of it.

    References
    ----------
    Liu T, Khalidov I, de Rochefort L, et al. NMR Biomed 2011;24:1129-1136. doi:10.1002/nbm.1670.
    """
    check_not_negative(model_error=model_error, margin=margin)
    check_stop(max_iter=max_iter, tol=tol)
    window = Window.around(mask, grid, margin, total_field=total_field, noise=noise)
    check_numbers(mask, total_field=total_field)
    dipole = Dipole(window.grid).to(total_field)
    known = None if noise is None else torch.where(known_noise(noise, mask), noise, torch.inf).to(total_field)
    deviation = None if known is None else window.take(known).hypot(known.new_tensor(model_error))
    weights = Weighting(window.mask, deviation).to(total_field).weights
    outside = (~window.mask).to(total_field)

    def remove(field: Tensor) -> Tensor:
        solution = lsmr(
            lambda chi: dipole(chi).mul_(weights),
            lambda residual: dipole(weights * residual).mul_(outside),
            weights * field,
            max_iter=max_iter,
            tol=tol,
            callback=callback,
        )
        return torch.where(window.mask, field - dipole(solution.warn("pdf").x), 0.0)

    return LocalField(window.put(each(remove, window.take(levelled(total_field, mask)))), mask)
