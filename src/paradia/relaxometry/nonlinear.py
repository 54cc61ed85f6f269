"""R2* by a fit of the decay itself."""

from __future__ import annotations

from paradia.relaxometry._checks import check
from paradia.relaxometry._decay import fit
from paradia.scan import Scan
from paradia.sources.knobs import check_stop
from paradia.types import Callback, Decay, Echoes, Mask

CITE = "10.1002/mrm.23306"


def nonlinear(
    magnitude: Echoes,
    mask: Mask,
    scan: Scan,
    *,
    rician: bool = False,
    maximum: float = 500.0,
    max_iter: int = 30,
    tol: float = 1e-4,
    callback: Callback | None = None,
) -> Decay:
    r"""Fit a mono-exponential decay by least squares.

    Minimises :math:`\sum_n (S_0 e^{-R_2^* TE_n} - m_n)^2` in every voxel. The height :math:`S_0` is eliminated in closed form, and the rate
    found by damped Newton-type steps from a weighted logarithmic fit.

    Parameters
    ----------
    magnitude
        Magnitude of every echo, any unit. An echo that is zero in a voxel was not measured there and is left out; with fewer than two left
        the deviation is that of a guess.
    mask
        Voxels to fit.
    scan
        Echo times; at least two.
    rician
        Whether to fit again with the mean that noise gives a magnitude, about :math:`\sqrt{S^2+\sigma^2}`; for weak late echoes.
    maximum
        Largest rate given, 1/s.
    max_iter
        Most steps.
    tol
        Step, relative to the reciprocal of the last echo time, at which a voxel is done.
    callback
        Called after every step of a chunk of voxels.

    Returns
    -------
    Decay
        R2* and its standard deviation, 1/s, zero outside the mask.

    Raises
    ------
    MetadataError
        Fewer than two echoes, or not as many as echo times.
    GeometryError, MaskError, NonFiniteError, InputError
        Shapes do not fit, the mask is empty, the magnitude inside it is not finite, or a knob is out of its range.

    References
    ----------
    Hernando D, et al. R2* mapping in the presence of macroscopic B0 field variations. Magn Reson Med 2012;68:830.
    https://doi.org/10.1002/mrm.23306
    """
    check("nonlinear", magnitude, mask, scan, 2, maximum)
    check_stop(max_iter=max_iter, tol=tol)
    return fit(magnitude, mask, scan, None, rician=rician, maximum=maximum, max_iter=max_iter, tol=tol, callback=callback)
