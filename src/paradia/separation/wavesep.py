"""Sources that are sparse in wavelets."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from paradia.fft import bounding_box, crop, pad
from paradia.grid import Grid
from paradia.scan import Scan, relaxivities
from paradia.separation._inputs import check_images, check_ppm, rates
from paradia.separation._noise import doubt
from paradia.separation._voxel import give, solve
from paradia.separation._wavelet import Wavelets
from paradia.solvers._solution import Solution, unfinished
from paradia.solvers.admm import relative_change
from paradia.solvers.proximal import shrink
from paradia.sources.doubt import grain
from paradia.sources.knobs import check_not_negative, check_positive, check_stop
from paradia.types import Callback, Mask, Sources

CITE = "10.1007/978-3-031-44858-4_6"

LEVELS = 4
"""How often the averages are split."""

MARGIN = 8
"""Voxels between the mask and its periodic copies: a filter's length."""

LEAST = 0.1
"""Least noise, in what R2′ is wrong by without any."""

STEP = 1.0
"""Step of the splitting; tells how fast, not where to."""


def wavesep(
    chi: Float[Tensor, "*orientation x y z"],
    r2prime: Float[Tensor, "*repeat x y z"],
    mask: Mask,
    grid: Grid,
    scan: Scan,
    *,
    dr_pos: float | None = None,
    dr_neg: float | None = None,
    weight: float = 0.5,
    trust: float = 1.0,
    max_iter: int = 40,
    tol: float = 0.004,
    callback: Callback | None = None,
) -> Sources:
    r"""Separate a χ of one or of several orientations by R2′, both sources sparse in wavelets (WaveSep).

    Minimises over :math:`\chi^\pm \ge 0`, zero outside the mask, :math:`\frac12\|\chi^+ - \chi^- - \chi\|^2 +
    \frac t2\|(D_r^+\chi^+ + D_r^-\chi^- - R_2')/\bar D_r\|^2 + w\,\sigma\,(\|\Psi\chi^+\|_1 + \|\Psi\chi^-\|_1)`, with
    :math:`\Psi` the details of orthogonal wavelets with four vanishing moments (db4) on four levels, and :math:`\bar D_r` the mean of
    both relaxivities. :math:`\sigma` is the noise of both maps together, in ppm, as their second differences tell.

    Parameters
    ----------
    chi
        Total susceptibility, ppm, of one orientation or of several, registered, on an axis before x, y, z. Its zero matters, see
        `closed_form`.
    r2prime
        Reversible relaxation rate R2′, 1/s, likewise; need not be of as many orientations. Negative means count as zero.
    mask
        Voxels that count.
    grid
        Where the images live; B0's direction is not used.
    scan
        Tells the field strength.
    dr_pos
        Relaxivity Dr+ of paramagnetic sources, Hz/ppm. Without it 137 Hz/ppm times B0/3 T (Shin et al.; 114 where χ is a COSMOS map).
    dr_neg
        Relaxivity Dr− of diamagnetic sources, likewise.
    weight
        :math:`w`, from about 0.3 (sharp) to 3 (smooth).
    trust
        :math:`t`, how much the relaxation counts beside χ; 0 excluded.
    max_iter
        Most iterations to do.
    tol
        Stop when the sources change by less than this share of themselves.
    callback
        Called as ``callback(iteration, relative_change)``.

    Returns
    -------
    Sources
        χ+ and χ−, ppm, zero outside the mask, without an axis of orientations.

    Raises
    ------
    GeometryError, MaskError, NonFiniteError
        Shapes that do not fit, an empty mask, a number missing inside it.
    InputError
        R2′ in 1/ms or mostly negative, χ not in ppm, no relaxivity known at the field strength, or a knob out of range.

    Notes
    -----
    The mean square over orientations differs from the square of their mean by a constant, so that the mean of the maps is
    separated. The publication takes proximal gradient steps with a fixed threshold of 0.02 ppm and then cuts off the signs; here
    the threshold follows the noise, and a Douglas-Rachford splitting meets signs and sparsity together. Its learned inversions of several
    orientations are not part of this: bring the χ of `cosmos` or of any inversion. These wavelets are not symmetric: the map of a mirrored
    head is not quite the mirrored map.

    References
    ----------
    Fang Z, Shin HG, van Zijl P, Li X, Sulam J. In: Machine Learning in Clinical Neuroimaging, LNCS 14312, 2023.
    doi:10.1007/978-3-031-44858-4_6.
    """
    check_not_negative(weight=weight)
    check_positive(trust=trust)
    check_stop(max_iter=max_iter, tol=tol)
    drs = relaxivities(scan, dr_pos, dr_neg)
    check_images(mask, grid, chi=chi, r2prime=r2prime)
    check_ppm(mask, chi=chi)
    mean = sum(drs) / 2
    several = (chi.flatten(0, -4) if chi.ndim > 3 else chi[None], r2prime.flatten(0, -4) if r2prime.ndim > 3 else r2prime[None])
    x, total = (torch.where(mask, image.mean(0), 0.0) for image in several)
    total = rates("r2prime", total, mask) / mean
    box = bounding_box(mask)
    inner = [side.stop - side.start for side in box]
    block = 1 << LEVELS
    shape = [-(-(n + MARGIN) // block) * block for n in inner]
    inside, x, total = (pad(image[box], shape) for image in (mask, x, total))
    threshold = weight * max(math.hypot(float(grain(x, inside)), float(grain(total, inside))), LEAST * doubt(total, inside))
    p, n = _split(x, total, inside, (drs[0] / mean, drs[1] / mean), trust, threshold, max_iter, tol, callback)
    maps = []
    for source in (p, n):
        volume = source.new_zeros(mask.shape)
        volume[box] = crop(source, inner)
        maps.append(volume)
    return give(maps[0], maps[1], mask)


def _split(
    chi: Tensor,
    total: Tensor,
    mask: Tensor,
    shares: tuple[float, float],
    trust: float,
    threshold: float,
    max_iter: int,
    tol: float,
    callback: Callback | None,
) -> tuple[Tensor, Tensor]:
    """Alternate between the voxels' terms and the wavelets; what comes from the voxels keeps signs and mask exactly."""
    u, v = shares
    a, b, c = 1 + trust * u * u + 1 / STEP, 1 + trust * v * v + 1 / STEP, trust * u * v - 1
    right_p, right_n = chi + trust * u * total, trust * v * total - chi
    wavelets = Wavelets(chi.shape, LEVELS).to(chi)
    both = torch.stack(solve(a - 1 / STEP, b - 1 / STEP, c, right_p, right_n)).mul_(mask)
    state = both
    iteration, relative = 0, math.inf
    while unfinished(relative, tol) and iteration < max_iter:
        iteration += 1
        coefficients = wavelets(2 * both - state)
        shrunk = shrink(coefficients, STEP * threshold)
        wavelets.averages(shrunk, LEVELS).copy_(wavelets.averages(coefficients, LEVELS))
        state = state + wavelets.adjoint(shrunk).sub_(both)
        before, both = both, torch.stack(solve(a, b, c, right_p + state[0] / STEP, right_n + state[1] / STEP)).mul_(mask)
        relative = relative_change(both, before)
        if callback is not None:
            callback(iteration, relative)
    Solution(both, iteration, relative, relative <= tol).warn("wavesep")
    return both[0], both[1]
