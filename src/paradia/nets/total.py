"""From a total field and a fit of it to χ: one network mends the local field, another is asked in turn with the total one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from paradia.fft import Window
from paradia.nets.beginning import begin
from paradia.nets.settled import AROUND, asked, settle
from paradia.nets.unet import UNet3d
from paradia.nets.unrolled import clear, problem
from paradia.sources.doubt import believed
from paradia.sources.fit import Fitted


class Solved(NamedTuple):
    """A total field explained, in its window. All (x, y, z), ppm, zero outside the mask."""

    chi: Tensor
    """Mean zero in the mask."""
    deviation: Tensor
    """Of χ, as the second network left it."""
    local_field: Tensor
    """That of χ."""
    local_deviation: Tensor
    """Of the local field, as the first network left it."""
    rest: Tensor
    """What sources on neither side explain of the total field."""
    novelty: float
    """The largest that any question was told, see `familiar.novelty`."""


def invert(
    background: UNet3d,
    inversion: UNet3d,
    field: Tensor,
    noise: Tensor | None,
    fitted: Fitted,
    window: Window,
    *,
    stages: int,
    trust: float,
    refine: int,
) -> Solved:
    """Mend the local field of a fit, invert it, and let network and total field better the χ in turn.

    Parameters
    ----------
    background
        See `unrolled.clear`.
    inversion
        See `unrolled.propose`.
    field
        Total field in the window, ppm, zero outside the mask.
    noise
        Its standard deviation, ppm; judged from its roughness without it.
    fitted
        What `sources.fit` made of it.
    window
        Around the mask.
    stages
        How often the second network is asked.
    trust
        See `settled.settle`.
    refine
        Iterations in which the field settles the last proposal; `settled.FEW` times fewer those before it, and none leaves all to the
        networks.

    Returns
    -------
    Solved
        χ and all that belongs to it.
    """
    mask, grid = window.mask, window.grid
    loud = believed(field, mask, noise)
    mended = clear(background, field, fitted.local_field, fitted.chi, fitted.rest, loud, window)
    chi = begin(mended.value, mask, grid, torch.hypot(loud, mended.deviation))
    seen, outside, strange = mended.value + fitted.rest, fitted.outside, mended.novelty
    for more in reversed(range(stages)):
        held, chi = problem(seen, chi, mask, loud, grid)
        sure, steps = asked(inversion, chi, held, more=more, refine=refine)
        strange = max(strange, sure.novelty)
        chi, outside, rest = settle(sure, outside, field, fitted.deviation, mask, held.dipole, around=AROUND, trust=trust, iterations=steps)
        local = torch.where(mask, held.dipole(chi), 0.0)
        seen = local + rest
    return Solved(chi, sure.deviation, local, mended.deviation, rest, strange)
