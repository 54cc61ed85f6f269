"""A step: a stage, a method and the knobs that were turned."""

from __future__ import annotations

import inspect
import math
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from paradia.errors import InputError, UnknownKnobError, nearest
from paradia.pipeline.knobs import check_knob
from paradia.registry import Method, load

SCANS = ("spin_echo",)
"""Further scans of the same head that a board may hold."""

ITS_OWN = ("magnitude", "phase", "scan")
"""Data that every scan has of its own; all else lies on the grid of the first."""


@dataclass(frozen=True)
class Step:
    """A method with its knobs set; call it like the method itself.

    Parameters
    ----------
    stage
        Name of the stage.
    method
        Name of the method in the stage.
    knobs
        Knobs that differ from the method's defaults.
    on
        Another scan of the same head whose magnitude, phase and scan the method works on, such as ``spin_echo``: it is given
        ``spin_echo_magnitude`` as its ``magnitude``. Nothing is the scan that all began with.
    otherwise
        A method of the stage that does this where data are missing that the first needs.

    Raises
    ------
    UnknownStageError, UnknownMethodError, UnknownKnobError
        A name that nothing answers to.
    InputError
        A value of another kind than the knob's, or no such scan.
    """

    stage: str
    method: str
    knobs: Mapping[str, Any] = field(default_factory=dict)
    on: str = ""
    otherwise: str = ""

    def __post_init__(self) -> None:
        if self.on and self.on not in SCANS:
            raise InputError(f"{self.stage} {self.method} is to work on {self.on!r}, which is no scan. {nearest(self.on, SCANS)}")
        # TOML knows lists, signatures have tuples; one and the same setting must have one and the same key.
        frozen = {name: tuple(value) if isinstance(value, list) else value for name, value in self.knobs.items()}
        object.__setattr__(self, "knobs", frozen)
        methods = (self.loaded, *([load(self.stage, self.otherwise)] if self.otherwise else []))
        for name, value in frozen.items():
            owners = [method for method in methods if name in method.knobs]
            if not owners:
                known = {knob for method in methods for knob in method.knobs}
                raise UnknownKnobError(f"{self.method} has no knob {name!r}. {nearest(name, known)}")
            for method in owners:
                check_knob(method, name, value)

    @property
    def loaded(self) -> Method:
        """The method behind the name."""
        return load(self.stage, self.method)

    @property
    def settings(self) -> dict[str, Any]:
        """Every knob with the value it will have."""
        other = load(self.stage, self.otherwise).knobs if self.otherwise else {}
        return {**other, **self.loaded.knobs, **self.knobs}

    @property
    def told(self) -> dict[str, Any]:
        """The same for JSON, which has no number for infinity: it is the word that TOML has."""
        return {name: str(value) if isinstance(value, float) and math.isinf(value) else value for name, value in self.settings.items()}

    @property
    def takes(self) -> dict[str, str]:
        """Names of the data on the board by the names that the method has for them."""
        return {name: f"{self.on}_{name}" if self.on and name in ITS_OWN else name for name in self.loaded.takes}

    @property
    def needs(self) -> list[str]:
        """Names of the data on the board that it cannot do without."""
        return [self.takes[name] for name in self.loaded.needs]

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of the networks that the method, or the one that may take over, computes with."""
        methods = (self.loaded, *([load(self.stage, self.otherwise)] if self.otherwise else []))
        return tuple(dict.fromkeys(name for method in methods for name in networks_of(method)))

    def fitting(self, there: Container[str]) -> Step:
        """Return the step as it is done with these data: its own method, or the other one where something is missing."""
        if self.otherwise and any(name not in there for name in self.needs):
            return self.alternative
        return replace(self, otherwise="", knobs={k: v for k, v in self.knobs.items() if k in self.loaded.knobs})

    @property
    def alternative(self) -> Step:
        """The same step by the other method, with those of its knobs that this one has too."""
        known = load(self.stage, self.otherwise).knobs
        return replace(self, method=self.otherwise, otherwise="", knobs={k: v for k, v in self.knobs.items() if k in known})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the method."""
        return self.loaded.function(*args, **{**self.knobs, **kwargs})

    def run(self, board: Mapping[str, Any], callback: Any = None) -> dict[str, Any]:
        """Run the method on data bound by name.

        Parameters
        ----------
        board
            Data by name: ``phase``, ``magnitude``, ``mask``, ``grid``, ``scan``, ``total_field`` and so on.
        callback
            Progress, for methods that report it.

        Returns
        -------
        dict
            What the method gives, by name; what it leaves out of it is not there.

        Raises
        ------
        InputError
            The method needs data that are not there.
        """
        missing = [name for name in self.needs if name not in board]
        if missing:
            raise InputError(
                f"{self.stage} {self.method} needs {', '.join(missing)}, and no earlier step gives it. "
                f"There is: {', '.join(sorted(board))}."
            )
        data = {name: board[place] for name, place in self.takes.items() if place in board}
        extra = {"callback": callback} if callback is not None and self.loaded.reports_progress else {}
        result = self.loaded.function(**data, **self.knobs, **extra)
        if hasattr(result, "_asdict"):
            return {name: value for name, value in result._asdict().items() if value is not None}
        return {self.loaded.gives[0]: result}


def networks_of(method: Method) -> tuple[str, ...]:
    """Return the names of the networks that a method computes with: ``WEIGHTS`` of its file."""
    return tuple(getattr(inspect.getmodule(inspect.unwrap(method.function)), "WEIGHTS", ()))
