"""The joint fit with its usual weights, for methods that begin with it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from paradia.fft import Window
from paradia.sources.doubt import doubt
from paradia.sources.split import Effort, Split, structured
from paradia.types import Callback

WEIGHT, RIM, MODEL_ERROR = 0.08, 0.07, 0.02
"""Defaults of both methods called `joint`, and what others begin with."""

USUAL = Effort(start=80, rounds=4, max_iter=20)
"""Default of both."""

QUICK = Effort(start=30, rounds=3, max_iter=15)
"""Half of the usual and less: what networks begin with in training, since what mends a worse start mends a better one too."""

BRISK = Effort(start=60, rounds=3, max_iter=15)
"""Less than usual: what networks begin with. A quadratic fit cut shorter leaves background on heads unlike the training."""


class Fitted(NamedTuple):
    """Sources inside the mask and the field they make, in the window."""

    chi: Tensor
    """ppm, zero outside the mask."""
    local_field: Tensor
    """ppm, zero outside the mask."""
    rest: Tensor
    """What neither side explains of the total field: noise, mostly; ppm, zero outside the mask."""
    outside: Tensor
    """Sources outside the mask, ppm, zero in it."""
    deviation: Tensor
    """Standard deviation of the total field that the fit went by, ppm; infinite where unknown."""


def fit(window: Window, field: Tensor, noise: Tensor | None, effort: Effort, callback: Callback | None = None) -> Fitted:
    """Split a total field into sources inside and outside the mask.

    Parameters
    ----------
    window
        Around the mask, with the margin `split.MARGIN`.
    field
        Total field in the window, ppm, zero outside the mask.
    noise
        Its standard deviation in the window, ppm; judged from its roughness without it.
    effort
        Iterations.
    callback
        Called as ``callback(iteration, relative_change)``.

    Returns
    -------
    Fitted
        The sources inside and their field.
    """
    deviation = doubt(field, window.mask, noise, MODEL_ERROR)
    split = Split(window, deviation, RIM)
    sources = structured(split, window, field, WEIGHT, effort, callback).x
    chi = sources * window.mask
    rest = torch.where(window.mask, field - split.dipole(sources), 0.0)
    return Fitted(chi, torch.where(window.mask, split.dipole(chi), 0.0), rest, torch.where(window.mask, 0.0, sources), deviation)
