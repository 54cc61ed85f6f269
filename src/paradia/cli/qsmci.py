"""``paradia qsmci``: any step between folders of the QSM-CI benchmark, and what it takes to submit it there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

from cyclopts import Parameter

from paradia.cli.plan import pick_device
from paradia.cli.progress import Progress
from paradia.errors import InputError, UnknownStageError, nearest
from paradia.io import qsmci as contract
from paradia.io.atomic import check_writable
from paradia.pipeline.chain import alone, chain, reads, with_knobs
from paradia.pipeline.execute import execute
from paradia.pipeline.protocol import Protocol
from paradia.registry import STAGES
from paradia.report.submission import Submission, write_submission


class Request(NamedTuple):
    """What was asked for."""

    protocol: Protocol
    needs: list[str]
    uses: list[str]
    gives: list[str]


def qsmci(
    stage: str,
    method: str,
    /,
    *,
    input: Path | None = None,
    output: Path | None = None,
    emit: Path | None = None,
    image: str | None = None,
    author: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    device: str = "auto",
) -> int:
    """Run a step on a folder of the QSM-CI benchmark, or write the folder that submits it.

    Parameters
    ----------
    stage
        A stage of Paradia, such as ``inversion``, or one of the benchmark: ``field-mapping``, ``bfr``, ``dipole``,
        ``unwrap+bfr``, ``bfr+dipole``, ``end-to-end``, ``brain-extraction``, ``r2prime-generation``, ``chi-separation``.
    method
        A method of the stage. Where a stage of the benchmark takes several steps, their methods with plus signs between, as
        ``romeo+nonlinear``; what is left out is that of the default protocol. A protocol will do as well.
    input
        Folder with ``params.json``, the images under the benchmark's names, and ``config.json`` where knobs are turned.
    output
        Folder for the result, under the benchmark's name.
    emit
        Write a submission instead: in this folder, one of its own with manifest, script, image recipe and README.
    image
        Container image that the submission names.
    author
        Who submits.
    device
        ``cpu``, ``cuda``, ``cuda:1``, or ``auto`` for the best there is.
    """
    request = understand(stage, method)
    if emit is not None:
        if input is not None or output is not None:
            raise InputError("--emit writes a submission and runs nothing. Leave out --input and --output.")
        folder = write_submission(emit, _submission(stage, method, request, image, author))
        with Progress() as progress:
            progress.done(str(folder))
        return 0
    if input is None or output is None:
        raise InputError(f"{'--input' if input is None else '--output'} is missing. Give both folders, or --emit for a submission.")
    return _run(request, input, output, device)


def understand(stage: str, method: str) -> Request:
    """Turn the two words into steps, and say what these read and write.

    Raises
    ------
    UnknownNameError
        A stage or method that nothing answers to.
    """
    if stage in contract.SPANS:
        protocol = chain(stage, method, contract.SPANS[stage])
    elif stage in STAGES:
        protocol = alone(stage, method)
    else:
        raise UnknownStageError(f"there is no stage {stage!r}. {nearest(stage, [*contract.SPANS, *STAGES])}")
    needs, uses = reads(protocol)
    if {"phase", "coil_images"} <= set(uses):  # one of the two has to be there, and only the first has a file
        needs, uses = [*needs, "phase"], [name for name in uses if name not in ("phase", "coil_images")]
    last = protocol.steps[-1]
    gives = [name for name in last.loaded.gives if name != "mask" or last.stage == "mask"]
    known = [name for name in gives if name in contract.CONTRACT]
    asked = [name for name in known if name in STAGES[last.stage].gives]  # networks give more than their stage is for
    return Request(protocol, needs, uses, asked or known or gives)


def _run(request: Request, folder: Path, out: Path, device: str) -> int:
    """Read, run and write."""
    knobs = contract.read_config(folder)
    protocol = with_knobs(request.protocol, knobs)
    sources = {(folder / contract.file_of(name)).resolve() for name in (*request.needs, *request.uses)}
    if clash := [name for name in request.gives if (out / contract.file_of(name)).resolve() in sources]:
        raise InputError(f"the input {folder / contract.file_of(clash[0])} would be overwritten. Give another output folder.")
    check_writable(out / contract.file_of(request.gives[0]))
    chosen = pick_device(device)
    board, affine, notes = contract.read_folder(folder, request.needs, request.uses)
    with Progress() as progress:
        for note in notes:
            progress.warn(note)
        outcome = execute(protocol, board, device=chosen, progress=progress)
        absent = [name for name in request.gives if name not in outcome.maps]
        if absent:
            raise InputError(outcome.messages[-1] if outcome.messages else f"{protocol.name} gave no {absent[0]}.")
        for message in outcome.messages:
            progress.warn(message)
        for path in contract.write_folder(out, {name: outcome.maps[name] for name in request.gives}, affine):
            progress.done(str(path))
    return 0


def _submission(stage: str, method: str, request: Request, image: str | None, author: list[str] | None) -> Submission:
    """Describe the request in the benchmark's words."""
    inputs, optional = ([name for name in names if name in contract.CONTRACT] for names in (request.needs, request.uses))
    span = _span(inputs, request.gives)
    if span is None or not set(request.needs) <= {*inputs, "grid", "scan"}:
        reading = ", ".join(name for name in request.needs if name not in ("grid", "scan"))
        raise InputError(
            f"{stage} {method} goes from {reading} to {', '.join(request.gives)}, which is no stage of the benchmark. "
            f"Its stages are {', '.join(contract.SPANS)}."
        )
    words = [contract.NAMES.get(name, name) for name in inputs]
    return Submission(
        stage=span,
        command=("qsmci", stage, method),
        protocol=request.protocol,
        inputs=tuple(words),
        optional=tuple(contract.NAMES.get(name, name) for name in optional),
        output=" and ".join(contract.file_of(name) for name in request.gives),
        authors=tuple(author or ()),
        image=image,
    )


def _span(inputs: list[str], gives: list[str]) -> str | None:
    """Find the benchmark's stage by what goes in and what comes out."""
    goal = gives[0]
    if goal == "mask":
        return "brain-extraction" if "magnitude" in inputs else None
    if goal == "chi_pos":
        return "chi-separation"
    if goal == "r2prime":
        return "r2prime-generation" if "magnitude" in inputs else None
    if "phase" in inputs:
        return {"total_field": "field-mapping", "local_field": "unwrap+bfr", "chi": "end-to-end"}.get(goal)
    if goal == "local_field" and "total_field" in inputs:
        return "bfr"
    if goal == "chi":
        return "bfr+dipole" if "total_field" in inputs else "dipole" if "local_field" in inputs else None
    return None
