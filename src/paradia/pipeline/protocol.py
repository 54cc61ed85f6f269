"""A protocol: the steps of a run, read from TOML and written to JSON.

::

    description = "What it is for."

    [unwrap]
    method = "romeo"
    template = 2

One table a stage, in the order in which they run; every other key of a table is a knob. Several tables of one stage are
written ``[[relaxometry]]`` and run one after the other. ``on = "spin_echo"`` in a table has its method work on the spin
echoes of the same head, ``otherwise`` names the method that takes over where data are missing. With ``two_pass = true`` at
the top, background and inversion are done for the reliable voxels first and then for all (`paradia.pipeline.twopass`).
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from paradia.errors import FileError, InputError, UnknownMethodError, UnknownProtocolError, nearest
from paradia.pipeline.step import Step
from paradia.registry import STAGES

DEFAULT = "consensus"

RESERVED = ("method", "on", "otherwise")
"""Keys of a table that are no knobs."""


@dataclass(frozen=True)
class Protocol:
    """A row of steps with a name and a purpose."""

    name: str
    description: str
    steps: tuple[Step, ...]
    two_pass: bool = False
    """Whether background and inversion are done for the reliable voxels first and then for all."""

    @classmethod
    def load(cls, name: str) -> Protocol:
        """Read a protocol that ships with Paradia, or a TOML file.

        Raises
        ------
        UnknownProtocolError
            No such protocol, or a table that is no stage.
        UnknownMethodError, UnknownKnobError
            A step that nothing answers to.
        FileError
            The file cannot be read as TOML.
        """
        if name in protocol_names():
            text = (files("paradia.pipeline") / "protocols" / f"{name}.toml").read_text(encoding="utf-8")
            return cls.parse(text, name)
        path = Path(name)
        if not path.suffix and not path.exists():
            raise UnknownProtocolError(
                f"there is no protocol {name!r}. {nearest(name, protocol_names())} A file is given with its suffix .toml."
            )
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise FileError(f"cannot read the protocol {path}: {error.strerror or error}. Check the path.") from error
        except UnicodeDecodeError as error:
            raise FileError(f"the protocol {path} is no text in UTF-8. Give a TOML file.") from error
        return cls.parse(text, path.stem)

    @classmethod
    def parse(cls, text: str, name: str) -> Protocol:
        """Read a protocol from TOML text."""
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise FileError(f"the protocol {name} is not valid TOML: {error}. Mend that line.") from error
        description = str(table.pop("description", ""))
        two_pass = table.pop("two_pass", False)
        if not isinstance(two_pass, bool):
            raise InputError(f"two_pass in the protocol {name} must be true or false, got {two_pass!r}.")
        steps = []
        for key, value in table.items():
            tables = value if isinstance(value, list) and value else [value]
            for knobs in tables:
                if key not in STAGES or not isinstance(knobs, dict):
                    raise UnknownProtocolError(f"{key!r} in the protocol {name} is no stage. {nearest(key, STAGES)}")
                if not isinstance(knobs.get("method"), str):
                    raise UnknownProtocolError(f'[{key}] in the protocol {name} names no method. Add a line: method = "…"')
                told = {word: str(knobs.get(word, "")) for word in ("on", "otherwise")}
                steps.append(Step(key, knobs["method"], {k: v for k, v in knobs.items() if k not in RESERVED}, **told))
        return cls(name, description, tuple(steps), two_pass)

    def turned(self, settings: Iterable[str]) -> Protocol:
        """Return the protocol with knobs turned, each given as ``stage.knob=value`` or ``stage.method=name``.

        Of several tables of a stage the first that has the knob is meant; ``stage.method.knob=value`` names another. Methods are exchanged
        first, wherever that is said, so that knobs are those of the new ones.

        Raises
        ------
        InputError
            A setting that is not of that form.
        UnknownProtocolError, UnknownMethodError, UnknownKnobError
            A stage, a method or a knob that the protocol does not have.
        """
        protocol = self
        for setting in sorted(settings, key=lambda setting: not setting.partition("=")[0].rstrip().endswith(".method")):
            target, equals, value = setting.partition("=")
            stage, dot, knob = target.partition(".")
            if not (equals and dot and knob):
                raise InputError(f"a setting is written stage.knob=value, got {setting!r}. For example: inversion.weight=0.2")
            protocol = protocol._turn(stage.strip(), knob.strip(), _value(value.strip()))
        return protocol

    def _turn(self, stage: str, knob: str, value: Any) -> Protocol:
        steps = [step for step in self.steps if step.stage == stage]
        if not steps:
            raise UnknownProtocolError(f"the protocol {self.name} has no stage {stage!r}. {nearest(stage, [s.stage for s in self.steps])}")
        method, dot, rest = knob.partition(".")
        if dot:  # stage.method.knob, where a stage has several tables
            there = [name for step in steps for name in (step.method, step.otherwise) if name]
            if method not in there:
                raise UnknownMethodError(f"{stage} in the protocol {self.name} is not by {method!r}. {nearest(method, there)}")
            steps, knob = [step for step in steps if method in (step.method, step.otherwise)], rest
        old = next((step for step in steps if knob in step.settings), steps[0])
        new = Step(stage, str(value), on=old.on) if knob == "method" else replace(old, knobs={**old.knobs, knob: value})
        return replace(self, steps=tuple(new if step is old else step for step in self.steps))

    def without(self, stages: Sequence[str]) -> Protocol:
        """Return the protocol less some stages, for data that are given or cannot be had."""
        return replace(self, steps=tuple(step for step in self.steps if step.stage not in stages))

    def record(self) -> dict[str, Any]:
        """Return every step with every setting, ready for JSON."""
        steps = [
            {"stage": s.stage, "method": s.method, "settings": s.told, "cite": s.loaded.cite}
            | {word: getattr(s, word) for word in ("on", "otherwise") if getattr(s, word)}
            for s in self.steps
        ]
        return {"name": self.name, "description": self.description, "two_pass": self.two_pass, "steps": steps}

    def toml(self) -> str:
        """Return the protocol as TOML with every knob written out; it reads back to the same steps."""
        lines = [f"description = {toml_value(self.description)}", *(["two_pass = true"] if self.two_pass else [])]
        for step in self.steps:
            one = sum(other.stage == step.stage for other in self.steps) == 1
            lines += ["", f"[{step.stage}]" if one else f"[[{step.stage}]]", f"method = {toml_value(step.method)}"]
            lines += [f"{word} = {toml_value(getattr(step, word))}" for word in ("on", "otherwise") if getattr(step, word)]
            lines += [f"{knob} = {toml_value(value)}" for knob, value in step.settings.items() if value is not None]
        return "\n".join(lines) + "\n"


def protocol_names() -> list[str]:
    """List the protocols that ship with Paradia."""
    folder = files("paradia.pipeline") / "protocols"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def _value(text: str) -> Any:
    """Read a value as TOML would, numbers that begin or end with the point too, and a bare word as itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return float(text) if re.fullmatch(r"[+-]?(\d+\.|\.\d+)([eE][+-]?\d+)?", text) else text


def toml_value(value: Any) -> str:
    """Write a setting as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return json.dumps(str(value), ensure_ascii=False)  # a basic string of TOML is escaped as one of JSON
