"""Loose NIfTI files, with or without sidecars, to an acquisition."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paradia.errors import GeometryError, InputError, MetadataError, PhaseError
from paradia.grid import Grid
from paradia.io.acquisition import Acquisition, clean_magnitude, complex_to_polar, geometry, load_mask, lost_planes, merge_nonfinite
from paradia.io.coils import read_coils
from paradia.io.nifti import Volumes, as_paths, check_same_grid, read
from paradia.io.phase import to_radians
from paradia.io.sidecar import direction, scan_from, sidecar_of, stem
from paradia.scan import Scan

logger = logging.getLogger(__name__)

Paths: TypeAlias = Path | str | Iterable[Path | str] | None


def from_files(
    magnitude: Paths,
    phase: Paths,
    *,
    real: Paths = None,
    imaginary: Paths = None,
    echo_times: Sequence[float] | None = None,
    b0: float | None = None,
    b0_dir: Sequence[float] | None = None,
    phase_units: str | None = None,
    flip_sign: bool = False,
    mask: Path | str | None = None,
    name: str | None = None,
    root: Path | None = None,
    need_phase: bool = True,
    need_scan: bool = True,
    need_b0: bool = True,
    option: str = "--echo-times",
) -> Acquisition:
    """Read an acquisition and convert it to the project's units and signs.

    Parameters
    ----------
    magnitude, phase
        One 4-D file with the echo last, or one 3-D file an echo, in order. Without magnitudes all voxels weigh the same.
    real, imaginary
        The same for real and imaginary parts, instead of magnitude and phase.
    echo_times
        s; from the sidecars where not given.
    b0
        Field strength, T; from the sidecars where not given.
    b0_dir
        Direction of B0 in array axes; from the sidecar or the affine where not given.
    phase_units
        Encoding of the phase where it cannot be told; see `paradia.io.phase`.
    flip_sign
        Phase falls with the field in these files: turn its sign.
    mask
        The user's own mask.
    name
        What outputs are named after; from the file names where not given.
    root
        Root of the BIDS data set whose higher sidecars hold too.
    need_phase
        Without it, magnitudes alone will do, for relaxometry; the phase is zero then.
    need_scan
        Without it, echo times need not be known, for steps that use none; the scan means nothing then.
    need_b0
        Without it, the field strength need not be known, for steps that go by echo times alone; where it is not, that of the scan means
        nothing.
    option
        What states echo times on the command line, for messages; a BIDS data set has its sidecars alone.

    Raises
    ------
    PhaseError
        There is no phase, it is constant, or its encoding cannot be told.
    GeometryError, MetadataError, MaskError, FileError, InputError
        As the readers of each part say.
    """
    given = {key: as_paths(value) for key, value in zip(_KINDS, (magnitude, phase, real, imaginary), strict=True)}
    read_in, notes = _read(given, need_phase)
    first = read_in["magnitude"] if "magnitude" in read_in else read_in["phase"]
    label = first.label
    sidecars, phase_sidecar = _sidecars(given, root)
    if need_scan:
        offered = option if root is None else None
        scan, scan_notes = scan_from(sidecars, label, len(first.data), echo_times=echo_times, b0=b0, need_b0=need_b0, option=offered)
    else:
        scan, scan_notes = Scan(tuple(np.linspace(1e-3, 0.1, len(first.data)))), ()
    grid, where = geometry(first, b0_dir, direction(sidecars[0], label) if b0_dir is None else None)
    holes = _holes(read_in)
    bad, bad_notes = merge_nonfinite(*read_in.values())
    strength, strength_notes = _magnitude(read_in, first)
    angle, phase_notes = _phase(read_in, first, phase_units, phase_sidecar, flip_sign)
    if bad is not None:
        strength[:, bad.numpy()] = 0
        angle[:, bad.numpy()] = 0
    acquisition = Acquisition(
        magnitude=torch.from_numpy(strength),
        phase=torch.from_numpy(angle),
        grid=grid,
        scan=scan,
        affine=first.affine,
        sources=tuple(path for key in _KINDS for path in given[key]),
        notes=(*notes, *phase_notes, *strength_notes, *bad_notes, *holes, *scan_notes, where),
        name=name if name is not None else _common_name(first.paths),
        nonfinite=bad,
        metadata=dict(sidecars[0]),
        oriented=first.oriented,
    )
    if mask is None:
        return acquisition
    return replace(acquisition, mask=load_mask(Path(mask), acquisition), sources=(*acquisition.sources, Path(mask)))


class Coils(NamedTuple):
    """Images of single coils, and what is needed to understand them."""

    images: Tensor
    """Complex, (echo, coil, x, y, z), with a phase that grows with the field."""
    grid: Grid
    scan: Scan | None
    """Nothing where it is neither needed nor told."""
    affine: NDArray[np.float64]
    """4×4 matrix from voxel indices to scanner coordinates, mm."""
    sources: tuple[Path, ...]
    notes: tuple[str, ...]
    """A sentence for every conversion and assumption."""
    nonfinite: Tensor | None
    """Where a file held NaN or Inf, now zero, (x, y, z)."""
    oriented: bool
    """Whether the header says how the subject lay."""


def coils_from_files(
    magnitude: Paths,
    phase: Paths,
    *,
    echo_times: Sequence[float] | None = None,
    b0: float | None = None,
    b0_dir: Sequence[float] | None = None,
    phase_units: str | None = None,
    flip_sign: bool = False,
    need_scan: bool = True,
) -> Coils:
    """Read the images of single coils and convert them to the project's units and signs.

    Parameters
    ----------
    magnitude, phase
        One 5-D file (x, y, z, echo, coil), or one 4-D file an echo with the coil last, in order.
    echo_times, b0, b0_dir, phase_units, flip_sign, need_scan
        As of `from_files`.

    Raises
    ------
    PhaseError
        There is no phase, it is constant, or its encoding cannot be told.
    GeometryError, MetadataError, FileError, InputError
        As the readers of each part say.
    """
    given = {"magnitude": as_paths(magnitude), "phase": as_paths(phase)}
    for kind, files in given.items():
        if not files:
            raise PhaseError(f"there is no {kind}: images of single coils need magnitude and phase. Export both from the scanner.")
    read_in = {kind: read_coils(files) for kind, files in given.items()}
    (first, echoes), (angles, others) = read_in["magnitude"], read_in["phase"]
    parts = {"magnitude": first, "phase": angles}
    if echoes != others:
        raise GeometryError(f"{angles.label} holds {others} echoes, but {first.label} holds {echoes}. Give both of the same echoes.")
    _check_pair(first, angles)
    sidecars, phase_sidecar = _sidecars({kind: given.get(kind, ()) for kind in _KINDS}, None)
    scan, scan_notes = _scan_if_told(sidecars, first.label, echoes, echo_times, b0, need_scan)
    grid, where = geometry(first, b0_dir, direction(sidecars[0], first.label) if b0_dir is None else None)
    holes = _holes(parts, len(first.data) // echoes)
    bad, bad_notes = merge_nonfinite(first, angles)
    strength, strength_notes = _magnitude(parts, first)
    angle, phase_notes = _phase(parts, first, phase_units, phase_sidecar, flip_sign)
    images = torch.polar(torch.from_numpy(strength), torch.from_numpy(angle)).unflatten(0, (echoes, -1))
    if bad is not None:
        images[:, :, bad] = 0
    notes = (*phase_notes, *strength_notes, *bad_notes, *holes, *scan_notes, where)
    return Coils(images, grid, scan, first.affine, (*given["magnitude"], *given["phase"]), notes, bad, first.oriented)


_KINDS = ("magnitude", "phase", "real", "imaginary")


def _read(given: Mapping[str, tuple[Path, ...]], need_phase: bool) -> tuple[dict[str, Volumes], tuple[str, ...]]:
    """Read what is given, as magnitude and phase."""
    if given["real"] or given["imaginary"]:
        if not (given["real"] and given["imaginary"]):
            raise PhaseError("real and imaginary parts are needed both, and only one of them is given. Give the other too.")
        if given["magnitude"] or given["phase"]:
            raise InputError("give magnitude and phase, or real and imaginary parts, not both.")
        magnitude, phase = complex_to_polar(read(given["real"]), read(given["imaginary"]))
        note = "Magnitude and phase were computed from real and imaginary parts."
        return {"magnitude": magnitude, "phase": phase}, (note,)
    if not given["phase"] and (need_phase or not given["magnitude"]):
        found = ", ".join(str(path) for path in given["magnitude"]) or "no magnitude either"
        raise PhaseError(f"there is no phase, only {found}. Export the phase images from the scanner as well.")
    parts = {key: read(given[key]) for key in ("magnitude", "phase") if given[key]}
    if len(parts) == 2:
        _check_pair(parts["magnitude"], parts["phase"])
    return parts, ()


def _sidecars(given: Mapping[str, tuple[Path, ...]], root: Path | None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Merge the sidecars of each echo's two files, and return that of the first phase image by itself."""
    rows = [[sidecar_of(path, root) for path in given[key]] for key in _KINDS if given[key]]
    longest = max(rows, key=len)
    merged = [dict(sidecar) for sidecar in longest]
    for row in rows:
        for place, sidecar in enumerate(row if len(row) == len(longest) else []):
            _check_echo_time(merged[place], sidecar, given, place)
            merged[place] = {**sidecar, **merged[place]}
    return merged, sidecar_of(given["phase"][0], root) if given["phase"] else {}


def _scan_if_told(
    sidecars: list[dict[str, Any]], label: str, echoes: int, echo_times: Sequence[float] | None, b0: float | None, needed: bool
) -> tuple[Scan | None, tuple[str, ...]]:
    """Settle echo times and field strength; where nobody needs or states them, they may be unknown."""
    try:
        return scan_from(sidecars, label, echoes, echo_times=echo_times, b0=b0)
    except MetadataError:
        if needed or echo_times:
            raise
        return None, ()


def _check_echo_time(one: Mapping[str, Any], other: Mapping[str, Any], given: Mapping[str, tuple[Path, ...]], place: int) -> None:
    times = one.get("EchoTime"), other.get("EchoTime")
    if times[0] is not None and times[1] is not None and not _alike(*times):
        files = " and ".join(str(given[key][place]) for key in _KINDS if place < len(given[key]))
        raise MetadataError(
            f"{files} belong to one echo, but their sidecars give EchoTime {times[0]} and {times[1]}. Give files of one echo."
        )


def _alike(one: Any, other: Any) -> bool:
    """Compare what two sidecars say, within rounding where it is numbers."""
    if one == other:
        return True
    try:
        first, second = np.atleast_1d(np.asarray(one, float)), np.atleast_1d(np.asarray(other, float))
    except (TypeError, ValueError):
        return False
    return first.shape == second.shape and np.allclose(first, second, rtol=0, atol=1e-5)


def _check_pair(magnitude: Volumes, phase: Volumes) -> None:
    check_same_grid(magnitude, phase)
    if len(magnitude.data) != len(phase.data):
        raise GeometryError(
            f"{phase.label} holds {len(phase.data)} echoes, but {magnitude.label} holds {len(magnitude.data)}. "
            "Give magnitude and phase of the same echoes."
        )


def _holes(parts: Mapping[str, Volumes], coils: int = 1) -> tuple[str, ...]:
    """Tell of lost slices, in the notes and in the log."""
    kind = "magnitude" if "magnitude" in parts else "phase"
    notes = lost_planes(parts[kind], kind, coils)
    if not notes and "phase" in parts:
        notes = lost_planes(parts["phase"], "phase", coils)
    for note in notes:
        logger.warning("%s: %s", parts[kind].label, note)
    return notes


def _magnitude(parts: Mapping[str, Volumes], first: Volumes) -> tuple[np.ndarray, tuple[str, ...]]:
    if "magnitude" in parts:
        return clean_magnitude(parts["magnitude"])
    return np.ones_like(first.data), ("There is no magnitude; all voxels weigh the same.",)


def _phase(
    parts: Mapping[str, Volumes], first: Volumes, units: str | None, sidecar: Mapping[str, Any], flip_sign: bool
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Convert the phase to radians that grow with the field."""
    if "phase" not in parts:
        return np.zeros_like(first.data), ("There is no phase.",)
    computed = "magnitude" in parts and parts["phase"].affine is parts["magnitude"].affine
    notes: tuple[str, ...] = ()
    if computed:
        phase = np.nan_to_num(parts["phase"].data, nan=0.0)
    else:
        stated = sidecar.get("PhaseUnits", sidecar.get("Units"))
        said = str(stated) if stated is not None else None
        phase, note = to_radians(parts["phase"].data, parts["phase"].label, units=units, sidecar_units=said)
        notes = (note,)
    if not flip_sign:
        return phase, notes
    return -phase, (*notes, "The sign of the phase was turned, so that it grows with the field.")


def _common_name(paths: Sequence[Path]) -> str:
    """Name an acquisition after its files: BIDS entities without echo and part, or the name of the first file."""
    name = stem(paths[0])
    if not name.startswith("sub-"):
        return name
    return "_".join(item for item in name.split("_")[:-1] if item.partition("-")[0] not in ("echo", "part"))
