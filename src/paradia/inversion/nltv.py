"""Total variation that spares the edges it finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from paradia.grid import Grid
from paradia.inversion._splitting import Data, Frame, quadratic, smooth, split
from paradia.sources.knobs import check_positive, check_stop
from paradia.sources.slopes import Variation, add_slope
from paradia.types import Callback, Image, Mask, Volume

CITE = "10.1002/mrm.25029"

COUPLING = 0.2
"""Penalty of the data's splitting; tells how fast, not where to."""

FIRST, EVERY, LAST = 12, 4, 24
"""Iterations at which edges are looked for: the first, how often, and the last, after which the functional stays."""


def nltv(
    local_field: Image,
    mask: Mask,
    grid: Grid,
    noise: Volume | None = None,
    *,
    weight: float = 0.28,
    edge: float = 1.0,
    max_iter: int = 60,
    tol: float = 0.01,
    callback: Callback | None = None,
) -> Image:
    r"""Find a χ of few edges: the variation counts less where χ has turned out to have a slope.

    Minimises :math:`\frac12\|W(D\chi - f)\|^2 + w\,\Delta\sigma^{3/2}F^{-1/2}\|P\nabla\chi\|_1` by ADMM and renews
    :math:`P = \epsilon/(|\nabla\chi| + \epsilon)` while it runs, which comes close to counting edges instead of
    adding up their heights and so takes away the damping of the plain variation. :math:`F` is the standard deviation
    of the field; :math:`\sigma` that of its noise, as the field itself tells where χ cannot show or as the noise map
    says, whichever is larger; :math:`\Delta` the geometric mean of a voxel's edges.
    No slope across the mask's border counts: beyond it nobody knows χ. A constant of the field is
    free: background removals leave one.

    Parameters
    ----------
    local_field
        Field of the sources inside the mask, ppm.
    mask
        Voxels where it holds; the field counts in them only.
    grid
        Voxel size and direction of B0.
    noise
        Standard deviation of the field, ppm. :math:`W` is one over it, scaled to a mean of one in the mask.
    weight
        :math:`w`, a plain number from about 0.1 (sharp) to 1 (smooth); it holds for any strength and noise of the field and
        any voxel.
    edge
        Half of the price is gone at a slope :math:`\epsilon` of this many standard deviations of the field a voxel. Much
        higher is plain total variation.
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
    Bilgic B, Fan AP, Polimeni JR, et al. Magn Reson Med 2014;72:1444-1459. doi:10.1002/mrm.25029.
    Candès EJ, Wakin MB, Boyd SP. J Fourier Anal Appl 2008;14:877-905. doi:10.1007/s00041-008-9045-x.
    """
    check_positive(weight=weight, edge=edge)
    check_stop(max_iter=max_iter, tol=tol)
    frame = Frame.around(local_field, mask, grid, noise)

    def invert(field: Tensor) -> Tensor:
        scale = frame.scale(field)
        slope = scale.slope
        rho = weight * scale.penalty / slope
        variation = frame.variation(field, slope)
        data = Data(frame, field, quadratic(frame.weights.square(), COUPLING), COUPLING)
        term = smooth(frame, variation.step, rho, _renewal(variation, frame.priced, slope, edge * scale.field / scale.voxel))
        solution = split(frame, data, term, rho, frame.zero(field), max_iter=max_iter, tol=tol, callback=callback)
        return solution.warn("nltv").x

    return frame.invert(invert, local_field)


def _renewal(variation: Variation, priced: Sequence[Tensor], limit: float, edge: float) -> Callable[[Tensor], None]:
    """Return what renews the limits of a variation from the χ it is shown."""
    seen = 0

    def look(x: Tensor) -> None:
        nonlocal seen
        seen += 1
        if seen < FIRST or seen > LAST or (seen - FIRST) % EVERY:
            return
        lengths = _lengths(x.detach(), priced, variation.voxel_size)
        variation.limits = [costs * ((limit * edge) / length.add_(edge)) for costs, length in zip(priced, lengths, strict=True)]

    return look


def _lengths(x: Tensor, priced: Sequence[Tensor], voxel_size: Sequence[float]) -> list[Tensor]:
    """Return the length of the gradient midway between each voxel and the next along each axis, told by the slopes that cost.

    Across that axis all slopes that touch either voxel count: those ahead of the first alone would lean to one side.
    """
    along, around = [], []
    for axis, (costs, size) in enumerate(zip(priced, voxel_size, strict=True)):
        square = torch.zeros_like(x)
        add_slope(square, x, axis, 1 / size)
        square.square_().mul_(costs)
        count = costs.to(x)
        along.append(square)
        around.append((square + square.roll(1, axis)).div_((count + count.roll(1, axis)).clamp_min_(1)))
    lengths = []
    for axis, square in enumerate(along):
        one, two = (mean for other, mean in enumerate(around) if other != axis)
        across = one + two
        lengths.append((square + 0.5 * (across + across.roll(-1, axis))).sqrt_())
    return lengths
