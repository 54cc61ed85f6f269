"""R2 from trains of spin echoes whose pulses refocus imperfectly."""

from __future__ import annotations

import math
import warnings

import torch

from paradia.errors import ConvergenceWarning, InputError
from paradia.relaxometry._checks import check, give, measured, noise_level, signals
from paradia.relaxometry._train import LOWEST, TINY, Fit, match, table
from paradia.scan import Scan
from paradia.sources.knobs import check_stop
from paradia.types import Callback, Echoes, Mask, R2Fit

CITE = "10.1002/mrm.22487"

CHUNK = 1 << 14
"""Voxels fitted at a time, few enough to stay in the cache."""

UNKNOWNS = 3
"""Height, rate and angle."""

MOVING = 0.05
"""Share of voxels that may still move at the last step without a warning: those that hold noise alone do for long."""


def r2_epg(
    magnitude: Echoes,
    mask: Mask,
    scan: Scan,
    *,
    t1: float = 1.0,
    least_angle: float = 80.0,
    rician: bool = False,
    maximum: float = 200.0,
    max_iter: int = 30,
    tol: float = 1e-3,
    callback: Callback | None = None,
) -> R2Fit:
    r"""Fit R2 and the refocusing angle of every voxel to the echoes of a train, stimulated echoes and all.

    Minimises :math:`\sum_n (S_0\, e_n(R_2, \alpha) - m_n)^2`, with :math:`e_n` the extended phase graph of a train of equal pulses of
    angle α. The height is eliminated in closed form; the nearest entry of a table begins, and damped Gauss-Newton steps on a Taylor
    series about the table's entries go on between them.

    Parameters
    ----------
    magnitude
        Magnitude of every echo of a multi-echo spin-echo scan, any unit. An echo that is zero in a voxel was not measured there and is left
        out; with fewer than three left the deviation is that of a guess.
    mask
        Voxels to fit.
    scan
        Its echo times, at least three, multiples of one spacing; echoes may be left out.
    t1
        T1 that all voxels are taken to have, s. It matters little: half of it or four times moves R2 by less than 1 % at 120°.
    least_angle
        Smallest refocusing angle that is looked for, degrees, below 180.
    rician
        Whether to fit again with the mean that noise gives a magnitude, about :math:`\sqrt{S^2+\sigma^2}`; for weak late echoes.
    maximum
        Largest rate given, 1/s.
    max_iter
        Most steps of a voxel; most take four.
    tol
        Step of the logarithm of R2 and of the share not refocused, :math:`\cos^2(\alpha/2)`, at which a voxel is done.
    callback
        Called after every step of a chunk of voxels.

    Returns
    -------
    R2Fit
        R2 and its standard deviation, 1/s, zero outside the mask.

    Raises
    ------
    MetadataError
        Fewer than three echoes, not as many as echo times, or times that are no multiples of one spacing.
    GeometryError, MaskError, NonFiniteError, InputError
        Shapes do not fit, the mask is empty, the magnitude inside it is not finite, or a knob is out of its range.

    Warns
    -----
    ConvergenceWarning
        More than a twentieth of the voxels still moved at the last step.

    Notes
    -----
    Angles above 180° look like those as much below. The angle is one over the voxel: slice profiles are not modelled, and a profile that
    is far from a box reads as a smaller angle. R2 below 0.2 1/s is given as that. Close to ideal refocusing the angle meets its bound, and
    R2 is found a little better than its standard deviation says.

    The spacing of the pulses is the longest that fits the echo times. A train of which every second echo is left out passes for one of half
    as many pulses, since nothing tells of the others: a true R2 of 12 1/s then reads as that at 150°, and as 11.5 at 120°. Give all echoes.

    References
    ----------
    Lebel RM, Wilman AH. Magn Reson Med 2010;64:1005-1014. doi:10.1002/mrm.22487.
    Ben-Eliezer N, Sodickson DK, Block KT. Magn Reson Med 2015;73:809-817. doi:10.1002/mrm.25156.
    """
    check("r2_epg", magnitude, mask, scan, 3, maximum)
    check_stop(max_iter=max_iter, tol=tol)
    if maximum <= LOWEST:
        raise InputError(f"maximum must be a rate above {LOWEST} 1/s, got {maximum}.")
    if not 0 < least_angle < 180:
        raise InputError(f"least_angle must lie between 0 and 180 degrees, got {least_angle}. Pulses are weaker, so 80 is usual.")
    if not t1 > 0:
        raise InputError(f"t1 must be a positive time in s, got {t1}.")
    trains = table(scan.echo_times, maximum, math.cos(math.radians(least_angle) / 2) ** 2, 1 / t1)
    signal = signals(magnitude, mask)
    there = signal > 0

    def fit(signal: torch.Tensor) -> Fit:
        return Fit(*map(torch.cat, zip(*(match(s, trains, max_iter, tol, callback) for s in signal.split(CHUNK, dim=1)), strict=True)))

    found = fit(signal)
    sigma = noise_level(found.squares, *measured(signal, UNKNOWNS), mask)
    if rician:
        found = fit((signal.square() - sigma.square()).clamp_min(TINY).sqrt() * there)
    moving = float(found.moving.float().mean())
    if moving > MOVING:
        warnings.warn(
            f"r2_epg stopped after {max_iter} steps, when {moving:.0%} of the voxels still moved by more than its tolerance. "
            "Raise max_iter or tol if the result looks unfinished.",
            ConvergenceWarning,
            stacklevel=2,
        )
    known = there.sum(0) >= UNKNOWNS
    noise = torch.where(known, sigma / found.information.clamp_min(TINY).sqrt(), torch.inf)
    return R2Fit(*give(found.rate * known, noise, mask, maximum))
