"""Extended phase graphs: what trains of radio-frequency pulses make of T1 and T2."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.errors import InputError


def cpmg(r2: Tensor, angle: Tensor, r1: Tensor | float, *, spacing: float, echoes: int) -> Tensor:
    r"""Compute the echoes of a train of equal refocusing pulses, stimulated echoes and all.

    The magnetisation of a voxel is written as its spatial harmonics under the crushers, which every pulse of angle α mixes and every
    spacing moves on by one and weakens.  Excited magnetisation lies along the axis of the pulses (Carr, Purcell, Meiboom, Gill), so
    that all of it stays real.

    Parameters
    ----------
    r2
        Transverse relaxation rate, 1/s, of any shape.
    angle
        Refocusing angle as the spins have it, rad; broadcast with the rates.  α and 2π − α give the same echoes.
    r1
        Longitudinal relaxation rate, 1/s; broadcast with the others.
    spacing
        Time between echoes, s; the first echo comes one spacing after the excitation.
    echoes
        How many.

    Returns
    -------
    Tensor
        Signal of each echo over that right after the excitation, (echo, ...), differentiable in all three.

    Raises
    ------
    InputError
        There is no echo, or no time between echoes.

    Notes
    -----
    What an imperfect excitation leaves along the field never comes into focus at an echo; it only weakens all echoes alike, which is
    the caller's business.  For ideal pulses the echoes are :math:`e^{-n\,\Delta\,R_2}`.  Slice profiles and diffusion are left out.

    References
    ----------
    Hennig J. J Magn Reson 1988;78:397-407. doi:10.1016/0022-2364(88)90128-X.
    Weigel M. J Magn Reson Imaging 2015;41:266-295. doi:10.1002/jmri.24619.
    """
    if echoes < 1:
        raise InputError(f"a train has at least one echo, got {echoes}.")
    if not spacing > 0:
        raise InputError(f"the time between echoes must be positive, got {spacing} s.")
    r2 = r2 if r2.is_floating_point() else r2.to(torch.get_default_dtype())  # the other rate takes its precision
    turned = torch.sin(angle / 2).square()
    return train(torch.exp(-spacing * r2), 1 - turned, torch.exp(-spacing * torch.as_tensor(r1).to(r2)), echoes)


def train(transverse: Tensor, kept: Tensor, longitudinal: Tensor, echoes: int) -> Tensor:
    r"""Compute the echoes from what one spacing leaves; smooth in :math:`\cos^2(\alpha/2)` through ideal refocusing, where it is zero.

    Parameters
    ----------
    transverse
        Transverse magnetisation that is left after a spacing, :math:`e^{-\Delta R_2}`.
    kept
        Share of it that a pulse does not refocus, :math:`\cos^2(\alpha/2)`.
    longitudinal
        Longitudinal magnetisation that is left after a spacing, :math:`e^{-\Delta R_1}`.
    echoes
        How many.

    Returns
    -------
    Tensor
        Signal of each echo over that right after the excitation, (echo, ...).
    """
    flipped, cosine, sine2 = 1 - kept, 2 * kept - 1, 4 * kept * (1 - kept)
    zero = torch.zeros_like(transverse * kept * longitudinal)
    # Orders 1, 3, 5 … half spacings at the time of the pulses: dephasing ahead, rephasing behind, and stored along the field over sin α.
    # Only stored magnetisation over sin α enters, twice at a time, so that everything is a polynomial in the share kept.
    ahead, behind, stored = [zero + 1], [zero], [zero]
    heights = []
    for n in range(echoes):
        reach = min(n + 1, echoes - n)  # higher orders are not there yet, or come back too late
        mixed = [(ahead[j], behind[j], stored[j]) for j in range(reach)]
        new_ahead = [kept * f + flipped * b + sine2 * z for f, b, z in mixed]
        new_behind = [flipped * f + kept * b - sine2 * z for f, b, z in mixed]
        new_stored = [cosine * z - 0.5 * (f - b) for f, b, z in mixed]
        heights.append(new_behind[0])
        ahead = [transverse * f for f in (new_behind[0], *new_ahead)]
        behind = [*(transverse * f for f in new_behind[1:]), zero, zero]
        stored = [*(longitudinal * z for z in new_stored), zero]
    half = transverse  # half a spacing before the first pulse and half a spacing after the last
    return torch.stack([half * height for height in heights])
