"""A step: a stage, a method and the knobs that were turned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from paradia.errors import InputError, UnknownKnobError, nearest
from paradia.registry import Method, load


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

    Raises
    ------
    UnknownStageError, UnknownMethodError, UnknownKnobError
        A name that nothing answers to.
    """

    stage: str
    method: str
    knobs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = self.loaded.knobs
        for name in self.knobs:
            if name not in known:
                raise UnknownKnobError(f"{self.method} has no knob {name!r}. {nearest(name, known)}")
        # TOML knows lists, signatures have tuples; one and the same setting must have one and the same key.
        frozen = {name: tuple(value) if isinstance(value, list) else value for name, value in self.knobs.items()}
        object.__setattr__(self, "knobs", frozen)

    @property
    def loaded(self) -> Method:
        """The method behind the name."""
        return load(self.stage, self.method)

    @property
    def settings(self) -> dict[str, Any]:
        """Every knob with the value it will have."""
        return {**self.loaded.knobs, **self.knobs}

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
            What the method gives, by name.

        Raises
        ------
        InputError
            The method needs data that are not there.
        """
        missing = [name for name in self.loaded.needs if name not in board]
        if missing:
            raise InputError(
                f"{self.stage} {self.method} needs {', '.join(missing)}, and no earlier step gives it. "
                f"There is: {', '.join(sorted(board))}."
            )
        data = {name: board[name] for name in self.loaded.takes if name in board}
        extra = {"callback": callback} if callback is not None and self.loaded.reports_progress else {}
        result = self.loaded.function(**data, **self.knobs, **extra)
        if hasattr(result, "_asdict"):
            return dict(result._asdict())
        return {self.loaded.gives[0]: result}
