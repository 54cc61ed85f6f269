"""Total variation."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.fft import Window, each, irfftn, rfftn
from paradia.grid import Grid
from paradia.inversion._variation import MARGIN, Variation
from paradia.operators.dipole import Dipole
from paradia.operators.laplacian import Laplacian
from paradia.operators.weighting import Weighting
from paradia.solvers.admm import admm
from paradia.types import Callback, Image, Mask, Volume

CITE = "10.1002/mrm.25029"


def tv(
    local_field: Image,
    mask: Mask,
    grid: Grid,
    noise: Volume | None = None,
    *,
    weight: float = 1.5e-4,
    rho: float = 0.05,
    coupling: float = 0.3,
    max_iter: int = 50,
    tol: float = 0.01,
    callback: Callback | None = None,
) -> Image:
    r"""Find the χ of least total variation that explains the field within its noise, by ADMM.

    Minimises :math:`\frac12\|W(D\chi - f)\|^2 + w\|\nabla\chi\|_1`.

    The data count inside the mask only, by their noise, so that what the field would be outside, which nobody
    measured, does not pull on χ. Both :math:`\nabla\chi` and :math:`D\chi` are split off; an iteration takes two pairs of
    transforms.

    Parameters
    ----------
    local_field
        Field of the sources inside the mask, ppm.
    mask
        Voxels where it holds.
    grid
        Voxel size and direction of B0.
    noise
        Standard deviation of the field, any unit. :math:`W` is one over it, scaled to a mean of one in the mask, so
        that one weight serves for any noise map and for none.
    weight
        :math:`w`, ppm·mm. Higher is smoother; noise of a few ppb asks for about 1e-4.
    rho
        Penalty, mm², that couples :math:`\nabla\chi` to its split; changes how fast it converges, not where to.
    coupling
        Penalty that couples :math:`D\chi` to its split; likewise.
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
    GeometryError
        Shapes that do not fit the grid.
    MaskError
        The mask is empty.

    References
    ----------
    Bilgic B, Fan AP, Polimeni JR, et al. Magn Reson Med 2014;72:1444-1459. doi:10.1002/mrm.25029.
    Milovic C, Bilgic B, Zhao B, Acosta-Cabronero J, Tejos C. Magn Reson Med 2018;80:814-821. doi:10.1002/mrm.27073.
    """
    window = Window.around(mask, grid, MARGIN, local_field=local_field, noise=noise)
    weights = Weighting(window.mask, None if noise is None else window.take(noise)).to(local_field).weights.square_()
    dipole = Dipole(window.grid).to(local_field).kernel
    stencil = -Laplacian(window.grid).to(local_field).kernel
    inverse = coupling * dipole.square() + rho * stencil
    inverse[0, 0, 0] = torch.inf  # neither the field nor its slopes know the mean of χ
    inverse.reciprocal_()

    def invert(field: Tensor) -> Tensor:
        variation = Variation(window.grid, weight / rho, field)
        weighted, total = weights * field, weights + coupling
        dual = torch.zeros_like(field)

        def smoothness(chi: Tensor) -> Tensor:
            return rfftn(variation.step(irfftn(chi, field.shape))).addcmul_(stencil, chi).mul_(rho)

        def data(chi: Tensor) -> Tensor:
            dual.add_(irfftn(dipole * chi, field.shape))
            split = torch.addcmul(weighted, dual, dual.new_tensor(coupling)).div_(total)
            dual.sub_(split)
            return rfftn(split.sub_(dual)).mul_(dipole).mul_(coupling)

        start = rfftn(torch.zeros_like(field))
        solution = admm(lambda pull: pull.mul_(inverse), (data, smoothness), start, max_iter=max_iter, tol=tol, callback=callback)
        return irfftn(solution.warn("tv").x, field.shape).mul_(window.mask)

    return window.put(each(invert, window.take(local_field * mask)))
