"""What a comparison is asked to exchange: protocols that differ in some of their methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from paradia.errors import InputError, UnknownMethodError, UnknownStageError, nearest
from paradia.pipeline.protocol import Protocol
from paradia.pipeline.step import Step
from paradia.registry import methods, stage

TO_CHI = ("background", "inversion", "singlestep")
"""Stages that one method of ``singlestep`` takes the place of."""

AFTER_CHI = ("reference", "separation", "contrast")
"""Stages that come after it."""


def variants(base: Protocol, choices: Sequence[str]) -> dict[str, Protocol]:
    """Exchange methods of a protocol, in all combinations.

    Parameters
    ----------
    base
        Where every other step and knob comes from.
    choices
        Each ``stage=method,method``; a method may have knobs after colons, as ``tv:weight=0.2``. What is said of a stage twice adds up.
        Methods of ``singlestep`` stand beside the combinations of the others, in the place of background removal and inversion.

    Returns
    -------
    dict
        Protocols by a name that says what is particular to them.

    Raises
    ------
    InputError
        A choice that is not of that form.
    UnknownNameError
        A stage, method or knob that is not there.
    """
    asked: dict[str, list[str]] = {}
    for choice in choices:
        name, words = choice_of(choice)
        asked.setdefault(name, []).extend(words)
    apart = asked.pop("singlestep", [])
    found: dict[str, Protocol] = {}
    for combination in product(*asked.values()) if asked else ():
        protocol = base
        for name, word in zip(asked, combination, strict=True):
            protocol = _exchanged(protocol, name, word)
        found[" + ".join(combination)] = protocol
    return found | {word: _single(base, word) for word in apart}


def choice_of(text: str) -> tuple[str, list[str]]:
    """Read ``stage=method,method``.

    Raises
    ------
    InputError, UnknownStageError
        It is not of that form, or no stage.
    """
    name, equals, words = text.partition("=")
    if not (equals and words.strip()):
        raise InputError(f"a choice is written stage=method,method, got {text!r}. For example: inversion=tv,rts")
    return stage(name.strip()).name, [word.strip() for word in words.split(",") if word.strip()]


def _exchanged(protocol: Protocol, name: str, word: str) -> Protocol:
    """Exchange one method, with its knobs; the same method keeps what the protocol says of it."""
    names = [step.stage for step in protocol.steps]
    if name not in names:
        raise UnknownStageError(f"the protocol {protocol.name} has no stage {name!r}. {nearest(name, [*names, 'singlestep'])}")
    old = protocol.steps[names.index(name)]
    method, *settings = word.split(":")
    method = method.replace("-", "_")
    new = old if method == old.method else _step(name, method)
    protocol = replace(protocol, steps=tuple(new if step is old else step for step in protocol.steps))
    return protocol.turned([f"{name}.{setting}" for setting in settings])


def _single(base: Protocol, word: str) -> Protocol:
    """Put a single-step method in the place of background removal and inversion."""
    method, *settings = word.split(":")
    step = _step("singlestep", method.replace("-", "_"))
    stages = [s.stage for s in base.steps]
    place = next((i for i, name in enumerate(stages) if name in TO_CHI), None)
    if place is None:
        place = next((i for i, name in enumerate(stages) if name in AFTER_CHI), len(stages))
    before, after = ([s for s in steps if s.stage not in TO_CHI] for steps in (base.steps[:place], base.steps[place:]))
    protocol = replace(base, steps=(*before, step, *after))
    return protocol.turned([f"singlestep.{setting}" for setting in settings])


def _step(name: str, method: str) -> Step:
    if method not in methods(name):
        raise UnknownMethodError(f"{name} has no method {method!r}. {nearest(method, methods(name))}")
    return Step(name, method)
