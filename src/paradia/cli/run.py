"""``paradia run``, in the manner of a BIDS App."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from cyclopts import Parameter
from rich.markup import escape

from paradia.cli import told_elsewhere
from paradia.cli.ending import Terminated, ended_in_order
from paradia.cli.job import Job, process
from paradia.cli.output import LOG, check_place, logged, open_output
from paradia.cli.plan import pick_device, plan
from paradia.cli.progress import Progress
from paradia.errors import InputError, ParadiaError
from paradia.io import bids
from paradia.pipeline.protocol import DEFAULT

log = logging.getLogger(__name__)


BUG = "this is a bug in Paradia, please report it:"


@dataclass(frozen=True)
class Result:
    """How one acquisition went."""

    name: str
    report: Path | None
    failure: str = ""
    messages: tuple[str, ...] = ()

    @property
    def briefly(self) -> str:
        """The failure in one line: what is wrong, and of a bug what it was."""
        lines = self.failure.splitlines()
        return f"{lines[0]} {lines[-1]}" if lines[0] == BUG else lines[0]


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
    two_pass: bool = False,
    masks: Path | None = None,
    regions: Path | None = None,
    phase_units: str | None = None,
    flip_sign: bool = False,
    register: bool = False,
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
    two_pass
        Remove background and invert for the reliable voxels first and then for all, so that strong sources spoil less.
    masks
        BIDS derivatives folder with a brain mask for each subject; replaces the mask stage.
    regions
        BIDS derivatives folder with a mask, for each subject, of the region whose mean susceptibility is zero; replaces the
        reference of the protocol.
    phase_units
        Encoding of the phase where it cannot be told: ``rad``, ``0-2pi``, ``siemens``, or ``MIN:MAX``.
    flip_sign
        Phase falls with the field in these data: turn its sign.
    register
        The head may have moved between gradient and spin echoes: register them (needs ANTs) instead of trusting their headers.
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
    if nprocs < 1:
        raise InputError(f"--nprocs must be at least 1, got {nprocs}.")
    chosen = plan(protocol, set, masked=masks is not None, region=regions is not None, two_pass=two_pass)
    job = Job(chosen, output_dir, pick_device(device), shlex.join(["paradia", *sys.argv[1:]]))
    with _heard() as said:
        entries = bids.find(bids_dir, participant_label, session_id, masks=masks, validate=not skip_bids_validation)
    if output_dir.resolve() == bids_dir.resolve():
        raise InputError(f"{bids_dir} is only read. Give another output folder, such as {bids_dir / 'derivatives' / 'paradia'}.")
    check_place(output_dir, bids_dir)
    if dry_run:
        return _preview(entries, job)
    place = None if regions is None else regions.absolute()
    reading = {"phase_units": phase_units, "flip_sign": flip_sign, "register": register, "regions": place}
    with open_output(output_dir, bids_dir), Progress() as progress:
        log.info("%s", job.command)
        for sentence in said:
            log.warning("%s", sentence)
        results = list(_work(entries, job, reading, nprocs, progress))
        return _account(results, output_dir, progress)


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Collect what is warned of where there is no log yet, or no terminal."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.addFilter(told_elsewhere)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("paradia")
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


def _preview(entries: list[bids.Entry], job: Job) -> int:
    """Say what would be done."""
    for entry in entries:
        parts = {name: len(getattr(entry, name)) for name in ("magnitude", "phase", "real", "imaginary")}
        parts["spin echoes"] = len(entry.spin_echo)
        files = ", ".join(f"{count} {name}" for name, count in parts.items() if count)
        sys.stdout.write(f"{entry.name}: {files}{f' (this one would fail: {entry.fault})' if entry.fault else ''}\n")
    steps = (f"{step.stage} {step.method}{f' or {step.otherwise}' if step.otherwise else ''}" for step in job.protocol.steps)
    sys.stdout.write(" → ".join(steps))
    sys.stdout.write(f"{', in two passes' if job.protocol.two_pass else ''}, on {job.device}\n")
    return 0


def _work(entries: list[bids.Entry], job: Job, reading: dict[str, Any], nprocs: int, progress: Progress) -> Iterator[Result]:
    """Work through the acquisitions, in this process or in several."""
    if nprocs == 1 or len(entries) == 1:
        for entry in entries:
            progress.say(f"[bold]{escape(entry.name)}[/]")
            yield _told(_one(entry, job, reading, progress), progress)
        return
    threads = max(1, torch.get_num_threads() // nprocs)  # of those that this process may use, not of all that the machine has
    context, others = multiprocessing.get_context("spawn"), multiprocessing.active_children()
    with ProcessPoolExecutor(min(nprocs, len(entries)), mp_context=context, initializer=_begin_worker, initargs=(threads,)) as pool:
        try:
            futures = {pool.submit(_one_logged, entry, job, reading): entry for entry in entries}
            for future in as_completed(futures):
                yield _told(_result(future, futures[future].name), progress)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in multiprocessing.active_children():
                if worker not in others:
                    worker.terminate()  # what it works on may take long, and nobody waits for it
            raise


def _begin_worker(threads: int) -> None:
    """Have a process that maps acquisitions for another one leave Ctrl-C to that one, and end with it, however that ends."""
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all of them
    first = multiprocessing.parent_process()
    assert first is not None
    threading.Thread(target=_follow, args=(first.sentinel,), daemon=True).start()


def _follow(sentinel: int) -> None:
    """End this process once the first one is gone: killed, it told nobody to stop, and the next run would write beside this one."""
    wait([sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


def _result(future: Future[Result], name: str) -> Result:
    """Take a result, also that of a worker that was killed."""
    try:
        return future.result()
    except BrokenProcessPool:
        failure = "a worker process died before this was finished, perhaps for want of memory. Run again with a smaller --nprocs."
        log.error("%s: failed: %s", name, failure)
        return Result(name, None, failure)


def _one_logged(entry: bids.Entry, job: Job, reading: dict[str, Any]) -> Result:
    """Map one acquisition in a process of its own, which SIGTERM ends when nothing half-written is left."""
    try:
        with ended_in_order(), logged(job.out), _heard() as said:
            result = _one(entry, job, reading)
        return replace(result, messages=(*said, *result.messages))  # nobody else says here what the readers warned of
    except Terminated:
        os.kill(os.getpid(), signal.SIGTERM)  # to come back would be to ask for the next one
        raise


def _one(entry: bids.Entry, job: Job, reading: dict[str, Any], progress: Progress | None = None) -> Result:
    """Map one acquisition; a failure is a result like any other, so that the others go on."""
    regions = reading.get("regions")
    reading = {name: value for name, value in reading.items() if name != "regions"}
    try:
        region = None if regions is None else bids.find_mask(entry, regions, brain=False)
        report, outcome = process(bids.load(entry, **reading), job, progress, region=region)
    except ParadiaError as error:
        failure = str(error)
    except (MemoryError, torch.OutOfMemoryError) as error:
        failure = f"the memory did not suffice: {error}. Run with a smaller --nprocs or on --device cpu."
    except Exception:
        failure = f"{BUG}\n{traceback.format_exc().strip()}"
    else:
        return Result(entry.name, report, messages=tuple(outcome.messages))
    log.error("%s: failed: %s", entry.name, failure)
    return Result(entry.name, None, failure)


def _told(result: Result, progress: Progress) -> Result:
    for message in result.messages:
        progress.warn(message)
    if result.report:
        progress.done(f"{result.name}  {result.report}")
    else:
        progress.failed(f"{result.name}  {result.briefly}")
    return result


def _account(results: list[Result], out: Path, progress: Progress) -> int:
    """Tell the failures at the end and in the log."""
    failed = sorted((r for r in results if r.report is None), key=lambda r: r.name)
    log.info("%d of %d done", len(results) - len(failed), len(results))
    if failed:
        progress.say(f"\n[red]{len(failed)} of {len(results)} failed[/] (also in {escape(str(out / LOG))}):")
        for result in failed:
            progress.failed(f"{result.name}: {result.failure}")
    return 1 if failed else 0
