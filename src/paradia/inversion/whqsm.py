"""Nonlinear inversion that lets a remnant of the background go."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from paradia.fft import irfftn, rfftn, times
from paradia.grid import Grid
from paradia.inversion._splitting import Frame, change, phase_quadratic, smooth
from paradia.scan import Scan
from paradia.solvers.admm import admm
from paradia.sources.knobs import check_positive, check_stop
from paradia.sources.slopes import Variation
from paradia.types import Callback, Image, Mask, Volume

CITE = "10.1002/mrm.27483"

COUPLING = 0.2
"""Penalty of the data's splitting; tells how fast, not where to."""

CURVING = 0.02
"""Penalty of the splitting of the harmonic field's Laplacian, as a share of its weight; likewise."""


def whqsm(
    local_field: Image,
    mask: Mask,
    grid: Grid,
    noise: Volume | None = None,
    scan: Scan | None = None,
    *,
    weight: float = 0.11,
    harmony: float = 300.0,
    max_iter: int = 60,
    tol: float = 0.01,
    callback: Callback | None = None,
) -> Image:
    r"""Explain the field by a smooth χ and by what a background removal left, which is nearly harmonic.

    Minimises :math:`\frac{1}{2s^2}\|W(e^{is(D\chi + h)} - e^{isf})\|^2 + w\,\Delta\sigma^{3/2}F^{-1/2}\|\nabla\chi\|_1
    + \frac{\beta}{2}\|\Delta^2 M\nabla^2 h\|^2` over χ and :math:`h` by ADMM; :math:`M` is the mask. :math:`F` is the
    standard deviation of the field; :math:`\sigma` that of its noise, as the field itself tells where χ cannot show
    or as the noise map says, whichever is larger; :math:`\Delta` the geometric mean of a voxel's edges. A constant of the field is free.

    Parameters
    ----------
    local_field
        Field of the sources inside the mask and remnants of others, ppm.
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
        :math:`w`, a plain number from about 0.05 (sharp) to 0.5 (smooth); it holds for any strength and noise of the field and
        any voxel.
    harmony
        :math:`\beta`, how harmonic :math:`h` has to be. Lower lets it take more of the slowly varying field away from χ.
    max_iter
        Most iterations to do.
    tol
        Stop when χ and :math:`h` change by less than this share of themselves.
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
    Milovic C, Bilgic B, Zhao B, Langkammer C, Tejos C, Acosta-Cabronero J. Magn Reson Med 2019;81:1399-1411. doi:10.1002/mrm.27483.
    """
    check_positive(weight=weight, harmony=harmony)
    check_stop(max_iter=max_iter, tol=tol)
    frame = Frame.around(local_field, mask, grid, noise, scan)
    beta = harmony * grid.voxel_volume ** (4 / 3)

    def invert(field: Tensor) -> Tensor:
        scale = frame.scale(field)
        slope = scale.slope
        rho, curving = weight * scale.penalty / slope, CURVING * beta
        # priced across the mask's border too, or the harmonic field and a free rim could stand for each other
        smoothness = smooth(frame, Variation(frame.window.grid, [field.new_tensor(slope)] * 3).step, rho)
        harmonic = _harmonic(frame, field, beta, curving)

        def separate(both: Tensor) -> Tensor:
            return torch.stack([smoothness(both[0]), harmonic(both[1])])

        start = torch.stack([frame.zero(field)] * 2)
        terms = _data(frame, field, phase_quadratic(frame.weights.square(), COUPLING, scale.phase)), separate
        return (
            admm(_solve(frame, rho, curving), terms, start, max_iter=max_iter, tol=tol, callback=callback, change=change).warn("whqsm").x[0]
        )

    return frame.invert(invert, local_field)


def _data(frame: Frame, field: Tensor, force: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the term of the data, which χ and h explain together."""
    dual, constant = torch.zeros_like(field), field[frame.weights > 0].median()

    def term(both: Tensor) -> Tensor:
        nonlocal dual, constant
        seen = field - constant
        target = irfftn(torch.addcmul(both[1], frame.dipole, both[0]), field.shape).sub_(seen).add_(dual)
        dual = force(target)
        constant = constant - frame.lean(dual)
        pull = rfftn(target.sub_(dual, alpha=2).add_(seen)).mul_(COUPLING)
        return torch.stack([times(pull, frame.dipole), pull])

    return term


def _harmonic(frame: Frame, field: Tensor, beta: float, curving: float) -> Callable[[Tensor], Tensor]:
    """Return the term that keeps h harmonic in the mask."""
    dual = torch.zeros_like(field)
    share = frame.window.mask * (beta / (beta + curving))

    def term(h: Tensor) -> Tensor:
        nonlocal dual
        target = irfftn(times(h, frame.stencil), field.shape).add_(dual)
        dual = target * share
        return rfftn(target.sub_(dual, alpha=2)).mul_(frame.stencil).mul_(curving)

    return term


def _solve(frame: Frame, rho: float, curving: float) -> Callable[[Tensor], Tensor]:
    """Return the solution of the two unknowns' equations at every frequency."""
    own, other = COUPLING * frame.dipole.square() + rho * frame.stencil, COUPLING + curving * frame.stencil.square()
    inverse = own * other - (COUPLING * frame.dipole).square_()
    inverse[0, 0, 0] = torch.inf  # neither the field nor its slopes know the mean of χ, and h may have any
    inverse.reciprocal_()
    own, other, cross = own * inverse, other * inverse, inverse * frame.dipole * COUPLING
    own[0, 0, 0] = 1 / COUPLING

    def solve(pull: Tensor) -> Tensor:
        chi, h = times(pull[0], other), times(pull[1], own)
        return torch.stack([chi.addcmul_(cross, pull[1], value=-1), h.addcmul_(cross, pull[0], value=-1)])

    return solve
