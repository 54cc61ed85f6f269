"""Run a protocol on one acquisition, step by step, taking up what an earlier run has done."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from paradia.errors import InputError, MaskError, NonFiniteError
from paradia.pipeline import twopass
from paradia.pipeline.protocol import Protocol
from paradia.pipeline.step import Step
from paradia.pipeline.store import Store, digest, step_key
from paradia.registry import STAGES

log = logging.getLogger(__name__)

Progress = Callable[[Step, str, float], None]
"""Called as ``progress(step, state, value)``: "start", "iterate" with the relative change, "done" with the seconds, "kept", "skipped"."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What one step was and how it went; plain values, ready for JSON."""

    stage: str
    method: str
    settings: dict[str, Any]
    cite: str
    gives: tuple[str, ...]
    seconds: float
    cached: bool = False
    part: str = ""
    """Which of two passes it belongs to."""
    on: str = ""
    """Which further scan of the head it worked on."""


@dataclass(slots=True)
class Outcome:
    """What a run gave.

    Attributes
    ----------
    maps
        Every result by name; ``mask`` is the mask of the mask stage, ``local_mask`` where the local field holds. After two
        passes the local field is that of all voxels.
    steps
        One record a step, in order.
    messages
        What was left out or warned of, in plain sentences.
    """

    maps: dict[str, Any] = field(default_factory=dict)
    steps: list[StepRecord] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


def execute(
    protocol: Protocol,
    board: Mapping[str, Any],
    store: Store | None = None,
    *,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Outcome:
    """Run the steps of a protocol.

    Parameters
    ----------
    protocol
        The steps. Those of the mask stage are left out when the board holds a ``mask``.
    board
        The data: ``phase`` and ``magnitude`` (echo, x, y, z), ``grid``, ``scan``; a ``mask`` or a ``region`` where given; and
        ``invalid``, voxels whose values the files did not hold, which a given mask may not contain and a found one loses.
    store
        Where results are kept and looked for; nothing is kept without one.
    device
        Where to compute.
    progress
        Told of every step.

    Raises
    ------
    InputError
        A step cannot work on these data.
    """
    device = torch.device(device)
    data = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in board.items()}
    invalid = data.pop("invalid", None)
    outcome = Outcome(maps={"mask": data["mask"]} if "mask" in data else {})
    if "mask" in data:
        protocol = protocol.without(["mask"])
        check_mask(data, invalid)
    run = _Run(data, {name: digest(value) for name, value in data.items()}, outcome, store, device, progress or _silent, invalid)
    if protocol.two_pass:
        run.twice(protocol)
    else:
        run.all(protocol.steps)
    return outcome


@dataclass(slots=True)
class _Run:
    """The data of a run as it goes on, and where its results go."""

    data: dict[str, Any]
    digests: dict[str, str]
    outcome: Outcome
    store: Store | None
    device: torch.device
    progress: Progress
    invalid: Tensor | None

    def all(self, steps: Iterable[Step], part: str = "") -> None:
        """Do steps one after the other."""
        for step in steps:
            self._do(step, part)

    def twice(self, protocol: Protocol) -> None:
        """Do what comes before, then background and inversion for the reliable and for all voxels, then the rest."""
        places = [place for place, step in enumerate(protocol.steps) if step.stage in twopass.TWICE]
        if not places:
            raise InputError("two passes need an inversion or a single step to do twice. Run without two_pass.")
        repeated = [step for step in protocol.steps if step.stage in twopass.TWICE]
        self.all(protocol.steps[: places[0]])
        if "noise" not in self.data:
            raise InputError("two passes go by the noise of the field, which no step gives. Add a fieldmap stage, or run without two_pass.")
        start = time.perf_counter()
        mask = twopass.reliable(self.data["mask"], self.data["noise"])
        left_out = int((self.data["mask"] & ~mask).sum())
        self._note("reliable", {"limit": twopass.LIMIT}, ("mask",), start)
        self.outcome.messages.append(
            f"Two passes: the first left {left_out} voxels out, {100 * left_out / int(self.data['mask'].sum()):.2g} % of the mask, "
            f"whose field is noisier than {twopass.LIMIT:g} times the median."
        )
        first = replace(self, data=self.data | {"mask": mask}, digests=self.digests | {"mask": digest(mask)}, outcome=Outcome())
        first.all(repeated, twopass.FIRST)
        self.outcome.steps += first.outcome.steps
        self.outcome.messages += [f"first pass, {message}" for message in first.outcome.messages]
        self.all(repeated, twopass.SECOND)
        start = time.perf_counter()
        chi = twopass.combine(first.data["chi"], first.data["mask"], self.data["chi"], self.data["mask"])
        self._note("combine", {}, ("chi",), start)
        self.data["chi"] = self.outcome.maps["chi"] = chi
        self.digests["chi"] = digest(chi)
        self.all([step for step in protocol.steps[places[0] :] if step.stage not in twopass.TWICE])

    def _note(self, method: str, settings: dict[str, Any], gives: tuple[str, ...], start: float) -> None:
        """Record what is done between the passes."""
        record = StepRecord(twopass.STAGE, method, settings, twopass.CITE, gives, time.perf_counter() - start)
        self.outcome.steps.append(record)

    def _do(self, step: Step, part: str) -> None:
        data, outcome = self.data, self.outcome
        wanted, step = step, step.fitting(data)
        missing = [name for name in step.needs if name not in data]
        if missing and STAGES[step.stage].optional:
            spins = all(name.startswith("spin_echo") for name in missing)
            why = "there are no spin echoes" if spins else f"it needs {', '.join(missing)}, and no earlier step gave it"
            outcome.messages.append(f"{step.stage} {step.method} was left out: {why}.")
            self.progress(step, "skipped", 0.0)
            return
        if step.method != wanted.method:
            absent = " and no ".join(name for name in wanted.needs if name not in data)
            outcome.messages.append(f"{step.stage} by {step.method} instead of {wanted.method}: there is no {absent}.")
        try:
            given, record, key = _one(step, data, self.digests, self.store, self.device, self.progress, outcome.messages)
        except InputError as error:
            if not STAGES[step.stage].optional:
                raise
            outcome.messages.append(f"{step.stage} {step.method} was left out: {error}")
            self.progress(step, "skipped", 0.0)
            return
        if step.stage == "mask" and self.invalid is not None and (given["mask"] & self.invalid).any():
            outcome.messages.append(f"{int((given['mask'] & self.invalid).sum())} voxels that hold NaN or Inf were taken out of the mask.")
            given["mask"] = given["mask"] & ~self.invalid
        data |= given
        self.digests |= {name: f"{key}/{name}" for name in given}
        outcome.steps.append(replace(record, part=part))
        outcome.maps |= {("local_mask" if name == "mask" and step.stage != "mask" else name): value for name, value in given.items()}
        if step.stage == "mask":
            check_mask(data)
            self.digests["mask"] = digest(data["mask"])


def _one(
    step: Step,
    data: Mapping[str, Any],
    digests: Mapping[str, str],
    store: Store | None,
    device: torch.device,
    progress: Progress,
    messages: list[str],
) -> tuple[dict[str, Any], StepRecord, str]:
    """Take a step's result from the store, or make it and keep it."""
    key = step_key(step, {name: digests[place] for name, place in step.takes.items() if place in digests}, device)
    kept = store.load(key, device) if store else None
    recalled = None if kept is None else _recalled(kept[1])
    if kept is not None and recalled is not None:
        record, said = recalled
        messages += said
        progress(step, "kept", record.seconds)
        return kept[0], record, key
    progress(step, "start", 0.0)
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        given = step.run(data, lambda _, change: progress(step, "iterate", change))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    said = [f"{step.stage} {step.method}: {warning.message}" for warning in caught]
    for sentence in said:
        log.warning(sentence)
    messages += said
    record = StepRecord(step.stage, step.method, step.told, step.loaded.cite, tuple(given), seconds, on=step.on)
    if store:
        store.save(key, given, {"messages": said, "step": asdict(record)})
    progress(step, "done", seconds)
    return given, record, key


def _recalled(saved: Mapping[str, Any]) -> tuple[StepRecord, list[str]] | None:
    """Return the record of a kept result and what was warned of; nothing where another version wrote it otherwise."""
    try:
        return StepRecord(**{**saved["step"], "gives": tuple(saved["step"]["gives"]), "cached": True}), list(saved["messages"])
    except (KeyError, TypeError):
        return None


def check_mask(data: Mapping[str, Any], invalid: Tensor | None = None) -> None:
    """Refuse a mask that is empty, of another shape, or over voxels without numbers."""
    mask, grid = data["mask"], data["grid"]
    if tuple(mask.shape) != grid.shape:
        raise MaskError(f"the mask has shape {tuple(mask.shape)}, the images {grid.shape}. Resample the mask to the images.")
    if not mask.any():
        raise MaskError("the mask is empty: no voxel is inside. Give another mask or another method for the mask stage.")
    unknown = torch.zeros_like(mask) if invalid is None else invalid
    for name in ("phase", "magnitude"):
        if name in data:
            unknown = unknown | ~torch.isfinite(data[name]).all(0)
    broken = int((unknown & mask).sum())
    if broken:
        raise NonFiniteError(
            f"an image holds NaN or Inf in {broken} of the {int(mask.sum())} voxels of the mask. "
            "Leave those out of the mask, or repair the images."
        )


def _silent(step: Step, state: str, value: float) -> None:
    """Tell nobody."""
