"""One acquisition from images to maps with their sidecars, and a report."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paradia.cli.output import WORK
from paradia.cli.provenance import provenance, sidecar, versions
from paradia.errors import InputError
from paradia.io.acquisition import Acquisition, load_mask
from paradia.io.derivatives import map_path, write_map, write_provenance
from paradia.io.hashing import fingerprints
from paradia.io.sidecar import stem
from paradia.metrics.quality import judge
from paradia.pipeline.execute import Outcome, Progress, execute
from paradia.pipeline.protocol import Protocol
from paradia.pipeline.step import Step
from paradia.pipeline.store import Store
from paradia.report.page import write_report
from paradia.report.record import RunRecord

WRITTEN = (
    *("mask", "total_field", "noise", "local_field", "local_noise", "local_mask", "chi", "chi_noise", "residual"),
    *("r2star", "r2star_noise", "t2star", "r2", "r2_noise", "r2prime", "r2prime_noise"),
    *("chi_pos", "chi_neg", "chi_pos_noise", "chi_neg_noise", "chi_pos_band", "chi_neg_band"),
    *("closed_pos", "closed_neg", "disagreement", "field_residual", "rate_residual"),
    *("swi", "minip"),
)
"""Maps that a run writes, where it made them."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """How to map an acquisition, whichever it is."""

    protocol: Protocol
    out: Path
    device: str
    command: str


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
    maps = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in outcome.maps.items()}
    if "r2star" in maps:
        maps["t2star"] = torch.where(maps["r2star"] > 0, 1 / maps["r2star"].clamp_min(1e-3), 0.0)
    outcome.messages += _left_behind(acquisition, job.out, maps)
    for message in outcome.messages:
        log.warning("%s: %s", title, message)
    for name in WRITTEN:
        if name in maps:
            said = sidecar(name, acquisition, outcome, maps)
            write_map(job.out, acquisition.name, name, maps[name], acquisition.affine, said, oriented=acquisition.oriented)
    findings = judge({**board, **maps})
    record = RunRecord(
        title=title,
        grid=acquisition.grid,
        scan=acquisition.scan,
        spin_echo_scan=acquisition.spin_echo_scan,
        protocol=job.protocol.name,
        steps=outcome.steps,
        messages=[*messages, *outcome.messages],
        versions=versions(),
        command=job.command,
        sources=fingerprints(acquisition.sources),
        numbers=findings,
    )
    write_provenance(job.out, acquisition.name, provenance(record, time.perf_counter() - start))
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


def _left_behind(acquisition: Acquisition, out: Path, maps: Mapping[str, Any]) -> list[str]:
    """Name the maps of an earlier run that this one does not make: they look as if they belonged to it."""
    there = [map_path(out, acquisition.name, name) for name in WRITTEN if name not in maps]
    old = [path.name for path in there if path.is_file() and path.with_name(f"{stem(path)}.json").is_file()]
    if not old:
        return []
    return [f"Maps of an earlier run are still there, and were not made by this one: {', '.join(old)}. Remove them where they mislead."]


def _noted(title: str, progress: Progress | None) -> Progress:
    """Write every finished step to the log, and pass it on."""

    def both(step: Step, state: str, value: float) -> None:
        if state in ("done", "kept", "skipped"):
            said = {"done": f"{value:.2f} s", "kept": "kept from an earlier run", "skipped": "left out"}[state]
            log.info("%s: %s %s, %s", title, step.stage, step.method, said)
        if progress is not None:
            progress(step, state, value)

    return both
