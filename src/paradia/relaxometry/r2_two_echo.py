"""R2 from two spin echoes, in closed form."""

from __future__ import annotations

import torch

from paradia.errors import InputError
from paradia.relaxometry._checks import check, ends, give, noise_level, signals
from paradia.scan import Scan
from paradia.types import Echoes, Mask, R2Fit

CITE = ""


def r2_two_echo(magnitude: Echoes, mask: Mask, scan: Scan, *, skip: int = 0, maximum: float = 200.0) -> R2Fit:
    r"""Compute R2 from the ratio of two spin echoes.

    .. math:: R_2 = \ln(S_1/S_2) / (TE_2 - TE_1)

    Parameters
    ----------
    magnitude
        Magnitude of every spin echo, any unit. Of more than two, the first that is not left out and the last count. An echo that is zero in
        a voxel was not measured there, and the next one counts; with fewer than two left the deviation is that of a guess.
    mask
        Voxels to fit.
    scan
        Their echo times, at least two.
    skip
        Echoes to leave out at the beginning. Of a train, leave out the first, which has no stimulated echo in it.
    maximum
        Largest rate given, 1/s.

    Returns
    -------
    R2Fit
        R2 and its standard deviation, 1/s, zero outside the mask.

    Raises
    ------
    MetadataError
        Fewer than two echoes, or not as many as echo times.
    GeometryError, MaskError, NonFiniteError, InputError
        Shapes do not fit, the mask is empty, the magnitude inside it is not finite, or a knob is out of its range.

    Notes
    -----
    Two echoes of their own excitations decay with R2. Those of one train with imperfect refocusing decay more slowly, since stimulated
    echoes rest along the field; R2 is then too small, and `r2_epg` the better choice. The noise of the magnitude is what a ratio that
    is the same around a voxel leaves of both echoes.
    """
    check("r2_two_echo", magnitude, mask, scan, 2, maximum)
    if not 0 <= skip <= len(magnitude) - 2:
        raise InputError(f"skip must leave two of {len(magnitude)} echoes, got {skip}. Give a number from 0 to {len(magnitude) - 2}.")
    signal = signals(magnitude, mask)[skip:]
    known, which = (signal > 0).sum(0) > 1, ends(signal)
    pair = torch.where(known, signal.gather(0, which), 0.0)
    early, late = torch.tensor(scan.echo_times[skip:], dtype=signal.dtype, device=signal.device)[which]
    sigma = noise_level(pair[0], 0, pair, mask)
    rate = torch.where(known, torch.log(pair[0] / pair[1]) / (late - early), 0.0)
    noise = torch.where(known, sigma * pair.reciprocal().norm(dim=0) / (late - early), torch.inf)
    return R2Fit(*give(rate, noise, mask, maximum))
