"""Rapid two-step inversion."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.fft import each, half_counts, irfftn, rfftn
from paradia.grid import Grid
from paradia.inversion._inputs import MARGIN, check_threshold, framed
from paradia.inversion._splitting import change
from paradia.operators.dipole import Dipole
from paradia.operators.laplacian import Laplacian
from paradia.solvers.admm import admm
from paradia.solvers.lsmr import lsmr
from paradia.sources.inside import within
from paradia.sources.knobs import check_positive, check_stop
from paradia.sources.slopes import Variation
from paradia.types import Callback, Image, Mask

CITE = "10.1016/j.neuroimage.2017.11.018"

FIRST_STEP = 4
"""Iterations of the first step; more of them amplify noise."""


def rts(
    local_field: Image,
    mask: Mask,
    grid: Grid,
    *,
    threshold: float = 0.15,
    trust: float = 1e5,
    rho: float = 100.0,
    max_iter: int = 20,
    tol: float = 0.01,
    callback: Callback | None = None,
) -> Image:
    r"""Divide where the dipole is strong, then fill the rest of the frequencies so that the total variation is least.

    The first step is a few iterations of least squares on :math:`\hat D\hat\chi_1 = \hat f`. The second minimises
    :math:`\|\nabla\chi\|_1 + \frac{\mu}{2}\|1_{|\hat D|>t}(\hat\chi - \hat\chi_1)\|^2` by ADMM.

    Parameters
    ----------
    local_field
        Field of the sources inside the mask, ppm.
    mask
        Voxels where it holds.
    grid
        Voxel size and direction of B0.
    threshold
        :math:`t`, between 0 and 2/3; frequencies with a stronger dipole are taken from the first step.
    trust
        :math:`\mu`, 1/(ppm·mm): how firmly. Lower smooths these frequencies as well.
    rho
        Penalty, mm/ppm, that couples :math:`\nabla\chi` to its split; changes how fast it converges, not where to.
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
    Kames C, Wiggermann V, Rauscher A. NeuroImage 2018;167:276-283. doi:10.1016/j.neuroimage.2017.11.018.
    """
    check_threshold(threshold)
    check_positive(trust=trust, rho=rho)
    check_stop(max_iter=max_iter, tol=tol)
    window = framed(local_field, mask, grid, MARGIN)
    dipole = Dipole(window.grid).to(local_field).kernel
    stencil = -Laplacian(window.grid).to(local_field).kernel
    firm = trust * (dipole.abs() > threshold)
    inverse = firm + rho * stencil
    inverse[0, 0, 0] = torch.inf  # neither the field nor its slopes know the mean of χ
    inverse.reciprocal_()

    evenly = half_counts(window.grid.shape[-1]).sqrt().to(dipole)  # lengths are those of the whole spectrum

    def invert(field: Tensor) -> Tensor:
        first = lsmr(dipole.mul, dipole.mul, rfftn(field) * evenly, max_iter=FIRST_STEP, tol=0.0).x / evenly
        first = rfftn(irfftn(first, field.shape).mul_(window.mask))
        known = firm * first
        variation = Variation(window.grid, [field.new_tensor(1 / rho)] * 3)

        def smoothness(chi: Tensor) -> Tensor:
            return rfftn(variation.step(irfftn(chi, field.shape))).addcmul_(stencil, chi).mul_(rho)

        def step(pull: Tensor) -> Tensor:
            return pull.add_(known).mul_(inverse)

        solution = admm(step, (smoothness,), first, max_iter=max_iter, tol=tol, callback=callback, change=change)
        return irfftn(solution.warn("rts").x, field.shape).mul_(window.mask)

    return window.put(each(invert, window.take(within(local_field, mask))))
