r"""Choose a regularisation weight on the data themselves, by the L-curve and by the discrepancy principle.

A sweep runs a method with one knob at a row of values and records of each result how far it is from the data and how
rough it is. Against each other, on logarithmic axes, the two make an L: along its upright arm more regularisation takes
away noise and costs little, along its foot it takes away anatomy. Three rules read a value from it:

``discrepancy``
    The misfit is as large as the noise: less explains noise, more leaves out signal (Morozov 1966). Needs a noise map.
``inflection``
    Beyond the corner, where the curve stops bending upwards: what serves susceptibility best without a noise map
    (Milovic 2021).
``corner``
    Where the curve bends most (Hansen 1993). For susceptibility it is too small by up to a factor of ten, as a lower
    bound it is of use.

The misfit of an inversion is that of its field, :math:`W M (D\chi - f)`. Where background is still in the data, in single
steps and background removal, it is taken through :math:`\delta - S` with the mean :math:`S` over a small sphere, to which
background is nothing because its field is harmonic.

References
----------
Morozov VA. Soviet Math Dokl 1966;7:414-417.
Hansen PC, O'Leary DP. SIAM J Sci Comput 1993;14:1487-1503. doi:10.1137/0914086.
Milovic C, Prieto C, Bilgic B, et al. Magn Reson Med 2021;85:480-494. doi:10.1002/mrm.28435.
"""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import BSpline, make_smoothing_spline
from torch import Tensor

from paradia.errors import InputError, UnknownKnobError, nearest
from paradia.operators.dipole import Dipole
from paradia.operators.smv import SMV, sphere
from paradia.pipeline.protocol import toml_value
from paradia.pipeline.step import Step

FIELDS = {"background": "total_field", "inversion": "local_field", "singlestep": "total_field"}
"""Stages that can be tuned, and the field that their results have to explain."""

LEAST = 5
"""Values that a curve needs."""

FINE = 401
"""Points of the curve between the ends of a sweep."""

STRAIGHT = 1e-3
"""Curvature up to which a curve is straight, in logarithms: rounding bends one too, and a corner bends a hundred times as much."""

SAME = 0.03
"""Values this near to each other, as a share, count as one."""

RADIUS = 2.5
"""Radius of the sphere that background is nothing to, in edges of the largest side of a voxel."""

THIN = (
    f"the mask is nowhere as thick as a sphere of {RADIUS:g} voxels' radius, through which the misfit is taken. Tune an inversion instead."
)

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
    """What `sweep` was asked to keep of the result."""


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


@dataclass(frozen=True)
class Tuned:
    """A sweep and what the rules make of it.

    Attributes
    ----------
    step, knob
        What was tuned; the step has every other knob as it was.
    samples
        One a run, by rising value.
    curve
        The L-curve through them.
    choices
        What each rule found, the most trusted first.
    normalised
        Whether the misfit is in standard deviations of the noise.
    messages
        What the method warned of, once each, and how often.
    """

    step: Step
    knob: str
    samples: tuple[Sample, ...]
    curve: Curve
    choices: tuple[Choice, ...]
    normalised: bool
    messages: tuple[str, ...] = ()

    @property
    def best(self) -> Choice | None:
        """The choice to take; nothing where none can be trusted."""
        return next((choice for choice in self.choices if choice.value is not None), None)

    def rules(self, sample: Sample) -> list[str]:
        """Return the rules that found the value of a run."""
        return [choice.rule for choice in self.choices if choice.value and _same(choice.value, sample.value)]

    @property
    def toml(self) -> str:
        """The lines for a protocol."""
        best = self.best
        turned = {**self.step.knobs, **({} if best is None or best.value is None else {self.knob: float(f"{best.value:.3g}")})}
        lines = [f"[{self.step.stage}]", f"method = {toml_value(self.step.method)}"]
        return "\n".join([*lines, *(f"{knob} = {toml_value(value)}" for knob, value in turned.items())])


def tune(
    step: Step,
    board: Mapping[str, Any],
    knob: str,
    values: Sequence[float],
    *,
    norm: Literal[1, 2] = 1,
    refine: int = 1,
    keep: Callable[[Tensor], Any] | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Tuned:
    r"""Sweep a knob and let every rule choose.

    Parameters
    ----------
    step
        A step of the stages background, inversion or singlestep.
    board
        The data by name, as for `Step.run`.
    knob
        Name of the weight.
    values
        Where to sweep it, positive; at least five.
    norm
        1 measures roughness by :math:`\|\nabla\chi\|_1`, 2 by :math:`\|\nabla\chi\|_2`.
    refine
        How many times to run the method at what the rules found between the values, and to let them choose again.
    keep
        What to keep of every result, a function of it; the results themselves are not kept.
    progress
        Called as ``progress(runs done, runs in all, value)`` before each run.

    Returns
    -------
    Tuned
        The runs, the curve through them and the choices.

    Raises
    ------
    UnknownKnobError
        The method has no such knob.
    InputError
        The knob is not a number, a stage that cannot be tuned, too few values, data that are missing, or no voxel whose misfit counts.
    """
    check(step, knob, values)
    if refine < 0:
        raise InputError(f"refine must be zero or more, got {refine}. 0 runs the method at the values of the sweep alone.")
    told: list[str] = []
    samples: list[Sample] = []
    sweep: list[Sample] = []
    waiting, total = sorted({float(v) for v in values}), len({float(v) for v in values})
    measure = _Measure(step, board, norm)
    for turn in range(refine + 1):
        for value in waiting:
            if progress:
                progress(len(samples), total, value)
            samples.append(_run(step, board, knob, value, measure, keep, told))
        samples.sort(key=lambda sample: sample.value)
        sweep = sweep or list(samples)
        curve, choices = judge(sweep, samples, measure.noise is not None)
        waiting = [c.value for c in choices if c.value and not any(_same(c.value, s.value) for s in samples)]
        if turn == refine or not waiting:
            break
        total += len(waiting)
    alike = {re.sub(r"[\d.e+-]+", "#", text): text for text in reversed(told)}  # the same sentence with other numbers
    count = Counter(re.sub(r"[\d.e+-]+", "#", text) for text in told)
    messages = tuple(f"{count[key]} of {len(samples)} runs, such as: {text}" for key, text in alike.items())
    return Tuned(step, knob, tuple(samples), curve, choices, measure.noise is not None, messages)


def check(step: Step, knob: str, values: Sequence[float]) -> None:
    """Check what can be checked before anything is computed.

    Raises
    ------
    UnknownKnobError, InputError
        As `tune` says.
    """
    if step.stage not in FIELDS:
        raise InputError(f"a knob of {', '.join(FIELDS)} can be tuned, got {step.stage}. Other stages leave no field to compare with.")
    known = step.loaded.knobs
    if knob not in known:
        raise UnknownKnobError(f"{step.method} has no knob {knob!r}. {nearest(knob, known)}")
    if isinstance(known[knob], bool) or not isinstance(known[knob], float):
        raise InputError(f"{knob} of {step.method} is no number with a decimal point and cannot be swept. Take a weight or a threshold.")
    distinct = {float(v) for v in values}
    if len(distinct) < LEAST or min(distinct) <= 0 or not all(map(math.isfinite, distinct)):
        raise InputError(f"a sweep needs at least {LEAST} different positive values, got {', '.join(f'{v:g}' for v in values)}.")


def _same(value: float, other: float) -> bool:
    return abs(value / other - 1) < SAME


def _run(
    step: Step, board: Mapping[str, Any], knob: str, value: float, measure: _Measure, keep: Callable[[Tensor], Any] | None, told: list[str]
) -> Sample:
    """Run the method at one value."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        given = Step(step.stage, step.method, {**step.knobs, knob: value}).run(board)
    told += {warning.category.__name__: str(warning.message) for warning in caught}.values()
    misfit, roughness = measure(given)
    result = given["local_field" if step.stage == "background" else "chi"]
    return Sample(value, misfit, roughness, keep(result) if keep else None)


class _Measure:
    """How far results of a stage are from the data, and how rough they are."""

    def __init__(self, step: Step, board: Mapping[str, Any], norm: int) -> None:
        needed = [name for name in (FIELDS[step.stage], "mask", "grid") if name not in board]
        if needed:
            raise InputError(f"tuning {step.stage} needs {', '.join(needed)}. There is: {', '.join(sorted(board))}.")
        self.stage, self.norm, self.grid = step.stage, norm, board["grid"]
        self.field, self.mask, self.noise = board[FIELDS[step.stage]], board["mask"], board.get("noise")
        self.dipole = None if step.stage == "background" else Dipole(self.grid, padding=2).to(self.field)
        self.mean = None
        if step.stage != "inversion":
            radius = RADIUS * max(self.grid.voxel_size)
            ball = sphere(self.grid.voxel_size, radius)
            if any(wide > n for wide, n in zip(ball.shape, self.grid.shape, strict=True)):
                raise InputError(THIN)
            centre = tuple(n // 2 for n in ball.shape)
            self.gain = math.sqrt(float(ball.square().sum() - ball[centre].square() + (1 - ball[centre]).square()))
            self.mean = SMV(self.grid, radius).to(self.field)
        self._counted(self.mask)  # refuses what no run could tell a misfit of

    def __call__(self, given: Mapping[str, Tensor]) -> tuple[float, float]:
        """Return misfit and roughness of what a step gave."""
        mask = given.get("mask", self.mask)
        made = given["local_field"] if self.dipole is None else self.dipole(given["chi"])
        misfit = self._misfit(torch.where(mask, made - self.field, 0.0), mask)
        if self.dipole is None:
            inside = made[mask]
            return misfit, float(inside.abs().mean() if self.norm == 1 else inside.square().mean().sqrt())
        return misfit, self._slopes(given["chi"], mask)

    def _misfit(self, rest: Tensor, mask: Tensor) -> float:
        mask, scale = self._counted(mask), 1.0
        if self.mean is not None:  # take out what is harmonic
            rest = rest - self.mean(rest)
        if self.noise is not None:
            rest = rest / torch.where(mask, self.noise, 1.0)
            scale = 1.0 if self.mean is None else self.gain
        return float(rest[mask].double().square().mean().sqrt()) / scale

    def _counted(self, mask: Tensor) -> Tensor:
        """Return the voxels whose misfit counts: where the sphere fits into the mask, and the noise is known."""
        if self.mean is not None:
            mask = mask & (self.mean(mask.to(self.field)) > 1 - 1e-3)
            if not mask.any():
                raise InputError(THIN)
        if self.noise is not None:
            mask = mask & (self.noise > 0) & self.noise.isfinite()
            if not mask.any():
                raise InputError("the noise map is zero or not finite in all of the mask. Give another, or none.")
        return mask

    def _slopes(self, chi: Tensor, mask: Tensor) -> float:
        """Average the slopes between neighbours that are both in the mask: the step at its edge is no anatomy."""
        total, count = 0.0, 0
        for axis, size in enumerate(self.grid.voxel_size):
            n = chi.shape[axis]
            if n < 2:
                continue
            both = mask.narrow(axis, 0, n - 1) & mask.narrow(axis, 1, n - 1)
            slopes = (chi.diff(dim=axis)[both] / size).double()
            total += float(slopes.abs().sum() if self.norm == 1 else slopes.square().sum())
            count += len(slopes)
        mean = total / max(count, 1)
        return mean if self.norm == 1 else math.sqrt(mean)


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
