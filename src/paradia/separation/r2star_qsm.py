"""Separation from gradient echoes alone, R2* in the place of R2′."""

from __future__ import annotations

from paradia.errors import InputError
from paradia.grid import Grid
from paradia.scan import Scan, relaxivities
from paradia.separation._inputs import check_images, check_ppm, rates
from paradia.separation._voxel import give, split
from paradia.types import Image, Mask, Sources

CITE = "10.1111/jon.13014"


def r2star_qsm(
    chi: Image,
    r2star: Image,
    mask: Mask,
    grid: Grid,
    scan: Scan,
    *,
    dr_pos: float | None = None,
    dr_neg: float | None = None,
    share: float = 0.5,
) -> Sources:
    r"""Split χ by R2*, of which R2′ is taken for a fixed share (R2*-QSM).

    As `closed_form` with :math:`R_2' = q R_2^*`. With both relaxivities equal that is
    :math:`\chi^\pm = \frac12(R_2^*/r \pm \chi)`, cut off at zero, with :math:`r = D_r/q`.

    Parameters
    ----------
    chi
        Total susceptibility, ppm, shape (..., x, y, z); its zero matters, see `closed_form`.
    r2star
        Transverse relaxation rate R2*, 1/s. What field gradients across a voxel add should have been taken off.
    mask
        Voxels that count.
    grid
        Where the images live.
    scan
        Tells the field strength.
    dr_pos
        Relaxivity Dr+ of paramagnetic sources, Hz/ppm. Without it 137 Hz/ppm times B0/3 T (Shin et al.; 114 where χ is a COSMOS map).
    dr_neg
        Relaxivity Dr− of diamagnetic sources, likewise.
    share
        :math:`q`, between 0 and 1.

    Returns
    -------
    Sources
        χ+ and χ−, ppm, zero outside the mask.

    Raises
    ------
    GeometryError, MaskError, NonFiniteError
        Shapes that do not fit, an empty mask, a number missing inside it.
    InputError
        R2* in 1/ms or mostly negative, χ not in ppm, no relaxivity known at the field strength, or a share out of range.

    Notes
    -----
    R2 is not a fixed share of R2*: fluid, oedema and lesions, where R2 departs from that of tissue, come out wrong, and so does everything
    at a field strength where the share is another. With a share of one half :math:`r` is 274 Hz/ppm at 3 T, as public implementations
    of the method have it; the paper itself was not at hand. In the literature R2* is about 1.9 times R2′ at 3 T.

    References
    ----------
    Dimov AV, Nguyen TD, Gillen KM, et al. J Neuroimaging 2022;32:852-859. doi:10.1111/jon.13014.
    """
    if not 0 < share <= 1:
        raise InputError(f"share must be more than 0 and at most 1, got {share}. It is R2′ over R2*, about one half at 3 T.")
    positive, negative = relaxivities(scan, dr_pos, dr_neg)
    check_images(mask, grid, chi=chi, r2star=r2star)
    check_ppm(mask, chi=chi)
    return give(*split(chi, share * rates("r2star", r2star, mask), positive, negative, 1.0), mask)
