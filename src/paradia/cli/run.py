"""``paradia run``, in the manner of a BIDS App."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shlex
import sys
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from cyclopts import Parameter

from paradia.cli.job import WORK, Job, open_output, pick_device, process
from paradia.cli.progress import Progress
from paradia.errors import InputError, ParadiaError
from paradia.io import bids
from paradia.pipeline.protocol import DEFAULT, Protocol

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """How one acquisition went."""

    name: str
    report: Path | None
    failure: str = ""


def run(
    bids_dir: Path,
    output_dir: Path,
    analysis_level: Literal["participant", "group"] = "participant",
    /,
    *,
    participant_label: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    session_id: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    protocol: str = DEFAULT,
    set: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    masks: Path | None = None,
    phase_units: str | None = None,
    flip_sign: bool = False,
    device: str = "auto",
    nprocs: int = 1,
    dry_run: bool = False,
    skip_bids_validation: bool = False,
) -> int:
    """Map every subject of a BIDS data set (a BIDS App).

    Run it again to go on where it stopped: steps whose data, settings and code are unchanged are not computed twice.

    Parameters
    ----------
    bids_dir
        Root of the BIDS data set; it is only read.
    output_dir
        Folder for maps, sidecars and reports.
    analysis_level
        Only ``participant`` is known.
    participant_label
        Only these subjects, with or without ``sub-``.
    session_id
        Only these sessions, with or without ``ses-``.
    protocol
        A protocol that ships with Paradia (``paradia protocol list``), or a TOML file.
    set
        Knobs to turn, each as ``stage.knob=value``; ``stage.method=name`` exchanges the method.
    masks
        BIDS derivatives folder with a brain mask for each subject; replaces the mask stage.
    phase_units
        Encoding of the phase where it cannot be told: ``rad``, ``0-2pi``, ``siemens``, or ``MIN:MAX``.
    flip_sign
        Phase falls with the field in these data: turn its sign.
    device
        ``cpu``, ``cuda``, ``cuda:1``, or ``auto`` for the best there is.
    nprocs
        Subjects to work on at a time.
    dry_run
        Say what would be done, and do nothing.
    skip_bids_validation
        Do not check that the folder is a valid BIDS data set.
    """
    if analysis_level != "participant":
        raise InputError("there is only the analysis level 'participant', got 'group'. Group statistics are not part of this version.")
    plan = Protocol.load(protocol).turned(set or ())
    entries = bids.find(bids_dir, participant_label, session_id, masks=masks, validate=not skip_bids_validation)
    if dry_run:
        for entry in entries:
            sys.stdout.write(f"{entry.name}: {len(entry.magnitude)} magnitude and {len(entry.phase)} phase files\n")
        sys.stdout.write(" → ".join(f"{step.stage} {step.method}" for step in plan.steps) + "\n")
        return 0
    job = Job(plan, output_dir, pick_device(device), shlex.join(["paradia", *sys.argv[1:]]))
    reading = {"phase_units": phase_units, "flip_sign": flip_sign}
    with open_output(output_dir, bids_dir), Progress() as progress:
        results = list(_work(entries, job, reading, nprocs, progress))
    return _account(results, output_dir, progress)


def _work(entries: list[bids.Entry], job: Job, reading: dict, nprocs: int, progress: Progress) -> Iterator[Result]:
    """Work through the acquisitions, in this process or in several."""
    if nprocs <= 1 or len(entries) <= 1:
        for entry in entries:
            progress.say(f"[bold]{entry.name}[/]")
            yield _told(_one(entry, job, reading, progress), progress)
        return
    threads = max(1, (os.cpu_count() or 1) // nprocs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(nprocs, mp_context=context, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        for future in as_completed([pool.submit(_one, entry, job, reading) for entry in entries]):
            yield _told(future.result(), progress)


def _one(entry: bids.Entry, job: Job, reading: dict, progress: Progress | None = None) -> Result:
    """Map one acquisition; a failure is a result like any other, so that the others go on."""
    try:
        report, _ = process(bids.load(entry, **reading), job, progress)
    except ParadiaError as error:
        return Result(entry.name, None, str(error))
    except Exception:
        return Result(entry.name, None, traceback.format_exc())
    return Result(entry.name, report)


def _told(result: Result, progress: Progress) -> Result:
    if result.report:
        progress.say(f"[green]✓[/] {result.name}  {result.report}")
    else:
        progress.say(f"[red]✗[/] {result.name}  {result.failure.strip().splitlines()[-1]}")
    return result


def _account(results: list[Result], out: Path, progress: Progress) -> int:
    """Tell the failures at the end and in the log."""
    failed = [r for r in results if r.report is None]
    lines = [f"{r.name}\t{'failed' if r.report is None else 'done'}\t{r.failure or r.report}" for r in results]
    (out / WORK / "run.log").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if failed:
        progress.say(f"\n[red]{len(failed)} of {len(results)} failed[/] (also in {out / WORK / 'run.log'}):")
        for result in failed:
            progress.say(f"  {result.name}: {result.failure.strip()}")
    return 1 if failed else 0
