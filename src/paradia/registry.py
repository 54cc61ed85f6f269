"""Which stages and methods exist, found without importing any of them.

A method is a file: ``inversion/tkd.py`` that holds ``def tkd(...)`` and ``CITE``. Positional parameters of the function
are data, bound by name; keyword-only parameters are knobs. Another package adds methods through entry points of the
group ``paradia.<stage>``.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from paradia.errors import UnknownMethodError, UnknownStageError, nearest


@dataclass(frozen=True, slots=True)
class Stage:
    """A kind of step: what it does and the names of the data that its methods usually give.

    A run goes on without an optional stage when the data do not allow it, and says so.
    """

    name: str
    summary: str
    gives: tuple[str, ...]
    optional: bool = False


STAGES: Mapping[str, Stage] = MappingProxyType(
    {
        stage.name: stage
        for stage in (
            Stage("combine", "Bring the images of several coils together.", ("magnitude", "phase")),
            Stage("mask", "Find the voxels that count.", ("mask",)),
            Stage("unwrap", "Take the 2π jumps out of the phase.", ("unwrapped",)),
            Stage(
                "fieldmap", "Fit the total field, its noise and the phase offset to the echoes.", ("total_field", "noise", "offset", "mask")
            ),
            Stage("relaxometry", "Fit relaxation rates to the magnitudes.", ("r2star", "r2star_noise"), optional=True),
            Stage("background", "Remove the field of sources outside the mask.", ("local_field", "mask")),
            Stage("inversion", "Turn the local field into susceptibility.", ("chi",)),
            Stage("singlestep", "Turn the total field into susceptibility in one step.", ("chi",)),
            Stage("reference", "Set the zero of susceptibility.", ("chi",)),
            Stage("separation", "Tell para- and diamagnetic susceptibility apart.", ("chi_pos", "chi_neg"), optional=True),
            Stage("contrast", "Weight the magnitude by phase, so that veins and iron stand out.", ("swi", "minip"), optional=True),
        )
    }
)
"""Stages in the order of the data."""


@dataclass(frozen=True)
class Method:
    """A loaded method: its function, what it needs and what can be set."""

    stage: str
    name: str
    function: Callable[..., Any]
    cite: str

    @property
    def parameters(self) -> list[inspect.Parameter]:
        """Parameters in order, annotations left as written."""
        return list(inspect.signature(self.function).parameters.values())

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the data it cannot do without."""
        return tuple(p.name for p in self.parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty)

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of all data it uses when they are there."""
        return tuple(p.name for p in self.parameters if p.kind is p.POSITIONAL_OR_KEYWORD)

    @property
    def gives(self) -> tuple[str, ...]:
        """Names of the data it gives: the fields of the tuple that it promises, else what its stage usually gives."""
        function = inspect.unwrap(self.function)
        promised = inspect.get_annotations(function).get("return")
        if isinstance(promised, str):
            promised = function.__globals__.get(promised)
        return tuple(getattr(promised, "_fields", STAGES[self.stage].gives))

    @property
    def knobs(self) -> dict[str, Any]:
        """What can be set, with its default."""
        return {p.name: p.default for p in self.parameters if p.kind is p.KEYWORD_ONLY and p.name != "callback"}

    @property
    def reports_progress(self) -> bool:
        """Whether it takes a `callback`."""
        return any(p.name == "callback" for p in self.parameters)

    @property
    def summary(self) -> str:
        """First line of its docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


def stage(name: str) -> Stage:
    """Return a stage by name.

    Raises
    ------
    UnknownStageError
        No such stage.
    """
    if name not in STAGES:
        raise UnknownStageError(f"there is no stage {name!r}. {nearest(name, STAGES)}")
    return STAGES[name]


@cache
def methods(stage_name: str) -> tuple[str, ...]:
    """List the methods of a stage, by file name and entry point, without importing any.

    Raises
    ------
    UnknownStageError
        No such stage.
    """
    folder = Path(__file__).parent / stage(stage_name).name
    own = [m.name for m in pkgutil.iter_modules([str(folder)]) if not m.name.startswith("_")]
    plugins = [point.name for point in entry_points(group=f"paradia.{stage_name}")]
    return tuple(sorted({*own, *plugins}))


@cache
def description(stage_name: str, name: str) -> str:
    """Return what a method's docstring says before its parameters by reading its file, not importing it; whose it is of a plugin."""
    path = Path(__file__).parent / stage_name / f"{name}.py"
    if path.is_file():
        return said_of(path, name)
    packages = {point.dist.name for point in entry_points(group=f"paradia.{stage_name}", name=name) if point.dist}
    return f"From the package {' or '.join(sorted(packages))}." if packages else ""


def summary(stage_name: str, name: str) -> str:
    """Return the first line of `description`."""
    return description(stage_name, name).partition("\n")[0]


def said_of(path: Path, name: str) -> str:
    """Return what the docstring of a function says before its parameters by reading its file, not importing it."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\nParameters\n---")[0].strip()
    return ""


@cache
def load(stage_name: str, name: str) -> Method:
    """Import a method.

    Raises
    ------
    UnknownStageError, UnknownMethodError
        No such stage, or no such method in it.
    """
    if name not in methods(stage_name):
        raise UnknownMethodError(f"{stage_name} has no method {name!r}. {nearest(name, methods(stage_name))}")
    module, function = _import(stage_name, name)
    return Method(stage_name, name, function, getattr(module, "CITE", ""))


def _import(stage_name: str, name: str) -> tuple[ModuleType, Callable[..., Any]]:
    for point in entry_points(group=f"paradia.{stage_name}", name=name):
        function = point.load()
        return importlib.import_module(function.__module__), function
    module = importlib.import_module(f"paradia.{stage_name}.{name}")
    return module, getattr(module, name)
