"""A joint fit of the sources inside and outside the mask."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.fft import Window, each
from paradia.grid import Grid
from paradia.sources.doubt import doubt
from paradia.sources.fit import MODEL_ERROR, RIM, USUAL, WEIGHT
from paradia.sources.inside import check_numbers, levelled
from paradia.sources.knobs import check_not_negative, check_positive
from paradia.sources.split import MARGIN, Effort, Split, structured
from paradia.types import Callback, Image, LocalField, Mask, Volume

CITE = "10.1002/mrm.26331"


def joint(
    total_field: Image,
    mask: Mask,
    grid: Grid,
    noise: Volume | None = None,
    *,
    weight: float = WEIGHT,
    rim: float = RIM,
    model_error: float = MODEL_ERROR,
    residual: bool = False,
    start: int = USUAL.start,
    rounds: int = USUAL.rounds,
    max_iter: int = USUAL.max_iter,
    callback: Callback | None = None,
) -> LocalField:
    r"""Fit sources inside and outside together, those inside with few edges, and keep the field of the inner ones.

    Projection onto dipole fields lets sources outside explain all they can, and so takes away every part of the local
    field that is nearly harmonic. Here the sources inside compete for it, and what tissue looks like decides. The
    susceptibility :math:`\chi` of the whole neighbourhood minimises

    .. math:: \tfrac12\|\sigma^{-1} M(f - D\chi)\|^2 + \tfrac{w d}{\bar\sigma}\sum_{i,r\in M} p_i(r)\,|\nabla_i\chi(r)|
              + \tfrac12\|\chi/s\|^2_\mathrm{rim}

    and the local field is :math:`M D M\chi`, in every voxel of the mask and free of most noise. Each round renews the
    prices :math:`p` from the χ of the round before: what is likely an edge costs less. :math:`d` is the voxel's mean
    edge. The sources outside are free once a quadratic fit has found where to start.

    Parameters
    ----------
    total_field
        Total field, ppm.
    mask
        Voxels where it holds.
    grid
        Voxel size and direction of B0.
    noise
        Standard deviation of the field, ppm; judged from the field's own roughness without it. :math:`\sigma` is it, the
        model error and 1 ppb, added in squares.
    weight
        :math:`w`, without unit: one value serves for any noise and resolution. Higher is smoother.
    rim
        :math:`s`, standard deviation of susceptibility within 4 mm of the mask's edge, ppm. Only there is χ itself
        penalised, as its field can hardly be told from that of sources just outside.
    model_error
        Share of the field's largest second difference near a voxel that counts as error: sources closer than the grid
        can tell make a field that no sources on the grid can.
    residual
        Whether what neither side explains, noise for the most part, stays in the local field.
    start
        Most iterations of the quadratic fit.
    rounds
        How often the prices are set, the first time all alike.
    max_iter
        Iterations in each round. None is left out, so that the result hangs on no threshold.
    callback
        Called as ``callback(iteration, relative_change)``.

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
        The field or its noise is NaN or Inf in the mask.

    Notes
    -----
    The functional is that of total-field inversion (Liu 2017) with a structure prior learnt on the way, put to another
    use: of the fit the field is kept, and any inversion may follow. A field that is harmonic in the mask can be due to
    either side; what the data leave open, fewest edges decide. The single step `joint` gives the χ of the same fit.

    References
    ----------
    Liu Z, Kee Y, Zhou D, Wang Y, Spincemaille P. Magn Reson Med 2017;78:303-315. doi:10.1002/mrm.26331.
    Candès EJ, Wakin MB, Boyd SP. J Fourier Anal Appl 2008;14:877-905. doi:10.1007/s00041-008-9045-x.
    """
    check_positive(weight=weight)
    check_not_negative(model_error=model_error)
    effort = Effort(start, rounds, max_iter)
    window = Window.around(mask, grid, MARGIN, total_field=total_field, noise=noise)
    check_numbers(mask, total_field=total_field, noise=noise)
    known = None if noise is None else window.take(noise).to(total_field)

    def remove(field: Tensor) -> Tensor:
        split = Split(window, doubt(field, window.mask, known, model_error), rim)
        sources = structured(split, window, field, weight, effort, callback).x
        if residual:
            return torch.where(window.mask, field - split.dipole(torch.where(window.mask, 0.0, sources)), 0.0)
        return torch.where(window.mask, split.dipole(torch.where(window.mask, sources, 0.0)), 0.0)

    return LocalField(window.put(each(remove, window.take(levelled(total_field, mask)))), mask)
