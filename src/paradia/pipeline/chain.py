"""A row of steps between two kinds of data, written in one word: ``romeo+nonlinear``, ``pdf+tv``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from paradia.errors import InputError, UnknownKnobError, UnknownMethodError, nearest
from paradia.pipeline.protocol import DEFAULT, Protocol, protocol_names
from paradia.pipeline.step import Step
from paradia.registry import load, methods, stage

SINGLE = ("background", "inversion")
"""Stages that one of ``singlestep`` takes the place of."""


def chain(name: str, text: str, stages: Sequence[str]) -> Protocol:
    """Build the steps of some stages from the names of their methods.

    Parameters
    ----------
    name
        What the row is called.
    text
        Names of methods with plus signs between, in order; or a protocol, of which those stages are taken, its reference too
        where there is χ.
    stages
        Stages in order. One that ``text`` leaves out has the method of the default protocol.

    Raises
    ------
    UnknownMethodError
        No stage has such a method, or not at that place.
    """
    if text in protocol_names() or text.endswith(".toml"):
        return _of_protocol(name, text, stages)
    chosen: dict[str, str] = {}
    rest = [*stages, *(["singlestep"] if set(SINGLE) <= set(stages) else [])]
    for word in text.split("+"):
        method = word.strip().replace("-", "_")
        fitting = [s for s in rest if method in methods(s)]
        if not fitting:
            known = [m for s in rest for m in methods(s)]
            raise UnknownMethodError(f"there is no method {word.strip()!r} for {name} at that place. {nearest(method, known)}")
        chosen[fitting[0]] = method
        rest = rest[rest.index(fitting[0]) + 1 :]
    if "singlestep" in chosen:
        if set(SINGLE) & set(chosen):
            raise UnknownMethodError(
                f"{chosen['singlestep']} goes from the total field to χ, so that {text!r} does one thing twice. Leave one out."
            )
        stages = [*(s for s in stages if s not in SINGLE), "singlestep"]
    usual = {step.stage: step for step in Protocol.load(DEFAULT).steps}
    if lacking := [s for s in stages if s not in chosen and s not in usual]:
        raise UnknownMethodError(f"{text!r} names no method of {lacking[0]} for {name}. {nearest(text, methods(lacking[0]))}")
    steps = [Step(s, chosen[s]) if s in chosen else usual[s] for s in stages]
    if len(stages) == 1 and "r2star" in steps[0].needs:  # R2′ from the echoes themselves
        steps.insert(0, usual["relaxometry"])
        return Protocol(text, "", tuple(steps))
    return Protocol(text, "", tuple(_asked(steps, chosen)))


def alone(name: str, method: str) -> Protocol:
    """Build the steps that make a single method of a stage useful: an unwrapped phase before a fit, a fit after unwrapping.

    Raises
    ------
    UnknownStageError, UnknownMethodError
        No such stage or method.
    """
    method = method.replace("-", "_")
    steps = [Step(stage(name).name, method)]
    usual = {step.stage: step for step in Protocol.load(DEFAULT).steps}
    if "unwrapped" in load(name, method).needs:
        steps.insert(0, usual["unwrap"])
    if name == "unwrap":
        steps.append(usual["fieldmap"])
    return Protocol(f"{name} {method}", "", tuple(steps))


def reads(protocol: Protocol) -> tuple[list[str], list[str]]:
    """Return the names of the data that the steps need from outside, and of those that they would use as well."""
    there: set[str] = set()
    needs: list[str] = []
    uses: list[str] = []
    for step in protocol.steps:
        needs += [name for name in step.needs if name not in {*there, *needs}]
        uses += [name for name in step.takes.values() if name not in {*there, *uses}]
        there |= set(step.loaded.gives)
    return needs, [name for name in uses if name not in needs]


def with_knobs(protocol: Protocol, knobs: Mapping[str, Any]) -> Protocol:
    """Turn knobs, each named alone, or as ``stage.knob`` where several steps have one of that name.

    Raises
    ------
    UnknownKnobError
        No step has such a knob.
    InputError
        Several have.
    """
    turned = [dict(step.knobs) for step in protocol.steps]
    for name, value in knobs.items():
        place, _, knob = name.rpartition(".")
        owners = [n for n, step in enumerate(protocol.steps) if knob in step.settings and place in ("", step.stage)]
        if not owners:
            known = {k for step in protocol.steps for k in step.settings}
            raise UnknownKnobError(f"{protocol.name} has no knob {name!r}. {nearest(knob, known)}")
        if len(owners) > 1:
            first, second, *_ = (protocol.steps[n].stage for n in owners)
            raise InputError(f"{first} and {second} both have a knob {knob!r}. Write {first}.{knob} or {second}.{knob}.")
        turned[owners[0]][knob] = value
    return replace(protocol, steps=tuple(replace(step, knobs=given) for step, given in zip(protocol.steps, turned, strict=True)))


def _asked(steps: Sequence[Step], chosen: Mapping[str, str]) -> list[Step]:
    """Leave out what was filled in but nothing later asks for; a method that begins with the wrapped phase needs no unwrapping."""
    kept = [steps[-1]]
    for step in reversed(steps[:-1]):
        wanted = {name for later in kept for name in later.loaded.takes}
        if step.stage in chosen or wanted & set(step.loaded.gives) - {"mask"}:
            kept.insert(0, step)
    return kept


def _of_protocol(name: str, text: str, stages: Sequence[str]) -> Protocol:
    whole = Protocol.load(text)
    has = {step.stage for step in whole.steps}
    single = set(SINGLE) <= set(stages) and "singlestep" in has
    wanted = {s for s in stages if not (single and s in SINGLE)} | ({"singlestep"} if single else set())
    if missing := sorted(wanted - has):
        raise InputError(f"the protocol {whole.name} has no {' and no '.join(missing)}, which {name} needs. Take another protocol.")
    if wanted & {"inversion", "singlestep"}:
        wanted.add("reference")
    return Protocol(whole.name, whole.description, tuple(step for step in whole.steps if step.stage in wanted))
