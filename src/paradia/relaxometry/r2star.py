"""R2* freed from the dephasing that a field makes which changes across the voxel."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.errors import GeometryError
from paradia.relaxometry._checks import check
from paradia.relaxometry._decay import fit
from paradia.scan import Scan
from paradia.sources.inside import single
from paradia.sources.knobs import check_stop
from paradia.types import Callback, Decay, Echoes, Mask, Volume

CITE = "10.1002/mrm.23306"


DOUBT = 0.5
"""Share of the correction that counts as its error: at the mask's edge half of the field's slope is not known, and voxels are no boxes."""


def r2star(
    magnitude: Echoes,
    mask: Mask,
    scan: Scan,
    total_field: Volume | None = None,
    *,
    correct: bool = True,
    rician: bool = False,
    maximum: float = 500.0,
    max_iter: int = 30,
    tol: float = 1e-4,
    callback: Callback | None = None,
) -> Decay:
    r"""Fit a mono-exponential decay together with the dephasing that the total field's slope explains.

    Minimises :math:`\sum_n (S_0 e^{-R_2^* TE_n} \prod_a |\mathrm{sinc}(\bar\gamma B_0 \Delta_a f\, TE_n)| - m_n)^2` in every voxel, with
    :math:`\Delta_a f` the change of the total field across the voxel along axis a. The height is eliminated in closed form, and the rate
    found by damped Newton-type steps.

    Parameters
    ----------
    magnitude
        Magnitude of every echo, any unit. An echo that is zero in a voxel was not measured there and is left out; with fewer than two left
        the deviation is that of a guess.
    mask
        Voxels to fit.
    scan
        Echo times, at least two, and field strength.
    total_field
        Total field, ppm. Without it nothing is corrected.
    correct
        Whether to correct for dephasing. Off, the fit is that of `nonlinear`.
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

    Notes
    -----
    The voxel is taken for a box in which the field changes linearly. Images interpolated to smaller voxels than were measured dephase
    more than their own voxels tell, and stay undercorrected. The standard deviation is that of the magnitudes' noise and half of the
    correction, added in squares: on simulated heads the correction errs by about as much, most of all at the mask's edge.

    References
    ----------
    Hernando D, Vigen KK, Shimakawa A, Reeder SB. Magn Reson Med 2012;68:830-840. doi:10.1002/mrm.23306.
    Yablonskiy DA. Magn Reson Med 1998;39:417-428. doi:10.1002/mrm.1910390312.
    """
    check("r2star", magnitude, mask, scan, 2, maximum)
    magnitude = single(magnitude)
    check_stop(max_iter=max_iter, tol=tol)
    factor = None
    if correct and total_field is not None:
        if total_field.shape != mask.shape:
            raise GeometryError(
                f"total field and mask differ in shape: {tuple(total_field.shape)} and {tuple(mask.shape)}. Bring both to one space."
            )
        factor = _dephasing(total_field.to(magnitude), mask, scan)
    found = fit(magnitude, mask, scan, factor, rician=rician, maximum=maximum, max_iter=max_iter, tol=tol, callback=callback)
    if factor is None:
        return found
    plain = fit(magnitude, mask, scan, None, rician=rician, maximum=maximum, max_iter=max_iter, tol=tol, callback=None)
    return found._replace(r2star_noise=torch.hypot(found.r2star_noise, DOUBT * (plain.r2star - found.r2star)))


def _dephasing(field: Tensor, mask: Tensor, scan: Scan) -> Tensor:
    """Return by how much each echo is weakened in each voxel of the mask."""
    known = mask & field.isfinite()
    field = torch.where(known, field, 0.0)
    factor = field.new_ones((len(scan.echo_times), int(mask.sum())))
    for axis in range(3):
        change = _across(field, known, axis)[mask]
        for echo, time in enumerate(scan.echo_times):
            factor[echo] *= torch.sinc(scan.hz_per_ppm * time * change).abs()
    return factor


def _across(field: Tensor, known: Tensor, axis: int) -> Tensor:
    """Return the change across a voxel: the mean of the steps to those neighbours that are known."""
    steps, count, last = torch.zeros_like(field), torch.zeros_like(field), field.shape[axis] - 1
    both = known.narrow(axis, 0, last) & known.narrow(axis, 1, last)
    step = torch.where(both, field.narrow(axis, 1, last) - field.narrow(axis, 0, last), 0.0)
    for start in (0, 1):
        steps.narrow(axis, start, last).add_(step)
        count.narrow(axis, start, last).add_(both)
    return steps / count.clamp_min(1)
