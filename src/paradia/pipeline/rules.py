"""Three rules that read a regularisation weight from an L-curve.

``discrepancy``
    The misfit is as large as the noise: less explains noise, more leaves out signal (Morozov 1966). Needs a noise map.
``inflection``
    Beyond the corner, where the curve stops bending upwards: what serves susceptibility best without a noise map
    (Milovic 2021).
``corner``
    Where the curve bends most (Hansen 1993). For susceptibility it is too small by up to a factor of ten, as a lower
    bound it is of use.

References
----------
Morozov VA. Soviet Math Dokl 1966;7:414-417.
Hansen PC, O'Leary DP. SIAM J Sci Comput 1993;14:1487-1503. doi:10.1137/0914086.
Milovic C, Prieto C, Bilgic B, et al. Magn Reson Med 2021;85:480-494. doi:10.1002/mrm.28435.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline, make_smoothing_spline

FINE = 401
"""Points of the curve between the ends of a sweep."""

STRAIGHT = 1e-3
"""Curvature up to which a curve is straight, in logarithms: rounding bends one too, and a corner bends a hundred times as much."""

Rule = Literal["discrepancy", "inflection", "corner"]


class Sample(NamedTuple):
    """One run of a sweep."""

    value: float
    """Of the knob."""
    misfit: float
    """Root mean square of what the result leaves of the field, in standard deviations of its noise; in ppm without a noise map."""
    roughness: float
    """Mean absolute slope of the result, or its root mean square, ppm/mm; of background removal the field itself, ppm."""
    kept: Any = None
    """What `paradia.pipeline.tune.tune` was asked to keep of the result."""


class Curve(NamedTuple):
    """The smoothed L-curve at `FINE` values of the knob, evenly spaced in its logarithm."""

    value: NDArray[np.float64]
    misfit: NDArray[np.float64]
    roughness: NDArray[np.float64]
    curvature: NDArray[np.float64]
    """Positive where it bends like an L."""


class Choice(NamedTuple):
    """What a rule found."""

    rule: Rule
    value: float | None
    """Nothing where the rule cannot be trusted."""
    reason: str
    """What was found, or why it cannot be trusted, in a sentence."""


def judge(sweep: Sequence[Sample], samples: Sequence[Sample], normalised: bool) -> tuple[Curve, tuple[Choice, ...]]:
    """Draw the curve through the runs and let the rules choose.

    Parameters
    ----------
    sweep
        Evenly spread runs by rising value, which the curve goes through.
    samples
        All runs by rising value, between which the noise is looked for.
    normalised
        Whether the misfit is in standard deviations of the noise, so that 1 is the noise.

    Returns
    -------
    Curve
        Through the runs, smoothed.
    tuple of Choice
        The most trusted first.
    """
    misfit, roughness = _spline(sweep, "misfit"), _spline(sweep, "roughness")
    t = np.linspace(math.log(sweep[0].value), math.log(sweep[-1].value), FINE)
    more = 1.0 if sweep[-1].roughness <= sweep[0].roughness else -1.0  # whether a larger value smooths more
    dx, ddx, dy, ddy = misfit(t, 1), misfit(t, 2), roughness(t, 1), roughness(t, 2)
    curvature = more * (dx * ddy - dy * ddx) / np.maximum((dx**2 + dy**2) ** 1.5, 1e-12)
    curve = Curve(np.exp(t), np.exp(misfit(t)), np.exp(roughness(t)), curvature)
    trade = (more * dx > 0) & (more * dy < 0)  # elsewhere both rise or fall together, and the curve tells nothing
    inner = (curve.value > sweep[1].value) & (curve.value < sweep[-2].value)
    corner = _corner(curve, trade, inner)
    inflection = _inflection(curve, trade & inner, corner, more)
    return curve, (_discrepancy(samples, normalised, corner, more), inflection, corner)


def _spline(samples: Sequence[Sample], name: str) -> BSpline:
    """Fit a smoothing spline to the logarithm over that of the value; how smooth is found by cross-validation."""
    values = [math.log(sample.value) for sample in samples]
    return make_smoothing_spline(values, [math.log(max(getattr(sample, name), 1e-30)) for sample in samples])


def _corner(curve: Curve, trade: NDArray[np.bool_], inner: NDArray[np.bool_]) -> Choice:
    if not (trade & inner).any():
        return Choice("corner", None, "Misfit and roughness nowhere trade against each other: the curve is no L.")
    bent = np.where(trade & inner, curve.curvature, -np.inf)
    place = int(bent.argmax())
    if bent[place] <= STRAIGHT:
        return Choice("corner", None, "The curve bends like an L nowhere inside the sweep. Sweep wider.")
    if not (inner[place - 1] and inner[place + 1]):
        return Choice("corner", None, f"The curve bends most at the edge of the sweep, {curve.value[place]:.3g}. Sweep further that way.")
    return Choice("corner", float(curve.value[place]), f"The curve bends most, misfit {curve.misfit[place]:.3g}.")


def _inflection(curve: Curve, allowed: NDArray[np.bool_], corner: Choice, more: float) -> Choice:
    """Find where the bending first ends on the smooth side of the sharpest bend."""
    order = np.arange(FINE) if more > 0 else np.arange(FINE)[::-1]
    order = order[allowed[order]]
    bent = curve.curvature[order]
    if not len(order) or bent.max() <= STRAIGHT:
        return Choice("inflection", None, corner.reason)
    after = np.flatnonzero(bent[int(bent.argmax()) :] <= 0)
    if not len(after):
        return Choice(
            "inflection", None, "The curve bends like an L up to the end of the sweep: its foot lies beyond. Sweep to smoother values."
        )
    place = int(order[int(bent.argmax()) + int(after[0])])
    return Choice("inflection", float(curve.value[place]), f"The curve stops bending upwards, misfit {curve.misfit[place]:.3g}.")


def _discrepancy(samples: Sequence[Sample], normalised: bool, corner: Choice, more: float) -> Choice:
    """Find where the misfit crosses the noise for the last time on the way to smoother results."""
    if not normalised:
        return Choice("discrepancy", None, "Without a noise map nobody knows how large the misfit may be.")
    row = list(samples) if more > 0 else list(samples)[::-1]
    misfits = [sample.misfit for sample in row]
    if min(misfits) > 1:
        return Choice(
            "discrepancy",
            None,
            f"The misfit never comes down to the noise, the least is {min(misfits):.3g} of it: the field holds what no susceptibility "
            "inside the mask explains, such as background, or the noise map is too low.",
        )
    if misfits[-1] < 1:
        return Choice(
            "discrepancy", None, f"At the smooth end the misfit is still below the noise, {misfits[-1]:.3g} of it. Sweep further."
        )
    below = max(place for place, misfit in enumerate(misfits) if misfit <= 1)
    one, two = row[below], row[below + 1]
    share = math.log(1 / one.misfit) / math.log(two.misfit / one.misfit)
    value = math.exp(math.log(one.value) + share * math.log(two.value / one.value))
    if corner.value is not None and more * math.log(value / corner.value) < 0:
        said = f"The misfit equals the noise at {value:.3g}, before the corner: the noise map is too low, or background is left."
        return Choice("discrepancy", None, said)
    return Choice("discrepancy", value, "The misfit equals the noise.")
