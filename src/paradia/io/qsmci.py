"""Folders as the QSM-CI benchmark lays them out: canonical file names, fields and χ in ppm, ``params.json``.

Facts of the contract: phase in rad that grows with the field, echoes last; ``totalfield``, ``localfield`` and ``chimap`` in ppm
of B0; ``chi-para`` and ``chi-dia``, both 0 or more, in ppm; ``r2prime`` in 1/s; ``params.json`` with ``TE`` in s, ``B0`` in T,
``B0_dir`` in array axes and ``voxel_size`` in mm; knobs in ``config.json``, a flat object that is only there when some were turned. Data
that the contract has no file for are read and written under their own names, such as ``noise.nii.gz``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paradia.errors import FileError, GeometryError, InputError, MaskError, MetadataError
from paradia.grid import Grid
from paradia.io.acquisition import clean_magnitude
from paradia.io.atomic import write_json
from paradia.io.nifti import Volumes, check_same_grid, nonfinite, read, write
from paradia.io.phase import to_radians
from paradia.io.sidecar import read_json
from paradia.scan import Scan

NAMES = MappingProxyType(
    {"total_field": "totalfield", "local_field": "localfield", "chi": "chimap", "chi_pos": "chi-para", "chi_neg": "chi-dia"}
)
"""Names of files that differ from those of the data."""

CONTRACT = ("phase", "magnitude", "mask", "total_field", "local_field", "chi", "r2prime", "chi_pos", "chi_neg")
"""Data that the contract knows."""

SPANS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "brain-extraction": ("mask",),
        "field-mapping": ("unwrap", "fieldmap"),
        "bfr": ("background",),
        "dipole": ("inversion",),
        "unwrap+bfr": ("unwrap", "fieldmap", "background"),
        "bfr+dipole": ("background", "inversion"),
        "end-to-end": ("unwrap", "fieldmap", "background", "inversion"),
        "r2prime-generation": ("relaxometry",),
        "chi-separation": ("relaxometry", "separation"),
    }
)
"""Stages of the benchmark by its names, and what they are made of here."""

NO_FILE = MappingProxyType(
    {
        "coil_images": "the images of single coils. Combine them with `paradia combine`.",
        "directions": "the directions of several scans of one head. Work on them with `paradia cosmos`.",
    }
)
"""Data that no folder of the benchmark can hold."""

KEYS = ("TE", "B0", "B0_dir", "voxel_size")
ECHOES = ("phase", "magnitude", "unwrapped")
"""Data with an echo axis."""

FIELDS = ("total_field", "local_field", "chi")
"""Maps that are exactly zero where an earlier step gave nothing."""

SAME_SIZE = 0.01
"""Voxel sizes of ``params.json`` and of the header may differ by this much before it is said."""


class Folder(NamedTuple):
    """What was read."""

    board: dict[str, Any]
    """Data by name."""
    affine: NDArray[np.float64]
    notes: list[str]
    """Sentences on what was assumed or changed."""


def file_of(name: str) -> str:
    """Return the name of the file that holds some data."""
    return f"{NAMES.get(name, name)}.nii.gz"


def read_config(folder: Path) -> dict[str, Any]:
    """Read the knobs that were turned; none where there is no ``config.json``.

    Raises
    ------
    FileError
        It is not a JSON object.
    """
    path = folder / "config.json"
    return read_json(path) if path.is_file() else {}


def read_folder(folder: Path, needs: Iterable[str], uses: Iterable[str] = ()) -> Folder:
    """Read the data of a step.

    Parameters
    ----------
    folder
        Folder with ``params.json`` and the images.
    needs
        Names of data that have to be there.
    uses
        Names of data that are taken where they are there.

    Raises
    ------
    FileError
        A file is missing or broken.
    MetadataError
        ``params.json`` lacks something, or holds something impossible.
    GeometryError, MaskError, InputError
        Images that do not fit each other, or hold nothing.
    """
    needs, uses = list(needs), list(uses)
    if not folder.is_dir():
        raise FileError(f"there is no folder {folder}. Give the one with params.json and the images.")
    for name in needs:
        if name in NO_FILE:
            raise InputError(f"QSM-CI has no file for {NO_FILE[name]}")
    params = _params(folder)
    wanted = [name for name in (*needs, *uses) if name not in ("grid", "scan")]
    paths = {name: folder / file_of(name) for name in wanted if name in needs or (folder / file_of(name)).is_file()}
    if absent := [path.name for path in paths.values() if not path.is_file()]:
        there = ", ".join(sorted(p.name for p in folder.iterdir() if p.name.endswith(".nii.gz"))) or "no image"
        raise FileError(f"{' and '.join(absent)} not found in {folder}, which holds {there}. Add what is missing.")
    volumes = {name: read(path) for name, path in paths.items()}
    if not volumes:
        raise InputError(f"none of {', '.join(file_of(name) for name in wanted)} is in {folder}. Add one.")
    first = next(iter(volumes.values()))
    for other in volumes.values():
        check_same_grid(first, other)
    grid, notes = _grid(first, params, folder)
    board: dict[str, Any] = {"grid": grid}
    for name, image in volumes.items():
        board[name] = _image(name, image, notes)
    bad = np.logical_or.reduce(
        [nonfinite(image.data) for name, image in volumes.items() if name != "mask"] or [np.zeros(first.shape, bool)]
    )
    if "mask" in board:
        board["mask"] = _held(board, torch.from_numpy(bad), notes)
    elif bad.any():
        board["invalid"] = torch.from_numpy(bad)
    scan = _scan(params, board, folder, needed="scan" in needs)
    return Folder(board | ({"scan": scan} if scan else {}), first.affine, notes)


def write_folder(folder: Path, maps: Mapping[str, Tensor], affine: NDArray[np.float64]) -> list[Path]:
    """Write maps under their canonical names.

    Raises
    ------
    FileError
        The folder cannot be written to.
    """
    return [write(folder / file_of(name), image.detach().cpu().numpy(), affine) for name, image in maps.items()]


def write_params(folder: Path, grid: Grid, scan: Scan | None = None) -> Path:
    """Write ``params.json``; without a scan with the placeholders that the benchmark itself uses for fields in ppm.

    Raises
    ------
    FileError
        The folder cannot be written to.
    """
    times, b0 = (list(scan.echo_times), scan.b0) if scan else ([1.0], 3.0)
    return write_json(folder / "params.json", {"TE": times, "B0": b0, "B0_dir": list(grid.b0_dir), "voxel_size": list(grid.voxel_size)})


def _params(folder: Path) -> dict[str, Any]:
    path = folder / "params.json"
    if not path.is_file():
        raise FileError(f"there is no {path}. Write one with {', '.join(KEYS)}, in s, T, array axes and mm.")
    params = read_json(path)
    lengths = {"B0_dir": 3, "voxel_size": 3}
    for key in KEYS:
        if key not in params:
            raise MetadataError(f"{path} has no {key}. It must have {', '.join(KEYS)}.")
        values = params[key] if isinstance(params[key], list) else [params[key]]
        numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values)
        if not numbers or len(values) != lengths.get(key, len(values)) or (key == "B0" and len(values) != 1):
            wanted = "three numbers" if key in lengths else "a number" if key == "B0" else "numbers"
            raise MetadataError(f"{key} in {path} must be {wanted}, got {params[key]!r}. Mend it.")
    return params


def _grid(first: Volumes, params: Mapping[str, Any], folder: Path) -> tuple[Grid, list[str]]:
    """Take voxels and direction from the parameters, which hold whatever the header says."""
    try:
        grid = Grid(first.shape, tuple(params["voxel_size"]), tuple(params["B0_dir"]))
    except GeometryError as error:
        raise GeometryError(f"{folder / 'params.json'}: {error}") from error
    header = np.linalg.norm(first.affine[:3, :3], axis=0)
    if np.abs(header / grid.voxel_size - 1).max() <= SAME_SIZE:
        return grid, []
    said = " × ".join(f"{v:g}" for v in grid.voxel_size)
    return grid, [
        f"voxel_size in params.json is {said} mm, but {' × '.join(f'{v:g}' for v in header)} mm in {first.label}; the former was taken."
    ]


def _image(name: str, image: Volumes, notes: list[str]) -> Tensor:
    """Turn a file into data."""
    if name not in ECHOES and len(image.data) != 1:
        raise GeometryError(f"{image.label} has {len(image.data)} volumes. Give one.")
    if name == "mask" or name == "region":
        return torch.from_numpy(np.nan_to_num(image.data[0]) > 0.5)
    if name == "phase":
        phase, note = to_radians(image.data, image.label, units="rad")
        if "wrapped again" in note:
            notes.append(note)
        return torch.from_numpy(phase)
    if name == "magnitude":
        values, said = clean_magnitude(image)
        notes += said
        return torch.from_numpy(values)
    values = np.nan_to_num(image.data, posinf=0.0, neginf=0.0)
    return torch.from_numpy(values if name in ECHOES else values[0])


def _held(board: Mapping[str, Any], bad: Tensor, notes: list[str]) -> Tensor:
    """Take out of the mask what is no number, and where a map is exactly zero: there an earlier step gave nothing."""
    mask: Tensor = board["mask"]
    if not mask.any():
        raise MaskError("mask.nii.gz is empty: no voxel is above one half. Give another mask.")
    if (mask & bad).any():
        notes.append(f"{int((mask & bad).sum())} voxels of the mask hold NaN or Inf in some image, and were left out.")
        mask = mask & ~bad
        if not mask.any():
            raise InputError("no voxel of the mask holds a number in every image. Check the step that made them.")
    for name in FIELDS:
        if name not in board:
            continue
        empty = int((mask & (board[name] == 0)).sum())
        if empty:
            mask = mask & (board[name] != 0)
            notes.append(f"{file_of(name)} is exactly zero in {empty} voxels of the mask, which were left out.")
        if not mask.any():
            raise InputError(f"{file_of(name)} is zero all over the mask. Check the step that made it.")
    return mask


def _scan(params: Mapping[str, Any], board: Mapping[str, Any], folder: Path, *, needed: bool) -> Scan | None:
    """Read echo times and field strength, where a step asks for them or they make sense."""
    times = params["TE"] if isinstance(params["TE"], list) else [params["TE"]]
    try:
        scan = Scan(tuple(times), params["B0"][0] if isinstance(params["B0"], list) else params["B0"])
    except MetadataError as error:
        if not needed:
            return None  # the benchmark writes placeholders for stages that work in ppm
        raise MetadataError(f"{folder / 'params.json'}: {error}") from error
    for name in ECHOES:
        if name in board and len(board[name]) != len(times):
            if not needed:
                return None
            raise MetadataError(
                f"{file_of(name)} holds {len(board[name])} echoes, but TE in params.json {len(times)} times. Give one for each."
            )
    return scan
