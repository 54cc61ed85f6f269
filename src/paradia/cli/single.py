"""``paradia STAGE METHOD``: a single step, its options made from the method's signature and docstring.

A module-level `__getattr__` builds each command when it is asked for, so that a method is imported only then.
"""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from cyclopts import Parameter

from paradia.cli.app import ELSEWHERE
from paradia.cli.inputs import COILS, NOISE, RAW, images_of, paths_of, read_board
from paradia.cli.plan import pick_device
from paradia.cli.progress import Progress
from paradia.cli.provenance import made, versions
from paradia.errors import InputError
from paradia.io.atomic import check_writable
from paradia.io.derivatives import NUMBERS, OUTPUTS, save_map
from paradia.pipeline.execute import execute
from paradia.pipeline.protocol import Protocol
from paradia.pipeline.step import Step
from paradia.registry import Method, load

Files = Annotated[list[Path], Parameter(consume_multiple=True)]


def __getattr__(name: str) -> Callable[..., int]:
    """Build the command ``stage__method``."""
    stage, separator, method = name.partition("__")
    if not separator or name.startswith("__"):
        raise AttributeError(name)
    return refusal(stage, method) or _command(load(stage, method))


def refusal(stage: str, method: str) -> Callable[..., int] | None:
    """Return a command that names the right one, where files of one scan are not enough for a method."""
    if (stage, method) not in ELSEWHERE:
        return None
    other = ELSEWHERE[stage, method]

    def command(*_: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]) -> int:
        raise InputError(f"{stage} {method} takes several scans, not the images of one. Use {other}; see {other} --help.")

    return command


def _command(method: Method) -> Callable[..., int]:
    """Turn a method into a command with a signature and a docstring of its own."""
    out = inspect.Parameter("out", inspect.Parameter.POSITIONAL_ONLY, annotation=Annotated[Path, Parameter(help=_OUT)])
    return build(method, [out, *options(method)], lambda args, given: _run(method, Path(args[0]), given), method.function.__doc__ or "")


def options(method: Method) -> list[inspect.Parameter]:
    """List what a method can be given on the command line: files of its data, how to read them, and its knobs."""
    hints = get_type_hints(method.function)
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = []
    for name in images_of(method):
        needed = name in method.needs or (name in RAW and COILS in method.needs)
        kind: Any = Files if name in RAW else Path
        text = _help(name, method)
        parameters.append(
            inspect.Parameter(
                name,
                keyword,
                annotation=Annotated[kind if needed else kind | None, Parameter(help=text)],
                default=inspect.Parameter.empty if needed else None,
            )
        )
    parameters += [
        inspect.Parameter(name, keyword, annotation=Annotated[kind, Parameter(help=text)], default=default)
        for name, kind, text, default in _COMMON
        if _offered(name, method)
    ]
    return parameters + [
        inspect.Parameter(p.name, keyword, annotation=hints[p.name], default=p.default)
        for p in method.parameters
        if p.kind is p.KEYWORD_ONLY and p.name != "callback"
    ]


def build(
    method: Method, parameters: list[inspect.Parameter], call: Callable[[tuple[Any, ...], dict[str, Any]], int], docstring: str
) -> Callable[..., int]:
    """Make a command of a signature; what is called gets the positional arguments, and all others with their defaults."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = sorted(parameters, key=lambda p: (p.kind is keyword, p.default is not p.empty))
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}

    def command(*args: Any, **given: Any) -> int:
        return call(args, defaults | given)

    command.__name__ = method.name
    command.__doc__ = docstring
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def _offered(name: str, method: Method) -> bool:
    """Whether a common option means something to a method."""
    if name in ("echo_times", "b0"):
        return "scan" in method.takes or method.stage == "combine"
    return name not in _PHASE or "phase" in images_of(method)


def _run(method: Method, out: Path, given: dict[str, Any]) -> int:
    """Read the data, run the step, write what it gives."""
    if not out.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"the result is a NIfTI file, got {out}. Give a name that ends in .nii.gz.")
    names = ["local_mask" if name == "mask" and method.stage != "mask" else name for name in method.gives]
    names = [name for name in names if name not in NUMBERS]
    places = {name: out if place == 0 else _beside(out, name) for place, name in enumerate(names)}
    sources = paths_of(method, given)
    for path in places.values():
        if path.resolve() in {source.resolve() for source in sources}:
            raise InputError(f"the input {path} would be overwritten. Give another name for the result.")
    check_writable(out)
    device = pick_device(given["device"])
    board, first = read_board(method, given)
    knobs = {name: given[name] for name in method.knobs if name in given}
    protocol = Protocol(f"{method.stage} {method.name}", "", (Step(method.stage, method.name, knobs),))
    with Progress() as progress:
        outcome = execute(protocol, board, device=device, progress=progress)
        if not outcome.steps:
            raise InputError(outcome.messages[-1])
        for message in outcome.messages:
            progress.warn(message)
        record = outcome.steps[0]
        sidecar = {
            **made(record, board.get("scan"), outcome.maps),
            "Sources": [str(path) for path in sources],
            "B0_dir": list(board["grid"].b0_dir),
            "Command": shlex.join(["paradia", *sys.argv[1:]]),
            "SoftwareVersions": versions(),
        }
        if method.stage == "combine" and "scan" in board:  # echoes go out, and the next step asks for their times
            sidecar |= {"EchoTime": list(board["scan"].echo_times), "MagneticFieldStrength": board["scan"].b0}
        for name, path in places.items():
            if name not in outcome.maps:
                continue  # not asked for
            save_map(path, name, outcome.maps[name].cpu(), first.affine, sidecar, oriented=first.oriented)
            progress.done(str(path))
    return 0


def _beside(out: Path, name: str) -> Path:
    """Name a further result after the first."""
    suffix = ".nii.gz" if out.name.endswith(".nii.gz") else ".nii"
    return out.with_name(f"{out.name.removesuffix(suffix)}_{name}{suffix}")


def _described(name: str) -> str:
    """Say what an image is and in which unit."""
    if name not in OUTPUTS:
        return name.replace("_", " ")
    described, units = OUTPUTS[name].description, OUTPUTS[name].units
    return described if units in ("1", "arbitrary") else f"{described}, {units}"


def _help(name: str, method: Method) -> str:
    """Say what an option takes."""
    if name == NOISE:
        return "NumPy file (.npy) of the covariance of the coils' noise, complex, (coil, coil)."
    coils = " For single coils: one file (x, y, z, echo, coil), or one an echo with the coil last." if COILS in method.takes else ""
    return f"File of the {_described(name)}.{coils if name in RAW else ''}"


_OUT = "NIfTI file for the result; further results are written beside it, their names appended."

_PHASE = ("phase_units", "flip_sign")

_COMMON: list[tuple[str, Any, str, Any]] = [
    (
        "echo_times",
        Annotated[list[float] | None, Parameter(consume_multiple=True)],
        "Echo times, s; read from the JSON beside the images.",
        None,
    ),
    ("b0", float | None, "Field strength, T; read from the JSON beside the images.", None),
    ("b0_dir", tuple[float, float, float] | None, "Direction of B0 in array axes, where the affine does not tell it.", None),
    ("phase_units", str | None, "Encoding of the phase where it cannot be told: rad, 0-2pi, siemens, or MIN:MAX.", None),
    ("flip_sign", bool, "Phase falls with the field in these data: turn its sign.", False),
    ("device", str, "cpu, cuda, cuda:1, or auto for the best there is.", "auto"),
]
