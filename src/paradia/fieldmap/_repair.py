"""Voxels whose echoes were unwrapped inconsistently, found by their misfit and set right by all echoes together."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.fieldmap._echoes import Prepared, wrap
from paradia.fieldmap._noise import MISFIT, from_residuals


def repair(prepared: Prepared, pace: Tensor) -> Tensor:
    """Choose, where the echoes contradict each other, the field that fits them best modulo whole turns.

    Candidates are the fit itself, the first echo alone (whose wraps are fewest), and both one turn per echo spacing away.

    Parameters
    ----------
    prepared
        Echoes whose phase is proportional to echo time.
    pace
        Phase per second from the unwrapped phases (x, y, z), rad/s.

    Returns
    -------
    Tensor
        Phase per second, the same where nothing was wrong.
    """
    phase, weight, mask, times = prepared
    if phase.shape[0] < 2:
        return pace
    _, misfit = from_residuals(phase - pace * times, weight, 1, phase)
    wrong = mask & (misfit > MISFIT)
    if not wrong.any():
        return pace
    at, echoes, trust = times[:, 0, 0], phase[:, wrong], weight[:, wrong]
    turn = 2 * torch.pi / (times[1:] - times[:-1]).amin()
    starts = torch.stack([pace[wrong], echoes[0] / at[0]])
    candidates = torch.cat([starts, starts + turn, starts - turn])
    refined = _refine(candidates, echoes, trust, at)
    left = echoes - refined[:, None] * at
    cost = (trust * (1 - torch.cos(left))).sum(1)
    # Echo times with a common measure leave exact aliases, between which only the unwrapped first echo can tell.
    cost = cost + 0.5 * trust[0] * left[:, 0].square()
    best = cost.argmin(0, keepdim=True)
    fixed = pace.clone()
    fixed[wrong] = refined.gather(0, best)[0]
    return fixed


def _refine(candidates: Tensor, echoes: Tensor, trust: Tensor, at: Tensor) -> Tensor:
    """Bring each candidate (candidate, voxel) to the bottom of its valley."""
    information = (trust * at.square()).sum(0).clamp_min(1e-30)
    for _ in range(4):
        left = wrap(echoes - candidates[:, None] * at)
        candidates = candidates + (trust * at * left).sum(1) / information
    return candidates
