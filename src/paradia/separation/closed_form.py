"""Both equations solved in every voxel."""

from __future__ import annotations

from paradia.errors import InputError
from paradia.grid import Grid
from paradia.scan import Scan, relaxivities
from paradia.separation._inputs import check_images, check_ppm, rates
from paradia.separation._voxel import give, split
from paradia.types import Image, Mask, Sources

CITE = "10.1016/j.neuroimage.2021.118371"


def closed_form(
    chi: Image,
    r2prime: Image,
    mask: Mask,
    grid: Grid,
    scan: Scan,
    *,
    dr_pos: float | None = None,
    dr_neg: float | None = None,
    trust: float = 1.0,
) -> Sources:
    r"""Solve χ = χ+ − χ− and R2′ = Dr+ χ+ + Dr− χ− in every voxel, by least squares without negative sources.

    Minimises :math:`(\chi^+ - \chi^- - \chi)^2 + t\,(D_r^+\chi^+ + D_r^-\chi^- - R_2')^2/\bar D_r^2` over
    :math:`\chi^\pm \ge 0`, :math:`\bar D_r` the mean of both relaxivities. Where R2′ is at least what χ alone makes, both equations hold:
    :math:`\chi^+ = (R_2' + D_r^-\chi)/(D_r^+ + D_r^-)`, :math:`\chi^- = \chi^+ - \chi`. Elsewhere there is one source, and it meets both
    as well as it can. It is the least that any other method should surpass.

    Parameters
    ----------
    chi
        Total susceptibility, ppm, shape (..., x, y, z). Its zero matters, other than for χ itself: that of water is meant, and a
        reference to the whole brain shifts half of its offset into each source.
    r2prime
        Reversible relaxation rate R2′ = R2* − R2, 1/s. Negative values count as zero.
    mask
        Voxels that count.
    grid
        Where the images live.
    scan
        Tells the field strength.
    dr_pos
        Relaxivity Dr+ of paramagnetic sources, Hz/ppm. Without it 137 Hz/ppm times B0/3 T, measured at 3 T by Shin et al.; 114 is what
        comes out where χ is a COSMOS map (Kim et al.), 108 Hz/ppm per tesla the theory of random spheres. It scales the result.
    dr_neg
        Relaxivity Dr− of diamagnetic sources, likewise.
    trust
        :math:`t`, how much the relaxation counts beside χ where both cannot hold; 0 excluded.

    Returns
    -------
    Sources
        χ+ and χ−, ppm, zero outside the mask.

    Raises
    ------
    GeometryError, MaskError, NonFiniteError
        Shapes that do not fit, an empty mask, a number missing inside it.
    InputError
        R2′ in 1/ms or mostly negative, χ not in ppm, no relaxivity known at the field strength, or a knob out of range.

    References
    ----------
    Shin HG, Lee J, Yun YH, et al. NeuroImage 2021;240:118371. doi:10.1016/j.neuroimage.2021.118371.
    Kim M, Ji S, Kim J, et al. Hum Brain Mapp 2025;46:e70136. doi:10.1002/hbm.70136.
    """
    if not 0 < trust < float("inf"):
        raise InputError(f"trust must be positive, got {trust}. 1 lets both equations count alike.")
    positive, negative = relaxivities(scan, dr_pos, dr_neg)
    check_images(mask, grid, chi=chi, r2prime=r2prime)
    check_ppm(mask, chi=chi)
    return give(*split(chi, rates("r2prime", r2prime, mask), positive, negative, trust), mask)
