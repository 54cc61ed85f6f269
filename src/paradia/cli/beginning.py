"""What a comparison begins with, read onto one grid: a scan, or one field with its mask."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from paradia.errors import GeometryError, InputError
from paradia.io.acquisition import clean_magnitude, geometry, inside
from paradia.io.loose import from_files
from paradia.io.nifti import Volumes, check_same_grid, nonfinite, read
from paradia.io.sidecar import direction, sidecar_of
from paradia.scan import Scan


class Beginning(NamedTuple):
    """What was read."""

    board: dict[str, Any]
    """Data by name."""
    first: Volumes
    """The image on whose grid all lie."""
    oriented: bool
    """Whether a header says how the subject lay."""


def begin(
    fields: Mapping[str, Path], magnitude: list[Path] | None, phase: list[Path] | None, stated: dict[str, Any], told: dict[str, Any]
) -> Beginning:
    """Read what all methods begin with.

    Parameters
    ----------
    fields
        Files of ``total_field`` or ``local_field``, ``noise``, ``mask``: those that were given.
    magnitude, phase
        Files of the scan; magnitudes may stand beside a field too.
    stated
        ``echo_times``, ``b0``, ``b0_dir``.
    told
        How the phase is to be read: ``phase_units``, ``flip_sign``.

    Raises
    ------
    InputError
        There is no beginning, there are two, or something was given that would be ignored.
    """
    if not {"total_field", "local_field"} & fields.keys():
        if not phase:
            raise InputError("there is nothing to work on. Give --magnitude and --phase, or --total-field or --local-field with --mask.")
        if "noise" in fields:
            raise InputError("--noise belongs to a field, and a run that begins with the phase finds its own. Leave it out.")
        return _scan(magnitude, phase, fields.get("mask"), stated | told)
    if phase or {"total_field", "local_field"} <= fields.keys():
        raise InputError("give one beginning: the phase, the total field or the local field.")
    if told["phase_units"] is not None or told["flip_sign"]:
        raise InputError("--phase-units and --flip-sign say how phase is to be read, and a field is given. Leave them out.")
    if (stated["echo_times"] is None) != (stated["b0"] is None):
        raise InputError("beside a field, echo times and field strength are used together. Give both --echo-times and --b0, or neither.")
    return _field(fields, magnitude, stated)


def volume(path: Path, first: Volumes) -> np.ndarray:
    """Read one volume on the grid of the others, as its file has it.

    Raises
    ------
    GeometryError
        It lies on another grid, or there are several.
    """
    found = read(path)
    check_same_grid(first, found)
    if len(found.data) != 1:
        raise GeometryError(f"{found.label} has {len(found.data)} volumes. Give one.")
    return found.data[0]


def _scan(magnitude: list[Path] | None, phase: list[Path], mask: Path | None, how: dict[str, Any]) -> Beginning:
    """Read a scan from loose files."""
    acquisition = from_files(magnitude, phase, mask=mask, **how)
    board: dict[str, Any] = {name: getattr(acquisition, name) for name in ("magnitude", "phase", "grid", "scan")}
    if acquisition.mask is not None:
        board["mask"] = acquisition.mask
    if acquisition.nonfinite is not None:
        board["invalid"] = acquisition.nonfinite
    first = Volumes(acquisition.magnitude.numpy(), acquisition.affine, acquisition.sources)
    return Beginning(board, first, acquisition.oriented)


def _field(paths: Mapping[str, Path], magnitude: list[Path] | None, how: dict[str, Any]) -> Beginning:
    """Read a field and what belongs to it."""
    if "mask" not in paths:
        raise InputError("a field does not tell where the brain is. Give its --mask too.")
    first = read(next(iter(paths.values())))
    told = None if how["b0_dir"] else direction(sidecar_of(first.paths[0]), first.label)
    board: dict[str, Any] = {"grid": geometry(first, how["b0_dir"], told)[0]}
    broken = np.zeros(first.shape, bool)
    for name, path in paths.items():
        image = volume(path, first)
        if name == "mask":
            board[name] = inside(image)
            continue
        broken |= ~np.isfinite(image)
        board[name] = torch.from_numpy(np.nan_to_num(image, posinf=0.0, neginf=0.0))
    if magnitude:
        values = read(magnitude)
        check_same_grid(first, values)
        broken |= nonfinite(values.data)
        board["magnitude"] = torch.from_numpy(clean_magnitude(values)[0])
    if broken.any():
        board["invalid"] = torch.from_numpy(broken)
    if how["echo_times"] and how["b0"]:
        board["scan"] = Scan(tuple(how["echo_times"]), how["b0"])
    return Beginning(board, first, first.oriented)
