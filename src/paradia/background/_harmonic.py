"""Harmonic functions from their values at the edge."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.fft import irfftn, rfftn
from paradia.solvers._solution import Solution
from paradia.solvers.cg import cg
from paradia.types import Callback


def continued(
    field: Tensor, known: Tensor, stiffness: Tensor, *, max_iter: int, tol: float, callback: Callback | None = None
) -> tuple[Tensor, Solution]:
    r"""Continue a field harmonically from the voxels where it is known.

    Harmonic is what a convolution :math:`A` maps to zero, its spectrum zero at zero frequency and positive elsewhere: minus
    a Laplacian, or one minus the mean over a sphere. The continuation :math:`b` is the one function with :math:`b = f` at
    the known voxels :math:`K` and :math:`Ab = 0` at all others of the window. So :math:`b = A^{+} K^T s + c` with sources
    at the known voxels alone, of sum zero, and

    .. math:: K A^{+} K^T s + c = K f

    is a system over the known voxels only. Each iteration of conjugate gradients takes one pair of transforms, and few are
    needed: the condition of such a layer of charges grows no faster than the voxels across, where that of the equation
    for the volume inside grows like their square.

    Parameters
    ----------
    field
        Field in a periodic window whose margin keeps its ends apart.
    known
        Voxels where it is known.
    stiffness
        Half spectrum of :math:`A`, in the field's precision.
    max_iter, tol, callback
        As for conjugate gradients; the residual is that of the known values, relative to their deviation from their mean.

    Returns
    -------
    Tensor
        The continuation, everywhere.
    Solution
        The sources, and how they were reached.
    """
    places = known.flatten().nonzero()[:, 0]
    softness = torch.where(stiffness > 0, 1 / stiffness, 0.0)
    softness[0, 0, 0] = 0.0
    nothing = torch.zeros_like(field).flatten()

    def potential(sources: Tensor) -> Tensor:
        layer = nothing.index_put((places,), sources).view(field.shape)
        return irfftn(rfftn(layer).mul_(softness), field.shape)

    def system(sources: Tensor) -> Tensor:
        values = potential(sources).view(-1)[places]
        return values.sub_(values.mean())

    values = field.reshape(-1)[places]
    solution = cg(system, values - values.mean(), max_iter=max_iter, tol=tol, callback=callback)
    smooth = potential(solution.x)
    return smooth.add_((values - smooth.view(-1)[places]).mean()), solution
