"""Both sources at once, their edges those of the magnitude."""

from __future__ import annotations

import torch

from paradia.errors import InputError
from paradia.grid import Grid
from paradia.scan import Scan, relaxivities
from paradia.separation._inputs import check_images, check_ppm, rates
from paradia.separation._joint import Couplings, Frame, Voxels, joint
from paradia.separation._voxel import give
from paradia.sources.fluid import fluid
from paradia.sources.inside import single
from paradia.sources.knobs import check_not_negative, check_stop
from paradia.sources.slopes import spared
from paradia.types import Callback, Echoes, Mask, Sources, Volume

CITE = "10.1016/j.neuroimage.2021.118371"

COUPLINGS = (0.2, 0.02)
"""Penalties of the splittings of the field and of the sources; they tell how fast, not where to."""

STEP = 0.5
"""Step of a source at which its splitting is scaled, as a share of the field's standard deviation; likewise."""


def chisep_medi(
    local_field: Volume,
    r2prime: Volume,
    mask: Mask,
    grid: Grid,
    scan: Scan,
    noise: Volume | None = None,
    r2prime_noise: Volume | None = None,
    magnitude: Echoes | None = None,
    r2star: Volume | None = None,
    chi: Volume | None = None,
    *,
    dr_pos: float | None = None,
    dr_neg: float | None = None,
    weight: float = 0.1,
    edges: float = 0.1,
    csf: float = 0.1,
    max_iter: int = 60,
    tol: float = 0.004,
    callback: Callback | None = None,
) -> Sources:
    r"""Find the two sources of least total variation that together explain the local field and R2′ (χ-sep-MEDI).

    Minimises over :math:`\chi^\pm \ge 0`, zero outside the mask, :math:`\frac12\|W(D(\chi^+ - \chi^-) - f)\|^2 +
    \frac{\sigma^2}{2\tau^2}\|(D_r^+\chi^+ + D_r^-\chi^- - R_2')/\bar D_r\|^2 + w\,\Delta\sigma^{3/2}F^{-1/2}\,(\|P\nabla\chi^+\|_1 +
    \|P\nabla\chi^-\|_1) + \frac{\lambda}{2}\|M_\mathrm{CSF}(\chi - \bar\chi_\mathrm{CSF})\|^2` by ADMM. :math:`P` is zero at the edges of
    the magnitude and across the border of the mask, one elsewhere; :math:`\bar D_r` is the mean of both relaxivities, which makes
    all of it ppm.
    The field tells χ+ − χ− but for its mean and the cone where the dipole vanishes, R2′ tells χ+ + χ−, and the signs tie both. An even
    shift of χ makes a field that background removal cannot keep; it is left free, and the mean of χ+ − χ− is that of a given χ, or 0.

    The weights measure themselves, so that one default serves at any field strength and noise: :math:`F` is the standard
    deviation of the field; :math:`\sigma` that of its noise, as the field itself tells where χ cannot show or as the noise map says,
    whichever is larger; :math:`\tau` that of R2′ over :math:`\bar D_r`, as its second differences tell, and a tenth of its root mean
    square, added in squares, because no tissue has exactly the relaxivity given; :math:`\Delta` the geometric mean of a voxel's edges.

    Parameters
    ----------
    local_field
        Field of the sources inside the mask, ppm; what it is outside does not matter.
    r2prime
        Reversible relaxation rate R2′, 1/s. Negative values count as zero.
    mask
        Voxels where both hold.
    grid
        Voxel size and direction of B0.
    scan
        Tells the field strength.
    noise
        Standard deviation of the field, ppm. :math:`W` is one over it, scaled to a mean of one in the mask.
    r2prime_noise
        Standard deviation of R2′, 1/s. It takes the place of what second differences tell; where it is zero it is unknown.
    magnitude
        Magnitudes of the echoes, any unit. Without them no edge is spared.
    r2star
        R2*, 1/s; where it is below 5 1/s near the middle of the mask is fluid. Without it nothing is asked of the fluid.
    chi
        Total susceptibility, ppm, of which only the mean over the mask is used, see above. Its zero is to be that of water. Without it
        the mean is 0.
    dr_pos
        Relaxivity Dr+ of paramagnetic sources, Hz/ppm. Without it 137 Hz/ppm times B0/3 T (Shin et al.; 114 where χ is a COSMOS map).
    dr_neg
        Relaxivity Dr− of diamagnetic sources, likewise.
    weight
        :math:`w`, a plain number from about 0.03 (sharp) to 0.3 (smooth).
    edges
        Share of the magnitude's slopes, the steepest, that are edges, between 0 and 1.
    csf
        :math:`\lambda`, how firmly the fluid is even, as a share of the data's firmness.
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
        R2′ in 1/ms or mostly negative, a field not in ppm, no relaxivity known at the field strength, or a knob out of range.

    Notes
    -----
    The functional is that of the paper up to the fluid, which here is even and not zero; its toolbox is closed, and its weights are not
    known. Splittings, weights and their scaling are our own.

    References
    ----------
    Shin HG, Lee J, Yun YH, et al. NeuroImage 2021;240:118371. doi:10.1016/j.neuroimage.2021.118371.
    Liu Z, Spincemaille P, Yao Y, Zhang Y, Wang Y. Magn Reson Med 2018;79:2795-2803. doi:10.1002/mrm.26946.
    """
    check_not_negative(weight=weight, csf=csf)
    check_stop(max_iter=max_iter, tol=tol)
    if not 0 <= edges < 1:
        raise InputError(f"edges must be a share from 0 to less than 1, got {edges}. 0.1 spares the steepest tenth of the slopes.")
    drs = relaxivities(scan, dr_pos, dr_neg)
    maps = {"local_field": local_field, "r2prime": r2prime, "noise": noise, "r2prime_noise": r2prime_noise}
    check_images(mask, grid, **maps, magnitude=magnitude, r2star=r2star, chi=chi)
    check_ppm(mask, local_field=local_field, chi=chi)
    frame = Frame.around(local_field, rates("r2prime", r2prime, mask), mask, grid, drs, noise, r2prime_noise)
    window = frame.window
    step = STEP * frame.strength / frame.voxel
    couplings = Couplings(*COUPLINGS, weight * frame.penalty / step)
    prices = spared(window.mask, window.grid, None if magnitude is None else window.take(single(magnitude).square().sum(0).sqrt()), edges)
    limit = [(step * price).to(frame.field) for price in prices]
    still = None if r2star is None or csf == 0 else window.take(fluid(r2star, mask, grid).to(r2star.dtype))
    pulls = [] if still is None or not bool(still.any()) else [(csf * still, torch.zeros_like(still))]
    level = 0.0 if chi is None else float(chi[mask].mean())
    voxels = Voxels(frame, couplings.voxel, level, *pulls)
    (p, n), solution = joint(frame, voxels, couplings, limit if weight else None, max_iter=max_iter, tol=tol, callback=callback)
    solution.warn("chisep_medi")
    return give(window.put(p), window.put(n), mask)
