"""Total-field inversion."""

from __future__ import annotations

from paradia.fft import Window
from paradia.grid import Grid
from paradia.singlestep._invert import invert
from paradia.sources.inside import check_numbers
from paradia.sources.knobs import check_not_negative, check_positive, check_stop
from paradia.sources.slopes import Variation, edges
from paradia.sources.split import MARGIN
from paradia.types import Callback, Image, Mask, Volume

CITE = "10.1002/mrm.26331"


def tfi(
    total_field: Image,
    mask: Mask,
    grid: Grid,
    noise: Volume | None = None,
    *,
    weight: float = 30.0,
    outside: float = 2.0,
    rim: float = 0.03,
    model_error: float = 0.02,
    start: int = 80,
    max_iter: int = 80,
    tol: float = 2e-3,
    callback: Callback | None = None,
) -> Image:
    r"""Find all sources of the total field at once: of least total variation inside the mask, of any strength outside it.

    Minimises :math:`\frac12\|\sigma^{-1}(D\chi - f)\|^2 + w\|\nabla\chi\|_{1,M} + \frac12\|\chi/s\|^2_\mathrm{rim}` over the susceptibility
    of the whole neighbourhood, the variation being counted between voxels of the mask only. As the background is fitted together with the
    tissue, neither takes what is the other's.

    The fit begins with the most probable sources if :math:`\chi = Py` and the :math:`y` are independent and alike, :math:`P` being the
    standard deviation of susceptibility to expect on either side: this is the preconditioner, without which the strong sources outside
    would take thousands of iterations. Sources outside are sought on a grid twice as coarse before. The penalty on slopes then starts from
    there.

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
        Most iterations with the penalty on slopes.
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
    Liu penalises sources outside like those inside. Here they are free once the start has been found: a penalty that a strong source
    outside feels, and a smooth one inside hardly does, drives background into the tissue. What of a nearly harmonic field is whose is
    therefore left as the start had it; free sources outside move on but slowly, and the tolerance stops long before. The preconditioner is
    one number a side, so no map of R2* is needed.

    References
    ----------
    Liu Z, Kee Y, Zhou D, Wang Y, Spincemaille P. Magn Reson Med 2017;78:303-315. doi:10.1002/mrm.26331.
    """
    check_positive(weight=weight, outside=outside)
    check_not_negative(model_error=model_error, start=start)
    check_stop(max_iter=max_iter, tol=tol)
    window = Window.around(mask, grid, MARGIN, total_field=total_field, noise=noise)
    check_numbers(mask, total_field=total_field, noise=noise)
    inside = [edge.to(total_field) for edge in edges(window.mask)]
    return invert(
        "tfi",
        lambda unit: Variation(window.grid, [edge * (weight * unit) for edge in inside]),
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
