"""Total generalised variation, from the total field in one step."""

from __future__ import annotations

from paradia.fft import Window
from paradia.grid import Grid
from paradia.singlestep._invert import invert
from paradia.sources.inside import check_numbers
from paradia.sources.knobs import check_not_negative, check_positive, check_stop
from paradia.sources.slopes import GeneralisedVariation, edges
from paradia.sources.split import MARGIN
from paradia.types import Callback, Image, Mask, Volume

CITE = "10.1016/j.neuroimage.2015.02.041"

RATIO = 4.0
"""Penalty of the splitting of the second derivative over that of the first, mm²: how fast it converges, not where to."""


def tgv(
    total_field: Image,
    mask: Mask,
    grid: Grid,
    noise: Volume | None = None,
    *,
    weight: float = 30.0,
    curvature: float = 3.0,
    outside: float = 2.0,
    rim: float = 0.03,
    model_error: float = 0.02,
    start: int = 120,
    max_iter: int = 100,
    tol: float = 4e-3,
    callback: Callback | None = None,
) -> Image:
    r"""Find the χ of least total generalised variation whose field is the total one but for noise and a harmonic function.

    Minimises

    .. math:: \tfrac12\|\sigma^{-1}(D\chi + h - f)\|^2 + w\|\nabla\chi - v\|_1 + cw\|\mathcal{E}v\|_1 + \tfrac12\|\chi/s\|^2_\mathrm{rim}

    over χ, slopes :math:`v` and every :math:`h` with :math:`\nabla^2 h = 0` inside the mask. Where χ rises evenly the slopes take it up
    at no cost, so that ramps do not turn into the stairs of total variation.

    Parameters
    ----------
    total_field
        Total field, ppm.
    mask
        Voxels where it holds.
    grid
        Voxel size and direction of B0.
    noise
        Standard deviation of the field, ppm; judged from the field's roughness without it. :math:`\sigma` is it and the model error,
        added in squares; as the data count by it, one weight serves for any noise.
    weight
        :math:`w`, mm/ppm: one over the slope of χ to expect. Higher is smoother; from 10 to 100.
    curvature
        :math:`c`, mm: how much a bend of χ costs over a step. Small values make any smooth χ cheap; large ones approach `tfi`.
    outside
        Standard deviation of susceptibility outside the mask for the start, ppm; that of tissue is 0.04. Only their ratio matters.
    rim
        :math:`s`, the standard deviation of susceptibility within 4 mm of the mask's edge, ppm. Only there is χ itself penalised, as its
        field can hardly be told from that of sources just outside. Infinite for no such penalty.
    model_error
        Share of the field's largest second difference near a voxel that no sources on the grid can make.
    start
        Most iterations to find the start.
    max_iter
        Most iterations with the penalty.
    tol
        Stop when χ inside the mask changes by less than this share of itself.
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
        The field or its noise is NaN or Inf in the mask.

    Notes
    -----
    Langkammer constrains the Laplacian of a discrepancy of least norm, :math:`\nabla^2\psi = \nabla^2(D\chi - f)`, which is to let
    :math:`\psi = D\chi + h - f` with any harmonic :math:`h`: the same functional but for the rim. Stencils pass a correction on by one
    voxel an iteration; here :math:`h` is the field of free sources outside the mask, and all frequencies move at once, so that tens of
    iterations do in place of a thousand. Slopes count by the sum over axes, and what is given is a field, not a wrapped phase.

    References
    ----------
    Langkammer C, Bredies K, Poser BA, et al. NeuroImage 2015;111:622-630. doi:10.1016/j.neuroimage.2015.02.041.
    Bredies K, Kunisch K, Pock T. SIAM J Imaging Sci 2010;3:492-526. doi:10.1137/090769521.
    """
    check_positive(weight=weight, curvature=curvature, outside=outside)
    check_not_negative(model_error=model_error, start=start)
    check_stop(max_iter=max_iter, tol=tol)
    window = Window.around(mask, grid, MARGIN, total_field=total_field, noise=noise)
    check_numbers(mask, total_field=total_field, noise=noise)
    inside = [edge.to(total_field) for edge in edges(window.mask)]
    return invert(
        "tgv",
        lambda unit: GeneralisedVariation(
            window.grid,
            [edge * (weight * unit) for edge in inside],
            window.mask * (curvature * weight * unit / RATIO),
            RATIO,
        ),
        window,
        total_field,
        mask,
        noise,
        model_error=model_error,
        outside=outside,
        rim=rim,
        start=start,
        max_iter=max_iter,
        tol=tol,
        callback=callback,
    )
