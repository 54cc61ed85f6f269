"""What is written beside maps: which steps made them, from which files, with which settings and versions."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import paradia
from paradia.io.acquisition import Acquisition
from paradia.io.derivatives import NUMBERS
from paradia.nets.store import cards
from paradia.pipeline import twopass
from paradia.pipeline.execute import Outcome, StepRecord
from paradia.pipeline.step import networks_of
from paradia.registry import STAGES, load
from paradia.report.record import RunRecord
from paradia.scan import Scan, relaxivities


def versions() -> dict[str, str]:
    """Versions that decide the numbers."""
    packages = ("torch", "numpy", "scipy", "nibabel")
    return {
        "paradia": paradia.__version__,
        **{name: version(name) for name in packages},
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def sidecar(name: str, acquisition: Acquisition, outcome: Outcome, maps: Mapping[str, Any]) -> dict[str, Any]:
    """Say of a map what made it."""
    made_by = _maker(name, outcome.steps)
    entry: dict[str, Any] = {
        "SkullStripped": True,
        "Sources": [str(path) for path in acquisition.sources],
        "MagneticFieldStrength": acquisition.scan.b0,
        "EchoTime": list(acquisition.scan.echo_times),
        "B0_dir": list(acquisition.grid.b0_dir),
        "SoftwareVersions": versions(),
    }
    if made_by and made_by.on:
        entry["EchoTime"] = list(getattr(acquisition, f"{made_by.on}_scan").echo_times)
    if made_by:
        entry |= made(made_by, acquisition.scan, maps)
    if name == "chi":
        if any(step.part for step in outcome.steps):
            entry["Passes"] = [twopass.FIRST, twopass.SECOND]
            entry["PassesDOI"] = twopass.CITE
        inside = maps["chi"][maps.get("local_mask", maps["mask"])]
        entry["Reference"] = next((s.method for s in outcome.steps if s.stage == "reference"), "none")
        entry["WholeBrainMean"] = float(inside.mean())
        entry["WholeBrainSD"] = float(inside.std()) if len(inside) > 1 else 0.0
    return entry


def made(step: StepRecord, scan: Scan | None, maps: Mapping[str, Any]) -> dict[str, Any]:
    """Say for the sidecars of its maps what a step was: its settings, relaxivities and weights, and the numbers it gave beside maps."""
    entry: dict[str, Any] = {"EstimationAlgorithm": f"{step.stage}/{step.method}", "Parameters": step.settings}
    if step.cite:
        entry["DOI"] = step.cite
    if step.stage == "separation" and scan is not None and {"dr_pos", "dr_neg"} <= step.settings.keys():
        positive, negative = relaxivities(scan, step.settings["dr_pos"], step.settings["dr_neg"])
        entry |= {"ParamagneticRelaxivity": positive, "DiamagneticRelaxivity": negative, "RelaxivityUnits": "Hz/ppm"}
    if step.stage in STAGES and (names := networks_of(load(step.stage, step.method))):
        entry["Weights"] = {name: cards()[name]["sha256"] for name in names}
    told = {word: float(maps[number]) for number, word in NUMBERS.items() if number in step.gives}
    return entry | {word: value for word, value in told.items() if math.isfinite(value)}  # of a handful of voxels nothing can be told


def _maker(name: str, steps: list[StepRecord]) -> StepRecord | None:
    """Return the last step that gave a map; of χ the inversion, since its reference and its passes have entries of their own."""
    given = {"local_mask": "mask", "t2star": "r2star"}.get(name, name)
    makers = [s for s in steps if given in s.gives and (name == "local_mask") == (given == "mask" and s.stage != "mask")]
    if name == "chi":
        makers = [s for s in makers if s.stage in ("inversion", "singlestep")]
    return makers[-1] if makers else None


def provenance(record: RunRecord, seconds: float) -> dict[str, Any]:
    """Everything needed to do it again."""
    return {
        "command": record.command,
        "protocol": record.protocol,
        "steps": [
            {"stage": s.stage, "method": s.method, "settings": s.settings, "doi": s.cite, "seconds": round(s.seconds, 3), "kept": s.cached}
            | ({"pass": s.part} if s.part else {})
            | ({"on": s.on} if s.on else {})
            for s in record.steps
        ],
        "sources": record.sources,
        "versions": record.versions,
        "messages": list(record.messages),
        "findings": [finding._asdict() for finding in record.numbers],
        "seconds": round(seconds, 2),
    }
