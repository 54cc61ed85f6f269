"""Both sources at once, held near a given χ, and streaks taken from their difference."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from paradia.errors import InputError
from paradia.fft import Window
from paradia.grid import Grid
from paradia.operators.dipole import Dipole
from paradia.operators.gradient import Gradient
from paradia.operators.laplacian import Laplacian
from paradia.operators.smv import SMV
from paradia.scan import Scan, relaxivities
from paradia.separation._inputs import check_images, check_ppm, rates
from paradia.separation._joint import Couplings, Frame, Voxels, joint
from paradia.separation._voxel import give, split
from paradia.sources.knobs import check_not_negative, check_stop
from paradia.sources.streaks import ROUGH, flat_slopes, flatness, streaks
from paradia.types import Callback, Mask, Sources, Volume

CITE = "10.1016/j.neuroimage.2021.118371"

COUPLINGS = Couplings(0.2, 0.05)
"""Penalties of the splittings; they tell how fast, not where to."""

RADIUS = 1.5
"""Of the mean that takes the noise out of R2′ before its slopes are read, in voxels' mean edges."""

STREAK_ITER = 30
"""Most iterations in the search for streaks."""


def chisep_ilsqr(
    local_field: Volume,
    chi: Volume,
    r2prime: Volume,
    mask: Mask,
    grid: Grid,
    scan: Scan,
    noise: Volume | None = None,
    r2prime_noise: Volume | None = None,
    *,
    dr_pos: float | None = None,
    dr_neg: float | None = None,
    tie: float = 0.03,
    cone: float = 0.1,
    max_iter: int = 60,
    tol: float = 0.004,
    callback: Callback | None = None,
) -> Sources:
    r"""Find two sources that explain the field and R2′ and differ by about a given χ, then take streaks away (χ-sep-iLSQR).

    First minimises over :math:`\chi^\pm \ge 0`, zero outside the mask, :math:`\frac12\|W(D(\chi^+ - \chi^-) - f)\|^2 +
    \frac{\sigma^2}{2\tau^2}\|(D_r^+\chi^+ + D_r^-\chi^- - R_2')/\bar D_r\|^2 + \frac{\kappa}{2}\|\chi^+ - \chi^- - \chi\|^2`
    by ADMM; :math:`W` falls with the second derivative of the field. An even shift of χ makes a field that background removal cannot keep;
    it is left free, and the mean of χ+ − χ− is that of the given χ.
    What the field cannot show then comes from χ, and its streaks with it. They are looked for among the frequencies where
    :math:`|D|` is below the cone's limit: those whose slopes explain most of the slopes of χ+ − χ− where both R2′, which has no streaks,
    and χ are flat. They are taken from the difference; the sum, which R2′ tells, stays.

    Parameters
    ----------
    local_field
        Field of the sources inside the mask, ppm.
    chi
        Total susceptibility that the same field was inverted to, ppm; the result is as good as this map. Its zero matters, see
        `closed_form`.
    r2prime
        Reversible relaxation rate R2′, 1/s. Negative values count as zero.
    mask
        Voxels where all hold.
    grid
        Voxel size and direction of B0.
    scan
        Tells the field strength.
    noise
        Standard deviation of the field, ppm; :math:`W` is multiplied by one over it.
    r2prime_noise
        Standard deviation of R2′, 1/s; without it, what second differences tell. Where it is zero it is unknown.
    dr_pos
        Relaxivity Dr+ of paramagnetic sources, Hz/ppm. Without it 137 Hz/ppm times B0/3 T (Shin et al.; 114 where χ is a COSMOS map).
    dr_neg
        Relaxivity Dr− of diamagnetic sources, likewise.
    tie
        :math:`\kappa`, how firmly χ holds beside the field, which counts one; with 0 the given χ tells no more than its mean and where
        tissue is flat.
    cone
        Largest :math:`|D|` at which streaks are looked for, up to 2/3; 0 looks for none.
    max_iter
        Most iterations to do.
    tol
        Stop when the sources change by less than this share of themselves.
    callback
        Called as ``callback(iteration, relative_change)``.

    Returns
    -------
    Sources
        χ+ and χ−, ppm, zero outside the mask.

    Raises
    ------
    GeometryError, MaskError, NonFiniteError
        Shapes that do not fit, an empty mask, a number missing inside it.
    InputError
        R2′ in 1/ms or mostly negative, χ or field not in ppm, no relaxivity known at the field strength, or a knob out of range.

    Notes
    -----
    The published code is closed. Verified are the data terms, a tie to an iLSQR map, and that streaks are estimated; the tie's
    strength, the free shift, the guides, and that streaks are sought in the difference alone are our own design.
    σ and τ are measured as in `chisep_medi`.

    References
    ----------
    Shin HG, Lee J, Yun YH, et al. NeuroImage 2021;240:118371. doi:10.1016/j.neuroimage.2021.118371.
    Li W, Wang N, Yu F, et al. NeuroImage 2015;108:111-122. doi:10.1016/j.neuroimage.2014.12.043.
    """
    check_not_negative(tie=tie)
    check_stop(max_iter=max_iter, tol=tol)
    if not 0 <= cone <= 2 / 3:
        raise InputError(f"cone must lie in [0, 2/3], got {cone}. 0 looks for no streaks.")
    drs = relaxivities(scan, dr_pos, dr_neg)
    check_images(mask, grid, local_field=local_field, chi=chi, r2prime=r2prime, noise=noise, r2prime_noise=r2prime_noise)
    check_ppm(mask, local_field=local_field, chi=chi)
    frame = Frame.around(local_field, rates("r2prime", r2prime, mask), mask, grid, drs, noise, r2prime_noise)
    window = frame.window
    known = window.take(torch.where(mask, chi - chi[mask].mean(), 0.0))  # its zero is any
    roughness = Laplacian(window.grid).to(known)(frame.field).abs_()
    frame = replace(frame, weights=frame.weights * flatness(roughness, window.mask, ROUGH).square_())
    voxels = Voxels(frame, COUPLINGS.voxel, float(chi[mask].mean()), *([(tie * window.mask, known)] if tie else []))
    (p, n), solution = joint(frame, voxels, COUPLINGS, None, max_iter=max_iter, tol=tol, callback=callback)
    solution.warn("chisep_ilsqr")
    if cone:
        rate = drs[0] * p + drs[1] * n
        p, n = split(p - n - _streaks(p - n, (frame.total, known), cone, window), rate, *drs, 1.0)
    return give(window.put(p), window.put(n), mask)


def _streaks(difference: Tensor, guides: tuple[Tensor, Tensor], cone: float, window: Window) -> Tensor:
    """Find what the frequencies of the cone add to the slopes of what all guides call flat tissue."""
    if not bool(difference.any()):
        return torch.zeros_like(difference)
    gradient = Gradient(window.grid, periodic=True)
    mean = SMV(window.grid, RADIUS * window.grid.voxel_volume ** (1 / 3)).to(difference)
    flat = torch.ones_like(gradient(difference))
    for guide in guides:
        flat *= flat_slopes(gradient(mean(guide)).abs_(), window.mask)
    dark = Dipole(window.grid).to(difference).kernel.abs() < cone
    found = streaks(difference, flat, dark, window, max_iter=STREAK_ITER, tol=0.01).x
    return found - found[window.mask].mean()  # slopes do not tell a level, and streaks have none
