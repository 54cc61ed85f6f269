"""One acquisition from images to maps, sidecars, provenance and a report."""

from __future__ import annotations

import logging
import math
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

import paradia
from paradia.errors import FileError, InputError, OutputBusyError
from paradia.io.acquisition import Acquisition, load_mask
from paradia.io.atomic import sweep
from paradia.io.derivatives import NUMBERS, map_path, write_dataset_description, write_map, write_provenance
from paradia.io.hashing import fingerprints
from paradia.io.sidecar import read_json
from paradia.metrics.quality import judge
from paradia.nets.store import cards
from paradia.pipeline import twopass
from paradia.pipeline.execute import Outcome, Progress, StepRecord, execute
from paradia.pipeline.protocol import Protocol
from paradia.pipeline.step import Step, networks_of
from paradia.pipeline.store import Store
from paradia.registry import STAGES, load
from paradia.report.page import write_report
from paradia.report.record import RunRecord
from paradia.scan import Scan, relaxivities

WRITTEN = (
    *("mask", "total_field", "noise", "local_field", "local_noise", "local_mask", "chi", "chi_noise", "residual"),
    *("r2star", "r2star_noise", "t2star", "r2", "r2_noise", "r2prime", "r2prime_noise"),
    *("chi_pos", "chi_neg", "chi_pos_noise", "chi_neg_noise", "chi_pos_band", "chi_neg_band"),
    *("closed_pos", "closed_neg", "disagreement", "field_residual", "rate_residual"),
    *("swi", "minip"),
)
"""Maps that a run writes, where it made them."""

WORK = ".paradia"
"""Folder inside the output that holds the results of steps, the lock and the log."""

LOG = f"{WORK}/run.log"
"""The log, inside the output."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """How to map an acquisition, whichever it is."""

    protocol: Protocol
    out: Path
    device: str
    command: str


def versions() -> dict[str, str]:
    """Versions that decide the numbers."""
    packages = ("torch", "numpy", "scipy", "nibabel")
    return {
        "paradia": paradia.__version__,
        **{name: version(name) for name in packages},
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


@contextmanager
def open_output(out: Path, source: Path | None = None) -> Iterator[None]:
    """Hold an output folder for one run, with a log in it.

    Raises
    ------
    InputError
        The folder belongs to other data.
    FileError
        It cannot be written to.
    OutputBusyError
        Another run holds it.
    """
    _check_foreign(out)
    try:
        (out / WORK).mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / WORK / "lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OutputBusyError(f"another run is writing to {out}. Wait for it, or give another output folder.") from error
    except OSError as error:
        raise FileError(f"cannot write to {out}: {error.strerror or error}. Give another output folder.") from error
    with lock, logged(out):
        sweep(out)
        for part in (out / WORK / "steps").glob("*.part"):
            part.unlink(missing_ok=True)
        write_dataset_description(out, version=paradia.__version__, source=source)
        try:
            yield
        except BaseException as error:
            log.error("stopped: %s", str(error) or type(error).__name__)
            raise


@contextmanager
def logged(out: Path) -> Iterator[None]:
    """Keep a log of everything that is said, with the time; several processes may write to it.

    Raises
    ------
    FileError
        It cannot be opened.
    """
    try:
        handler = _Quiet(out / LOG, mode="a", encoding="utf-8")
    except OSError as error:
        raise FileError(f"cannot write {out / LOG}: {error.strerror or error}. Give another output folder.") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%S%z"))
    handler.addFilter(lambda record: not record.name.startswith("paradia.pipeline"))  # said with the acquisition's name below
    logger = logging.getLogger("paradia")
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        handler.close()


class _Quiet(logging.FileHandler):
    """A log that never stops a run; a full disk is told by whoever writes a map."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Let the record go."""


def _check_foreign(out: Path) -> None:
    """Refuse a folder that another data set lives in: its description would be overwritten."""
    description = out / "dataset_description.json"
    if not description.is_file():
        return
    makers = read_json(description).get("GeneratedBy") or [{}]
    if not any(isinstance(maker, dict) and maker.get("Name") == "paradia" for maker in makers):
        raise InputError(
            f"{out} holds another data set, and inputs are only read. Give a folder such as {out / 'derivatives' / 'paradia'}."
        )


def process(acquisition: Acquisition, job: Job, progress: Progress | None = None, *, region: Path | None = None) -> tuple[Path, Outcome]:
    """Map one acquisition.

    Parameters
    ----------
    acquisition
        Its images.
    job
        What to do with them.
    progress
        Told of every step.
    region
        File of the region whose mean susceptibility is to be zero.

    Returns
    -------
    Path
        The report.
    Outcome
        What the run gave, maps and all.

    Raises
    ------
    InputError
        A map would take the place of an input, or a step cannot work on these data.
    FileError
        The output cannot be written.
    """
    start = time.perf_counter()
    title = acquisition.name or job.out.resolve().name
    zero = None if region is None else load_mask(region, acquisition)
    if region is not None:
        acquisition = replace(acquisition, sources=(*acquisition.sources, region))
    _check_inputs_stay(acquisition, job.out)
    board = acquisition.board
    messages = list(acquisition.notes)
    if acquisition.nonfinite is not None:
        board["invalid"] = acquisition.nonfinite
    if acquisition.mask is not None:
        board["mask"] = acquisition.mask
        messages.append("The mask was given, not found: the mask stage was left out.")
    if zero is not None:
        board["region"] = zero
        messages.append(f"The mean over a given region, {region}, is the zero of susceptibility.")
    log.info("%s: begins, protocol %s on %s", title, job.protocol.name, job.device)
    for note in messages:
        log.info("%s: %s", title, note)
    store = Store(job.out / WORK / "steps")
    outcome = execute(job.protocol, board, store, device=job.device, progress=_noted(title, progress))
    for message in outcome.messages:
        log.warning("%s: %s", title, message)
    maps = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in outcome.maps.items()}
    if "r2star" in maps:
        maps["t2star"] = torch.where(maps["r2star"] > 0, 1 / maps["r2star"].clamp_min(1e-3), 0.0)
    for name in WRITTEN:
        if name in maps:
            write_map(job.out, acquisition.name, name, maps[name], acquisition.affine, _sidecar(name, acquisition, outcome, maps))
    findings = judge({**board, **maps})
    record = RunRecord(
        title=title,
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
    affine = acquisition.affine if acquisition.oriented else None
    report = write_report(job.out / f"{acquisition.name or 'report'}.html", record, {**board, **maps}, affine=affine)
    log.info("%s: done in %.1f s, %s", title, time.perf_counter() - start, report)
    return report, outcome


def _check_inputs_stay(acquisition: Acquisition, out: Path) -> None:
    """Refuse to write a map over a file that it is made from."""
    inputs = {path.resolve() for path in acquisition.sources}
    for name in WRITTEN:
        path = map_path(out, acquisition.name, name)
        if path.resolve() in inputs:
            raise InputError(f"the input {path} would be overwritten. Give another output folder.")


def _noted(title: str, progress: Progress | None) -> Progress:
    """Write every finished step to the log, and pass it on."""

    def both(step: Step, state: str, value: float) -> None:
        if state in ("done", "kept", "skipped"):
            said = {"done": f"{value:.2f} s", "kept": "kept from an earlier run", "skipped": "left out"}[state]
            log.info("%s: %s %s, %s", title, step.stage, step.method, said)
        if progress is not None:
            progress(step, state, value)

    return both


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


def _provenance(record: RunRecord, seconds: float) -> dict[str, Any]:
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
