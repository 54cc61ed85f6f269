"""``paradia qsm``: one scan from loose files."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from paradia.cli.job import Job, process
from paradia.cli.output import open_output
from paradia.cli.plan import pick_device, plan
from paradia.cli.progress import Progress
from paradia.errors import InputError
from paradia.io.loose import from_files
from paradia.io.sidecar import stem
from paradia.io.spinecho import with_spin_echoes
from paradia.pipeline.protocol import DEFAULT


def qsm(
    magnitude: Path,
    phase: Path,
    out: Path,
    /,
    *,
    echo_times: Annotated[list[float] | None, Parameter(consume_multiple=True)] = None,
    b0: float | None = None,
    b0_dir: tuple[float, float, float] | None = None,
    more_magnitude: Annotated[list[Path] | None, Parameter(consume_multiple=True)] = None,
    more_phase: Annotated[list[Path] | None, Parameter(consume_multiple=True)] = None,
    complex: bool = False,
    spin_echo: Annotated[list[Path] | None, Parameter(consume_multiple=True)] = None,
    spin_echo_times: Annotated[list[float] | None, Parameter(consume_multiple=True)] = None,
    register: bool = False,
    mask: Path | None = None,
    region: Path | None = None,
    name: str | None = None,
    phase_units: str | None = None,
    flip_sign: bool = False,
    protocol: str = DEFAULT,
    set: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    two_pass: bool = False,
    device: str = "auto",
) -> int:
    """Map one scan from loose NIfTI files.

    Parameters
    ----------
    magnitude
        Magnitude, 3-D for one echo or 4-D with the echoes last; the real part with ``--complex``.
    phase
        Phase in the same layout; the imaginary part with ``--complex``.
    out
        Folder for maps, sidecars and the report.
    echo_times
        Echo times, s; read from the JSON beside the images where there is one.
    b0
        Field strength, T; read from the JSON beside the images where there is one.
    b0_dir
        Direction of B0 in array axes, where the affine does not tell it.
    more_magnitude
        Magnitudes of the further echoes, where each is a file of its own.
    more_phase
        Phases of the further echoes, likewise.
    complex
        The two files are real and imaginary parts, not magnitude and phase.
    spin_echo
        Magnitudes of a multi-echo spin-echo scan of the same head, one 4-D file or one file an echo, for R2 and R2′.
    spin_echo_times
        Its echo times, s; read from the JSON beside the images where there is one.
    register
        The head may have moved between gradient and spin echoes: register them (needs ANTs) instead of trusting their headers.
    mask
        Brain mask; replaces the mask stage.
    region
        Region whose mean susceptibility is zero; replaces the reference of the protocol.
    name
        What the names of the outputs begin with; the BIDS entities of the images where they have such names, otherwise nothing.
    phase_units
        Encoding of the phase where it cannot be told: ``rad``, ``0-2pi``, ``siemens``, or ``MIN:MAX``.
    flip_sign
        Phase falls with the field in these data: turn its sign.
    protocol
        A protocol that ships with Paradia (``paradia protocol list``), or a TOML file.
    set
        Knobs to turn, each as ``stage.knob=value``; ``stage.method=name`` exchanges the method.
    two_pass
        Remove background and invert for the reliable voxels first and then for all, so that strong sources spoil less.
    device
        ``cpu``, ``cuda``, ``cuda:1``, or ``auto`` for the best there is.
    """
    chosen = plan(protocol, set, masked=mask is not None, region=region is not None, two_pass=two_pass)
    job = Job(chosen, out, pick_device(device), shlex.join(["paradia", *sys.argv[1:]]))
    if name is not None and ("/" in name or name.startswith(".")):
        raise InputError(f"a name may not hold a slash or begin with a dot, got {name!r}. Give for example --name sub-01.")
    if name is None and not stem(magnitude).startswith("sub-"):
        name = ""
    first, second = [magnitude, *(more_magnitude or [])], [phase, *(more_phase or [])]
    acquisition = from_files(
        () if complex else first,
        () if complex else second,
        real=first if complex else (),
        imaginary=second if complex else (),
        echo_times=echo_times,
        b0=b0,
        b0_dir=b0_dir,
        phase_units=phase_units,
        flip_sign=flip_sign,
        mask=mask,
        name=name,
    )
    if spin_echo:
        acquisition = with_spin_echoes(acquisition, spin_echo, echo_times=spin_echo_times, register=register)
    with open_output(out), Progress() as progress:
        report, outcome = process(acquisition, job, progress, region=region)
        for message in outcome.messages:
            progress.warn(message)
        progress.done(str(report))
    return 0
