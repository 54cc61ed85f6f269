"""What was asked for, checked before anything is computed or written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from paradia.errors import InputError, WeightsError
from paradia.nets.store import cards
from paradia.pipeline.protocol import Protocol
from paradia.pipeline.step import Step
from paradia.registry import STAGES

GIVEN = ("magnitude", "phase", "grid", "scan")
"""Data that every run begins with."""

WITHOUT = {"separation": "separation-classical", "learned": "consensus"}
"""Protocols that do without networks what others do with them."""


def plan(protocol: str, settings: Iterable[str] | None, *, masked: bool = False, region: bool = False, two_pass: bool = False) -> Protocol:
    """Read a protocol, turn knobs, and check that its steps can follow each other.

    Parameters
    ----------
    protocol
        Name or file.
    settings
        Knobs to turn, each as ``stage.knob=value``.
    masked
        The user gives a mask.
    region
        The user gives the region that is to be zero; it replaces what the protocol would reference to.
    two_pass
        Background and inversion are wanted for the reliable voxels first and then for all, whatever the protocol says.

    Raises
    ------
    UnknownNameError, FileError
        As `Protocol.load` says.
    InputError
        A step that needs what no earlier step gives, or a region for a protocol without χ.
    WeightsError
        A network has no weights in this installation; the message names a protocol that needs none.
    """
    chosen = Protocol.load(protocol).turned(settings or ())
    if region:
        chosen = replace(chosen, steps=(*chosen.without(["reference"]).steps, Step("reference", "region")))
    chosen = replace(chosen, two_pass=chosen.two_pass or two_pass)
    if not chosen.steps:
        raise InputError(f"the protocol {chosen.name} has no steps. See paradia protocol show for one that has.")
    check_weights(chosen)
    there = {*GIVEN, *(["mask"] if masked else []), *(["region"] if region else [])}
    for step in chosen.without(["mask"] if masked else []).steps:
        missing = [name for name in step.fitting(there).needs if name not in there]
        if "region" in missing:
            raise InputError(
                f"{step.stage} {step.method} in the protocol {chosen.name} needs region. Give it with --region (run: --regions)."
            )
        if missing and not STAGES[step.stage].optional:
            raise InputError(
                f"{step.stage} {step.method} in the protocol {chosen.name} needs {', '.join(missing)}, which no earlier step gives. "
                "Add the stage that does before it, or take another method."
            )
        there |= set(step.loaded.gives)
    if chosen.two_pass and not {"noise", "chi"} <= there:
        raise InputError(
            f"two passes need the noise of the field and an inversion to do twice, and the protocol {chosen.name} has no stage that gives "
            f"{' and '.join(sorted({'noise', 'chi'} - there))}. Add it, or run without two_pass."
        )
    return chosen


def check_weights(protocol: Protocol) -> None:
    """Check that every network of a protocol has its weights, before anything is computed.

    Raises
    ------
    WeightsError
        Weights that this installation does not have.
    """
    known = cards()
    for step in protocol.steps:
        missing = [name for name in step.networks if name not in known]
        if missing:
            other = WITHOUT.get(protocol.name)
            kind = "networks" if len(missing) > 1 else "network"
            way = f"Take --protocol {other}, which needs no network." if other else "Take a method without a network."
            raise WeightsError(
                f"{step.stage} {step.method} in the protocol {protocol.name} asks the {kind} {' and '.join(missing)}, whose weights are "
                f"not in this installation of Paradia: they have not been released with it. {way}"
            )


def pick_device(name: str) -> str:
    """Turn ``auto`` into the best device there is, and check any other.

    Raises
    ------
    InputError
        A device that is not known or not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InputError(f"there is no device {name!r}. Give cpu, cuda, cuda:1 or auto.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"the device {name} was asked for, but no CUDA device can be used here. Give --device cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"there is no device {name}; the last is cuda:{torch.cuda.device_count() - 1}. Give another.")
    return name
