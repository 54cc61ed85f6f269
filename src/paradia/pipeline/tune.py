r"""Choose a regularisation weight on the data themselves, by the L-curve and by the discrepancy principle.

A sweep runs a method with one knob at a row of values and records of each result how far it is from the data and how
rough it is. Against each other, on logarithmic axes, the two make an L: along its upright arm more regularisation takes
away noise and costs little, along its foot it takes away anatomy. The rules that read a value from it are in
`paradia.pipeline.rules`.

The misfit of an inversion is that of its field, :math:`W M (D\chi - f)`. Where background is still in the data, in single
steps and background removal, it is taken through :math:`\delta - S` with the mean :math:`S` over a small sphere, to which
background is nothing because its field is harmonic.
"""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from paradia.errors import InputError, UnknownKnobError, nearest
from paradia.operators.dipole import Dipole
from paradia.operators.smv import SMV, sphere
from paradia.operators.weighting import known_noise
from paradia.pipeline.protocol import toml_value
from paradia.pipeline.rules import Choice, Curve, Sample, judge
from paradia.pipeline.step import Step

FIELDS = {"background": "total_field", "inversion": "local_field", "singlestep": "total_field"}
"""Stages that can be tuned, and the field that their results have to explain."""

LEAST = 5
"""Values that a curve needs."""

SAME = 0.03
"""Values this near to each other, as a share, count as one."""

RADIUS = 2.5
"""Radius of the sphere that background is nothing to, in edges of the largest side of a voxel."""

THIN = (
    f"the mask is nowhere as thick as a sphere of {RADIUS:g} voxels' radius, through which the misfit is taken. Tune an inversion instead."
)


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
        Where to sweep it, positive; at least five. Those that the method refuses, beyond the range of the knob, are left out.
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
    refused: dict[float, InputError] = {}
    samples: list[Sample] = []
    sweep: list[Sample] = []
    waiting, total = sorted({float(v) for v in values}), len({float(v) for v in values})
    measure = _Measure(step, board, norm)
    for turn in range(refine + 1):
        for value in waiting:
            if progress:
                progress(len(samples), total, value)
            try:
                samples.append(_run(step, board, knob, value, measure, keep, told))
            except InputError as error:
                refused[value] = error
        _check_left(samples, refused)
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
    if refused:
        beyond = ", ".join(f"{value:.3g}" for value in sorted(refused))
        messages += (f"{step.method} does not take {knob} = {beyond}, which was left out of the sweep: {next(iter(refused.values()))}",)
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


def _check_left(samples: Sequence[Sample], refused: Mapping[float, InputError]) -> None:
    """Raise what a method refused values with, where too few are left for a curve."""
    if not refused or len(samples) >= LEAST:
        return
    error = next(iter(refused.values()))
    if not samples:
        raise error
    raise InputError(
        f"only {len(samples)} of {len(samples) + len(refused)} values can be run, and a curve needs {LEAST}. {error}"
    ) from error


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
            mask = known_noise(self.noise, mask)
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
