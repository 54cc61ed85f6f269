"""A joint fit of the sources inside and outside the mask."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.fft import Window, each
from paradia.grid import Grid
from paradia.operators.dipole import Dipole
from paradia.solvers.lsmr import lsmr
from paradia.types import Callback, Image, LocalField, Mask, Volume

CITE = "10.1002/mrm.26331"


def joint(
    total_field: Image,
    mask: Mask,
    grid: Grid,
    noise: Volume | None = None,
    *,
    inside: float = 0.04,
    outside: float = 2.0,
    model_error: float = 0.003,
    margin: float = 20.0,
    max_iter: int = 250,
    tol: float = 1.5e-4,
    callback: Callback | None = None,
) -> LocalField:
    r"""Fit sources inside and outside together, each as strong as is likely there, and subtract the outer ones' field.

    Projection onto dipole fields lets sources outside explain all they can, and so takes away every part of the local
    field that is nearly harmonic. Here the sources inside compete for it: with :math:`\chi = Py`, :math:`P` the standard
    deviation of susceptibility to expect (tissue inside; air, bone and fat outside) and :math:`\sigma` that of the
    field, the most probable sources minimise

    .. math:: \|\sigma^{-1} M(f - DPy)\|^2 + \|y\|^2,

    and the local field is :math:`M(f - DP\,1_\mathrm{out}\,y)`. Without sources inside it is `pdf`; unlike total-field
    inversion it keeps all of the field that is left and no regularised χ, so any inversion may follow.

    Parameters
    ----------
    total_field
        Total field, ppm.
    mask
        Voxels where it holds.
    grid
        Voxel size and direction of B0.
    noise
        Standard deviation of the field, ppm.
    inside
        Standard deviation of susceptibility inside the mask, ppm.
    outside
        The same outside, ppm.
    model_error
        Standard deviation, ppm, of what the field holds beside noise; added to it in squares.
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
    GeometryError
        Shapes that do not fit the grid.
    MaskError
        The mask is empty.

    Notes
    -----
    The functional is that of preconditioned total-field inversion with a quadratic penalty (Liu 2017), put to another
    use. Only the ratios of the three standard deviations matter.

    References
    ----------
    Liu Z, Kee Y, Zhou D, Wang Y, Spincemaille P. Magn Reson Med 2017;78:303-315. doi:10.1002/mrm.26331.
    """
    window = Window.around(mask, grid, margin, total_field=total_field, noise=noise)
    dipole = Dipole(window.grid).to(total_field)
    spread = torch.where(window.mask, inside, outside).to(total_field)
    deviation = torch.full_like(spread, model_error) if noise is None else window.take(noise).hypot(spread.new_tensor(model_error))
    precision = torch.where(window.mask, 1 / deviation, 0.0)

    def remove(field: Tensor) -> Tensor:
        solution = lsmr(
            lambda y: dipole(spread * y).mul_(precision),
            lambda residual: dipole(precision * residual).mul_(spread),
            precision * field,
            damp=1.0,
            max_iter=max_iter,
            tol=tol,
            callback=callback,
        )
        sources = torch.where(window.mask, 0.0, spread * solution.warn("joint").x)
        return torch.where(window.mask, field - dipole(sources), 0.0)

    return LocalField(window.put(each(remove, window.take(total_field * mask))), mask)
