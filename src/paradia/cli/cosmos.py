"""``paradia cosmos``: one χ from scans of a head in several orientations."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from cyclopts import Parameter
from numpy.typing import NDArray
from torch import Tensor

from paradia.cli.plan import pick_device
from paradia.cli.progress import Progress
from paradia.cli.provenance import versions
from paradia.errors import GeometryError, InputError, MaskError
from paradia.grid import Grid
from paradia.io.acquisition import geometry, inside
from paradia.io.atomic import check_writable
from paradia.io.derivatives import save_map
from paradia.io.nifti import Volumes, check_same_grid, nonfinite, read
from paradia.io.sidecar import direction, sidecar_of
from paradia.pipeline.knobs import check_knob
from paradia.registration.resample import resample
from paradia.registration.rigid import Rigid, rigid
from paradia.registry import load

Files = Annotated[list[Path], Parameter(consume_multiple=True)]

AT_HAND = ("total_field", "mask", "grid", "magnitude")
"""What background removal can be given."""

INSIDE = 0.99
"""Share of a voxel that must come from inside a mask after it was turned."""


@dataclass
class _Orientation:
    """One scan, as it was given."""

    field: Tensor
    mask: Tensor
    magnitude: Tensor
    noise: Tensor | None
    grid: Grid
    affine: NDArray[np.float64]
    oriented: bool


def cosmos(
    out: Path,
    /,
    *,
    field: Files,
    mask: Files,
    magnitude: Files,
    noise: Files | None = None,
    background: str | None = None,
    registered: bool = False,
    weight: float | None = None,
    device: str = "auto",
) -> int:
    """Map one head that was scanned in several orientations, the images registered on the way.

    Every scan is laid on the first by a rigid registration of the magnitudes, and the directions of B0 turn along.

    Parameters
    ----------
    out
        NIfTI file for χ, on the grid of the first scan.
    field
        Local fields, ppm, one file an orientation; total fields with --background.
    mask
        Masks, in the same order.
    magnitude
        Magnitudes, in the same order; of a 4-D file the volumes' root mean square is taken.
    noise
        Standard deviations of the fields, ppm, in the same order.
    background
        The fields are total fields: remove the background of each by this method first, such as joint or vsharp.
    registered
        The images are all on one grid already; their sidecars then must tell the direction of B0 (B0_dir).
    weight
        As in ``paradia inversion cosmos``.
    device
        cpu, cuda, cuda:1, or auto for the best there is.
    """
    if not out.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"the result is a NIfTI file, got {out}. Give a name that ends in .nii.gz.")
    counts = {"field": len(field), "mask": len(mask), "magnitude": len(magnitude)} | ({"noise": len(noise)} if noise else {})
    if len(set(counts.values())) != 1 or len(field) < 2:
        raise InputError(f"give two or more orientations and one file of each kind for every one, got {counts}.")
    sources = [*field, *mask, *magnitude, *(noise or [])]
    if out.resolve() in {path.resolve() for path in sources}:
        raise InputError(f"the input {out} would be overwritten. Give another name for the result.")
    knobs = {} if weight is None else {"weight": weight}
    for knob, value in knobs.items():
        check_knob(load("inversion", "cosmos"), knob, value)
    if background is not None:
        _check_background(background, noisy=bool(noise))
    check_writable(out)
    place = pick_device(device)
    with Progress() as progress:
        scans = [_read(*paths, told=registered) for paths in zip(field, mask, magnitude, _optional(noise, len(field)), strict=True)]
        if background is not None:
            scans = [_local(scan, background, place) for scan in scans]
            progress.done(f"background removed by {background}")
        first = scans[0]
        motions = [Rigid(np.eye(4)) if registered else _motion(first, scan) for scan in scans]
        fields, common, noises, directions = _together(first, scans, motions)
        for path, angle in zip(field, _angles(directions), strict=True):
            progress.done(f"{path.name}: B0 {angle:.1f}° from that of the first")
        chi = load("inversion", "cosmos").function(
            fields.to(place), common.to(place), first.grid, directions.to(place), None if noises is None else noises.to(place), **knobs
        )
        sidecar: dict[str, Any] = {
            "EstimationAlgorithm": "inversion/cosmos",
            "Parameters": {**knobs, "background": background, "registered": registered},
            "DOI": load("inversion", "cosmos").cite,
            "Sources": [str(path) for path in sources],
            "B0_dirs": directions.tolist(),
            "B0_angles": _angles(directions),
            **({} if registered else {"RotationAngles": [motion.angle for motion in motions]}),
            "Command": shlex.join(["paradia", *sys.argv[1:]]),
            "SoftwareVersions": versions(),
        }
        save_map(out, "chi", chi.cpu(), first.affine, sidecar, oriented=first.oriented)
        progress.done(str(out))
    return 0


def _check_background(name: str, *, noisy: bool) -> None:
    """Refuse a method that asks for what is not at hand."""
    method = load("background", name)
    missing = sorted({*method.needs} - {*AT_HAND, *(["noise"] if noisy else [])})
    if missing:
        raise InputError(
            f"background {name} needs {', '.join(missing)}, which paradia cosmos was not given or does not read. "
            "Take a method of total fields, such as joint or vsharp."
        )


def _read(field: Path, mask: Path, magnitude: Path, noise: Path | None, *, told: bool) -> _Orientation:
    """Read the images of one scan, which lie on one grid."""
    lead = read(field)
    others = [read(path) for path in (mask, magnitude, *([noise] if noise else []))]
    for other in others:
        check_same_grid(lead, other)
    for volumes in (lead, others[0], *others[2:]):  # of magnitudes there may be several
        if len(volumes.data) != 1:
            raise GeometryError(f"{volumes.label} has {len(volumes.data)} volumes. Give one file of one volume an orientation.")
    b0_dir = direction(sidecar_of(field), lead.label)
    if told and b0_dir is None:
        raise InputError(f"{field} is said to be registered, but nothing beside it tells where B0 pointed. Write B0_dir into its JSON.")
    grid = geometry(lead, b0_dir)[0] if told else geometry(lead, None, b0_dir)[0]
    holds = inside(others[0].data[0])
    for volumes in (lead, *others[1:]):
        holds &= torch.from_numpy(~nonfinite(volumes.data))
    if not bool(holds.any()):
        raise MaskError(f"the mask {mask} is empty. Give another mask.")
    return _Orientation(
        _clean(lead)[0] * holds,
        holds,
        _clean(others[1]).square().mean(0).sqrt() * holds,
        _clean(others[2])[0] * holds if noise else None,
        grid,
        lead.affine,
        lead.oriented,
    )


def _optional(files: list[Path] | None, count: int) -> list[Path | None]:
    return [*files] if files else [None] * count


def _clean(volumes: Volumes) -> Tensor:
    return torch.from_numpy(np.nan_to_num(volumes.data, posinf=0.0, neginf=0.0))


def _local(scan: _Orientation, background: str, place: str) -> _Orientation:
    """Remove the background field of one scan."""
    method = load("background", background)
    board = {"total_field": scan.field, "mask": scan.mask, "noise": scan.noise, "grid": scan.grid, "magnitude": scan.magnitude[None]}
    data = {name: board.get(name) for name in method.takes if name in method.needs or board.get(name) is not None}
    result = method.function(**{name: v.to(place) if isinstance(v, Tensor) else v for name, v in data.items()})
    local, mask = result.local_field.cpu(), result.mask.cpu()
    return replace(scan, field=local, mask=mask)


def _motion(first: _Orientation, scan: _Orientation) -> Rigid:
    """Find how the head moved since the first scan."""
    if scan is first:
        return Rigid(np.eye(4))
    return rigid(first.magnitude, first.affine, scan.magnitude, scan.affine)


def _together(first: _Orientation, scans: list[_Orientation], motions: list[Rigid]) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Lay all scans on the first: fields, the mask they share, noises, and the directions of B0 in its array axes."""
    shape, onto = first.grid.shape, first.affine
    fields, noises, directions = [], [], []
    common = torch.ones(shape, dtype=torch.bool)
    for scan, motion in zip(scans, motions, strict=True):
        if scan is first or (np.allclose(motion.matrix, np.eye(4)) and np.allclose(scan.affine, onto)):
            field, noise, holds = scan.field, scan.noise, scan.mask
        else:
            at = (scan.affine, shape, onto, motion.matrix)
            field = resample(scan.field, *at, mask=scan.mask)
            noise = None if scan.noise is None else resample(scan.noise, *at, mask=scan.mask, order=1)
            holds = resample(scan.mask.float(), *at, order=1) > INSIDE
        common &= holds
        fields.append(field)
        noises.append(noise)
        world = _axes(scan.affine) @ np.array(scan.grid.b0_dir)
        directions.append(_axes(onto).T @ motion.turn(world))
    if not bool(common.any()):
        raise MaskError("the masks share no voxel after registration. Check the images, or register them beforehand (--registered).")
    kept = None if any(noise is None for noise in noises) else torch.stack([noise for noise in noises if noise is not None]) * common
    return torch.stack(fields) * common, common, kept, torch.from_numpy(np.array(directions)).float()


def _angles(directions: Tensor) -> list[float]:
    """Return how far each direction is from the first, degrees: what conditions the problem, unlike a turn about B0."""
    apart = torch.linalg.vector_norm(torch.linalg.cross(directions, directions[:1].expand_as(directions)), dim=1)
    return torch.rad2deg(torch.atan2(apart, directions @ directions[0])).tolist()


def _axes(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the unit vectors of the array's axes in the world, in columns."""
    matrix = affine[:3, :3]
    return matrix / np.linalg.norm(matrix, axis=0)
