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

import numpy as np
import torch
from cyclopts import Parameter

from paradia.cli.app import ELSEWHERE
from paradia.cli.plan import pick_device
from paradia.cli.progress import Progress
from paradia.cli.provenance import made, versions
from paradia.errors import FileError, GeometryError, InputError, MetadataError
from paradia.io.acquisition import Acquisition, geometry
from paradia.io.coils import holds_coils
from paradia.io.derivatives import NUMBERS, OUTPUTS, save_map
from paradia.io.loose import Coils, coils_from_files, from_files
from paradia.io.nifti import Volumes, check_same_grid, nonfinite, read
from paradia.io.sidecar import direction, number, sidecar_of
from paradia.pipeline.execute import execute
from paradia.pipeline.protocol import Protocol
from paradia.pipeline.step import Step
from paradia.registry import Method, load
from paradia.scan import Scan

RAW = ("magnitude", "phase")
"""Data that come from the scanner and are converted on the way in."""

COILS = "coil_images"
"""Data that are read from files of magnitude and phase, and made complex."""

NOISE = "coil_noise"
"""A matrix, not an image."""

GEOMETRY = ("grid", "scan")
"""Data that are not images."""

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
    for name in _images(method):
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


def _images(method: Method) -> list[str]:
    """List what is read from files; images of coils come as magnitude and phase."""
    names = [*RAW, *method.takes] if COILS in method.takes else [*method.takes]
    return [name for name in dict.fromkeys(names) if name not in (*GEOMETRY, COILS)]


def _offered(name: str, method: Method) -> bool:
    """Whether a common option means something to a method."""
    if name in ("echo_times", "b0"):
        return "scan" in method.takes or method.stage == "combine"
    return name not in _PHASE or "phase" in _images(method)


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
    device = pick_device(given["device"])
    board, affine = read_board(method, given)
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
            save_map(path, name, outcome.maps[name].cpu(), affine, sidecar)
            progress.done(str(path))
    return 0


def read_board(method: Method, given: dict[str, Any], extra: tuple[str, ...] = ()) -> tuple[dict[str, Any], np.ndarray]:
    """Put the data that were given on a board, also some that the method does not take; all images lie on one grid."""
    board: dict[str, Any] = {}
    first: Volumes | None = None
    if _given_coils(method, given):
        coils = _coils(method, given)
        board |= {COILS: coils.images, "grid": coils.grid, **({} if coils.scan is None else {"scan": coils.scan})}
        first = Volumes(np.empty((1, *coils.grid.shape), np.float32), coils.affine, coils.sources)
        if coils.nonfinite is not None and method.stage != "combine":
            board["invalid"] = coils.nonfinite
    elif any(given.get(name) for name in RAW):
        acquisition = _acquisition(method, given)
        board |= {name: getattr(acquisition, name) for name in RAW if given.get(name)}
        board |= {name: getattr(acquisition, name) for name in GEOMETRY if name in ("grid", *method.takes)}
        first = Volumes(acquisition.magnitude.numpy(), acquisition.affine, acquisition.sources)
        if acquisition.mask is not None:
            board["mask"] = acquisition.mask
        if acquisition.nonfinite is not None:
            board["invalid"] = acquisition.nonfinite
    for name in dict.fromkeys((*method.takes, *extra)):
        if name in board or name in (*GEOMETRY, *RAW, COILS) or given.get(name) is None:
            continue
        if name == NOISE:
            board[name] = _covariance(given[name])
            continue
        volumes = read(given[name])
        check_same_grid(first or volumes, volumes)
        if first is None:
            first = volumes
            stated = given["b0_dir"] or direction(sidecar_of(given[name]), volumes.label)
            board["grid"] = geometry(volumes, stated)[0]
        if name != "unwrapped" and len(volumes.data) != 1:
            raise GeometryError(f"{volumes.label} has {len(volumes.data)} volumes. Give one.")
        if name in ("mask", "region"):
            board[name] = torch.from_numpy(np.nan_to_num(volumes.data[0]) > 0)
            continue
        broken = torch.from_numpy(nonfinite(volumes.data))
        if broken.any():
            board["invalid"] = board.get("invalid", torch.zeros_like(broken)) | broken
        image = torch.from_numpy(np.nan_to_num(volumes.data, posinf=0.0, neginf=0.0))
        board[name] = image if name == "unwrapped" else image[0]
    if first is None:
        raise InputError(f"{method.stage} {method.name} was given no image. See paradia {method.stage} {method.name} --help.")
    if "scan" in method.needs and "scan" not in board and not {*RAW, "unwrapped"} & {*method.needs}:
        board["scan"] = _strength(method, given)
    if "unwrapped" in board and "scan" in board:
        echoes, times = len(board["unwrapped"]), len(board["scan"].echo_times)
        if echoes != times:
            raise GeometryError(f"{given['unwrapped']} holds {echoes} echoes, the magnitude {times}. Give both of the same echoes.")
    return board, first.affine


def _strength(method: Method, given: dict[str, Any]) -> Scan:
    """Return a scan that tells the field strength, as stated or as a sidecar of the maps has it; its echo times mean nothing."""
    told = (number(sidecar_of(path), "MagneticFieldStrength", path.name) for path in paths_of(method, given))
    known = given["b0"] if given["b0"] is not None else next((b0 for b0 in told if b0 is not None), None)
    if known is None:
        raise MetadataError(
            f"{method.stage} {method.name} needs the field strength, which no sidecar of the maps tells. Give --b0, in tesla."
        )
    return Scan((0.02,), known)


def _stated(given: dict[str, Any]) -> dict[str, Any]:
    """Return what was stated of a scan, for its reader."""
    return {name: given.get(name) for name in ("echo_times", "b0", "b0_dir", "phase_units")} | {"flip_sign": bool(given.get("flip_sign"))}


def _acquisition(method: Method, given: dict[str, Any]) -> Acquisition:
    return from_files(
        given.get("magnitude"),
        given.get("phase"),
        **_stated(given),
        mask=given.get("mask"),
        need_phase="phase" in method.needs,
        need_scan="scan" in method.takes,
    )


def _given_coils(method: Method, given: dict[str, Any]) -> bool:
    """Tell whether the files given are images of single coils."""
    if COILS not in method.takes:
        return False
    return COILS in method.needs or any(holds_coils(given.get(name) or ()) for name in RAW)


def _coils(method: Method, given: dict[str, Any]) -> Coils:
    return coils_from_files(
        given.get("magnitude"),
        given.get("phase"),
        **_stated(given),
        need_scan="scan" in method.takes,
    )


def _covariance(path: Path) -> torch.Tensor:
    """Read the covariance of the coils' noise, which is no image."""
    try:
        matrix = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise FileError(f"there is no file {path}. Check the path.") from error
    except (OSError, ValueError, EOFError) as error:
        raise FileError(f"{path} is no NumPy file. Save the covariance with numpy.save, as a .npy file.") from error
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.dtype.kind not in "fciu":
        raise InputError(f"{path} holds no square matrix. Give the covariance of the coils' noise, complex, (coil, coil).")
    return torch.from_numpy(matrix.astype(np.complex64))


def paths_of(method: Method, given: dict[str, Any]) -> list[Path]:
    """List the files that were given."""
    paths: list[Path] = []
    for name in _images(method):
        value = given.get(name)
        if value is not None:
            paths += value if isinstance(value, list) else [value]
    return paths


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
