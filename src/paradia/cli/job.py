"""One acquisition from images to maps, sidecars, provenance and a report."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

import paradia
from paradia.errors import FileError, OutputBusyError
from paradia.io.acquisition import Acquisition
from paradia.io.atomic import sweep
from paradia.io.derivatives import write_dataset_description, write_map, write_provenance
from paradia.io.hashing import fingerprints
from paradia.metrics.quality import judge
from paradia.pipeline.execute import Outcome, Progress, StepRecord, execute
from paradia.pipeline.protocol import Protocol
from paradia.pipeline.store import Store
from paradia.report.page import write_report
from paradia.report.record import RunRecord

WRITTEN = ("mask", "total_field", "noise", "local_field", "local_mask", "chi", "r2star", "t2star")
"""Maps that a run writes, where it made them."""

WORK = ".paradia"
"""Folder inside the output that holds the results of steps and the lock."""


@dataclass(frozen=True)
class Job:
    """How to map an acquisition, whichever it is."""

    protocol: Protocol
    out: Path
    device: str
    command: str


def pick_device(name: str) -> str:
    """Turn ``auto`` into the best device there is."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def versions() -> dict[str, str]:
    """Versions that decide the numbers."""
    packages = ("torch", "numpy", "scipy", "nibabel")
    return {
        "paradia": paradia.__version__,
        **{name: version(name) for name in packages},
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def open_output(out: Path, source: Path | None = None) -> FileLock:
    """Make the output folder ready and hold it for one run.

    Raises
    ------
    FileError
        The folder cannot be written to.
    OutputBusyError
        Another run holds it.
    """
    try:
        (out / WORK).mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / WORK / "lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OutputBusyError(f"another run is writing to {out}. Wait for it, or give another output folder.") from error
    except OSError as error:
        raise FileError(f"cannot write to {out}: {error.strerror or error}. Give another output folder.") from error
    try:
        sweep(out)
        write_dataset_description(out, version=paradia.__version__, source=source)
    except BaseException:
        lock.release()
        raise
    return lock


def process(acquisition: Acquisition, job: Job, progress: Progress | None = None) -> tuple[Path, Outcome]:
    """Map one acquisition.

    Returns
    -------
    Path
        The report.
    Outcome
        What the run gave, maps and all.
    """
    start = time.perf_counter()
    board: dict[str, Any] = {name: getattr(acquisition, name) for name in ("magnitude", "phase", "grid", "scan")}
    messages = list(acquisition.notes)
    if acquisition.nonfinite is not None:
        board["invalid"] = acquisition.nonfinite
    if acquisition.mask is not None:
        board["mask"] = acquisition.mask
        messages.append("The mask was given, not found: the mask stage was left out.")
    store = Store(job.out / WORK / "steps")
    outcome = execute(job.protocol, board, store, device=job.device, progress=progress)
    maps = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in outcome.maps.items()}
    if "r2star" in maps:
        maps["t2star"] = torch.where(maps["r2star"] > 0, 1 / maps["r2star"].clamp_min(1e-3), 0.0)
    for name in WRITTEN:
        if name in maps:
            write_map(job.out, acquisition.name, name, maps[name], acquisition.affine, _sidecar(name, acquisition, outcome, maps))
    findings = judge({**board, **maps})
    record = RunRecord(
        title=acquisition.name or "scan",
        grid=acquisition.grid,
        scan=acquisition.scan,
        protocol=job.protocol.name,
        steps=outcome.steps,
        messages=[*messages, *outcome.messages],
        versions=versions(),
        command=job.command,
        sources=fingerprints(acquisition.sources),
        numbers=findings,
    )
    write_provenance(job.out, acquisition.name, _provenance(record, time.perf_counter() - start))
    report = write_report(job.out / f"{acquisition.name or 'report'}.html", record, {**board, **maps}, affine=acquisition.affine)
    return report, outcome


def _sidecar(name: str, acquisition: Acquisition, outcome: Outcome, maps: Mapping[str, Any]) -> dict[str, Any]:
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
    if made_by:
        entry["EstimationAlgorithm"] = f"{made_by.stage}/{made_by.method}"
        entry["Parameters"] = made_by.settings
        if made_by.cite:
            entry["DOI"] = made_by.cite
    if name == "chi":
        inside = maps["chi"][maps["local_mask"]]
        entry["Reference"] = next((s.method for s in outcome.steps if s.stage == "reference"), "none")
        entry["WholeBrainMean"] = float(inside.mean())
        entry["WholeBrainSD"] = float(inside.std())
        inversion = next((s for s in outcome.steps if s.stage == "inversion"), None)
        if inversion:
            entry["EstimationAlgorithm"] = f"inversion/{inversion.method}"
            entry["Parameters"] = inversion.settings
            entry["DOI"] = inversion.cite
    return entry


def _maker(name: str, steps: list[StepRecord]) -> StepRecord | None:
    """Return the last step that gave a map."""
    given = {"local_mask": "mask", "t2star": "r2star"}.get(name, name)
    makers = [s for s in steps if given in s.gives and (name == "local_mask") == (given == "mask" and s.stage != "mask")]
    return makers[-1] if makers else None


def _provenance(record: RunRecord, seconds: float) -> dict[str, Any]:
    """Everything needed to do it again."""
    return {
        "command": record.command,
        "protocol": record.protocol,
        "steps": [
            {"stage": s.stage, "method": s.method, "settings": s.settings, "doi": s.cite, "seconds": round(s.seconds, 3), "kept": s.cached}
            for s in record.steps
        ],
        "sources": record.sources,
        "versions": record.versions,
        "messages": list(record.messages),
        "findings": [finding._asdict() for finding in record.numbers],
        "seconds": round(seconds, 2),
    }
