"""The data of a single step: files named on the command line, read onto one grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from paradia.errors import FileError, GeometryError, InputError, MetadataError
from paradia.io.acquisition import Acquisition, geometry, inside
from paradia.io.coils import holds_coils
from paradia.io.loose import Coils, coils_from_files, from_files
from paradia.io.nifti import Volumes, check_same_grid, nonfinite, read
from paradia.io.sidecar import direction, number, sidecar_of
from paradia.registry import Method
from paradia.scan import Scan

RAW = ("magnitude", "phase")
"""Data that come from the scanner and are converted on the way in."""

COILS = "coil_images"
"""Data that are read from files of magnitude and phase, and made complex."""

NOISE = "coil_noise"
"""A matrix, not an image."""

GEOMETRY = ("grid", "scan")
"""Data that are not images."""


TIMES_ALONE = frozenset(
    {
        *(("mask", name) for name in ("combined", "quality")),
        *(("unwrap", name) for name in ("best_path", "romeo", "spun")),
        *(("relaxometry", name) for name in ("arlo", "nonlinear", "r2_epg", "r2_two_echo")),
    }
)
"""Methods that ask for the scan because of its echo times; they need no field strength."""


def images_of(method: Method) -> list[str]:
    """List what is read from files; images of coils come as magnitude and phase."""
    names = [*RAW, *method.takes] if COILS in method.takes else [*method.takes]
    return [name for name in dict.fromkeys(names) if name not in (*GEOMETRY, COILS)]


def paths_of(method: Method, given: dict[str, Any]) -> list[Path]:
    """List the files that were given."""
    paths: list[Path] = []
    for name in images_of(method):
        value = given.get(name)
        if value is not None:
            paths += value if isinstance(value, list) else [value]
    return paths


def read_board(method: Method, given: dict[str, Any], extra: tuple[str, ...] = ()) -> tuple[dict[str, Any], Volumes]:
    """Put the data that were given on a board, also some that the method does not take; return the image on whose grid all lie, too."""
    board: dict[str, Any] = {}
    first: Volumes | None = None
    if _given_coils(method, given):
        coils = _coils(method, given)
        board |= {COILS: coils.images, "grid": coils.grid, **({} if coils.scan is None else {"scan": coils.scan})}
        first = Volumes(np.empty((1, *coils.grid.shape), np.float32), coils.affine, coils.sources, coils.oriented)
        if coils.nonfinite is not None and method.stage != "combine":
            board["invalid"] = coils.nonfinite
    elif any(given.get(name) for name in RAW):
        acquisition = _acquisition(method, given)
        board |= {name: getattr(acquisition, name) for name in RAW if given.get(name)}
        board |= {name: getattr(acquisition, name) for name in GEOMETRY if name in ("grid", *method.takes)}
        first = Volumes(acquisition.magnitude.numpy(), acquisition.affine, acquisition.sources, acquisition.oriented)
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
            told = None if given["b0_dir"] else direction(sidecar_of(given[name]), volumes.label)
            board["grid"] = geometry(volumes, given["b0_dir"], told)[0]
        if name != "unwrapped" and len(volumes.data) != 1:
            raise GeometryError(f"{volumes.label} has {len(volumes.data)} volumes. Give one.")
        if name in ("mask", "region"):
            board[name] = inside(volumes.data[0])
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
    return board, first


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


def _acquisition(method: Method, given: dict[str, Any]) -> Acquisition:
    return from_files(
        given.get("magnitude"),
        given.get("phase"),
        **_stated(given),
        mask=given.get("mask"),
        need_phase="phase" in method.needs,
        need_scan="scan" in method.takes,
        need_b0=(method.stage, method.name) not in TIMES_ALONE,
    )


def _stated(given: dict[str, Any]) -> dict[str, Any]:
    """Return what was stated of a scan, for its reader."""
    return {name: given.get(name) for name in ("echo_times", "b0", "b0_dir", "phase_units")} | {"flip_sign": bool(given.get("flip_sign"))}


def _strength(method: Method, given: dict[str, Any]) -> Scan:
    """Return a scan that tells the field strength, as stated or as a sidecar of the maps has it; its echo times mean nothing."""
    told = (number(sidecar_of(path), "MagneticFieldStrength", path.name) for path in paths_of(method, given))
    known = given["b0"] if given["b0"] is not None else next((b0 for b0 in told if b0 is not None), None)
    if known is None:
        raise MetadataError(
            f"{method.stage} {method.name} needs the field strength, which no sidecar of the maps tells. Give --b0, in tesla."
        )
    return Scan((0.02,), known)


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
