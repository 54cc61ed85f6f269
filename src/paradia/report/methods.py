"""The methods paragraph, written from the methods' own docstrings."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paradia.errors import ParadiaError
from paradia.nets.store import cards
from paradia.pipeline import twopass
from paradia.pipeline.step import networks_of
from paradia.registry import STAGES, load
from paradia.report.record import RunRecord, StepLike
from paradia.scan import relaxivities

NAMES = {
    "mask": "Masking",
    "unwrap": "Phase unwrapping",
    "fieldmap": "Field mapping",
    "relaxometry": "Relaxometry",
    "background": "Background field removal",
    "inversion": "Dipole inversion",
    "singlestep": "Total-field inversion",
    "contrast": "Susceptibility-weighted imaging",
    "two_pass": "Two passes",
    "reference": "Referencing",
    "separation": "Source separation",
}
"""Names of the stages as papers have them; another stage goes by its own."""

SYMBOLS = {
    r"\frac12": "½", r"\chi": "χ", r"\|": "‖", r"\hat": "", r"\tilde": "", r"\lambda": "λ", r"\nabla": "∇", r"\cdot": "·",
    r"\le": "≤", r"\ge": "≥", r"\,": " ", r"\mathrm": "", r"\pi": "π", r"\phi": "φ", r"\sum": "Σ", r"\frac": "",
    "{": "", "}": "", "^2": "²", "_1": "₁", "_2": "₂", "_F": "", "\\": "",
}  # fmt: skip
"""What is left of a formula in plain text."""

CITATION = "The Paradia developers. Paradia: MRI susceptibility mapping from raw phase to a report"
"""How the software is cited, but for its version."""


@dataclass(frozen=True)
class Sentence:
    """What one step did, in words."""

    stage: str
    method: str
    says: str
    settings: str
    references: tuple[int, ...]
    weights: str
    """The networks that it asked, with their versions; empty for a method without any."""


def sentences(steps: Sequence[StepLike]) -> tuple[list[Sentence], list[str]]:
    """Say what each step did, and list the DOIs that the sentences point to, in the order of their first use."""
    dois: list[str] = []
    said = []
    for step in steps:
        own = re.split(r"[\s,;]+", step.cite.strip()) if step.cite else []
        dois += [doi for doi in own if doi not in dois]
        numbers = tuple(dois.index(doi) + 1 for doi in own)
        part = getattr(step, "part", "")
        name = stage_name(step.stage) + (f" ({part})" if part else "")
        nets = " and ".join(f"{net} version {card['version']}" for net, card in weights([step]).items())
        said.append(Sentence(name, step.method, _summary(step), settings(step.settings), numbers, nets))
    return said, dois


def weights(steps: Sequence[StepLike]) -> dict[str, Mapping[str, Any]]:
    """Return what is known of each network that the steps asked: its version and hash among it."""
    found: dict[str, Mapping[str, Any]] = {}
    for step in steps:
        try:
            names = networks_of(load(step.stage, step.method))
        except (ParadiaError, ImportError, AttributeError):
            continue
        found |= {name: cards()[name] for name in names if name in cards()}
    return found


def used(step: StepLike, record: RunRecord) -> Mapping[str, Any]:
    """Return the settings of a step, the relaxivities that it took where none were given among them."""
    if not {"dr_pos", "dr_neg"} <= step.settings.keys():
        return step.settings
    positive, negative = relaxivities(record.scan, step.settings["dr_pos"], step.settings["dr_neg"])
    return {**step.settings, "dr_pos": positive, "dr_neg": negative}


def introduction(record: RunRecord) -> str:
    """Say what the data were."""
    grid, scan = record.grid, record.scan
    echoes = len(scan.echo_times)
    times = ", ".join(f"{1000 * t:.3g}" for t in scan.echo_times)
    size = " × ".join(f"{d:.3g}" for d in grid.voxel_size)
    shape = " × ".join(str(n) for n in grid.shape)
    said = f"{'Single-echo' if echoes == 1 else f'Multi-echo ({echoes} echoes)'} gradient-echo data at {scan.b0:.3g} T (echo time"
    said += f"{'' if echoes == 1 else 's'} {times} ms; {shape} voxels of {size} mm) were processed with Paradia"
    version = record.versions.get("paradia")
    said += f" {version}" if version else ""
    said += f", protocol “{record.protocol}”." if record.protocol else "."
    if record.spin_echo_scan is not None and any(getattr(step, "on", "") for step in record.steps):
        times = ", ".join(f"{1000 * t:.3g}" for t in record.spin_echo_scan.echo_times)
        said += f" R2 was measured with spin echoes of the same head (echo times {times} ms)."
    along = math.degrees(math.acos(min(1.0, max(abs(b) for b in grid.b0_dir))))
    if along >= 1:
        said += f" The axes of the image were oblique to B0 by {along:.0f}°, which was accounted for: B0 points along ("
        said += ", ".join(f"{b:.3f}" for b in grid.b0_dir).replace("-", "−") + ") in array axes."
    return said


def stage_name(stage: str) -> str:
    """Return the name of a stage as papers have it."""
    return NAMES.get(stage, stage.replace("_", " ").capitalize())


def settings(values: Mapping[str, Any]) -> str:
    """Write settings as ``name = value``, in one line."""
    return ", ".join(f"{name} = {setting(value)}" for name, value in values.items() if value is not None)


def setting(value: Any) -> str:
    """Write one setting."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(setting(v) for v in value) + ")"
    return "not given" if value is None else str(value)


def plain(text: str) -> str:
    """Take the mark-up out of a line of a docstring."""
    text = re.sub(r":math:`([^`]*)`", lambda found: _formula(found[1]), text)
    text = re.sub(r":\w+:`~?([^`]*)`", r"\1", text)
    return re.sub(r"`+", "", text).strip()


def _formula(text: str) -> str:
    for symbol, letter in SYMBOLS.items():
        text = text.replace(symbol, letter)
    return " ".join(text.split())


def _summary(step: StepLike) -> str:
    """Return what the method's docstring begins with, or what the stage is for."""
    if step.stage == twopass.STAGE:
        return plain((getattr(twopass, step.method).__doc__ or "").partition("\n")[0])
    try:
        summary = plain(load(step.stage, step.method).summary)
    except (ParadiaError, ImportError, AttributeError):
        summary = ""
    if not summary and step.stage in STAGES:
        summary = STAGES[step.stage].summary
    return f"{summary.rstrip('.')}." if summary else "No description is available."
