"""What a report is written from, apart from the maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from paradia.grid import Grid
from paradia.metrics.quality import Finding
from paradia.scan import Scan


class StepLike(Protocol):
    """A step that was run; whatever has these attributes will do."""

    @property
    def stage(self) -> str:
        """Name of the stage."""

    @property
    def method(self) -> str:
        """Name of the method."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Every knob with its value."""

    @property
    def cite(self) -> str:
        """DOI of the method; several are separated by spaces."""

    @property
    def seconds(self) -> float:
        """How long it took."""

    @property
    def cached(self) -> bool:
        """Whether an earlier run had done it."""

    @property
    def part(self) -> str:
        """Which of two passes it belongs to; empty where there is one."""

    @property
    def on(self) -> str:
        """Which images it worked on, where not the gradient echoes; empty otherwise."""


@dataclass(frozen=True)
class RunRecord:
    """Everything about a run that is not a map.

    Attributes
    ----------
    title
        Name of the subject or scan.
    grid, scan
        Geometry; echo times and field strength.
    spin_echo_scan
        Echo times of the spin echoes of the same head, where there are any.
    protocol
        Name of the protocol.
    steps
        What was run, in order.
    messages
        Notes from reading the data and warnings from the run, one sentence each.
    versions
        Version by name of what decides the numbers.
    command
        Command line that does it again.
    sources
        SHA-256 by file name.
    numbers
        What `paradia.metrics.quality.judge` found.
    """

    title: str
    grid: Grid
    scan: Scan
    protocol: str = ""
    steps: Sequence[StepLike] = ()
    messages: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)
    numbers: Sequence[Finding] = ()
    spin_echo_scan: Scan | None = None
