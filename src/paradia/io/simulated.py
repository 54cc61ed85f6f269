"""Simulated scans as a BIDS data set, and the truth about them as its derivatives."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paradia.errors import GeometryError, InputError
from paradia.grid import Grid
from paradia.io.atomic import write_json, write_text
from paradia.io.derivatives import BIDS_VERSION, MAKER, NOT_IN_BIDS, OUTPUTS, PPM_SIGN, Output, folder, write_provenance
from paradia.io.nifti import write
from paradia.io.sidecar import entries, read_json
from paradia.simulate.head import Head
from paradia.simulate.subject import Subject

TRUTH = Path("derivatives", "truth")
"""Where the truth lies within a data set."""

RAW = Path("sourcedata", "raw")
"""Where samples of k-space lie, which BIDS has no place for."""

WRITTEN = ("README", "participants.tsv", "participants.json")
"""Files beside the description of a data set that are written to its root."""

MAGNITUDE = "Given as a magnitude, 0 or more; χ = χ+ − χ−."

MAPS: Mapping[str, Output] = MappingProxyType(
    {
        **{name: OUTPUTS[name] for name in ("chi", "r2star", "total_field", "local_field")},
        "chi_pos": Output("desc-paramagnetic_Chimap", "ppm", "paramagnetic part of magnetic susceptibility", PPM_SIGN),
        "chi_neg": Output("desc-diamagnetic_Chimap", "ppm", "diamagnetic part of magnetic susceptibility", MAGNITUDE),
        "r2": Output("R2map", "1/s", "transverse relaxation rate R2"),
        "r2prime": Output("R2primemap", "1/s", "reversible transverse relaxation rate R2′"),
        "r1": Output("R1map", "1/s", "longitudinal relaxation rate R1"),
        "density": Output("PDmap", "1", "proton density, water 1"),
        "mask": Output("mask", "1", "brain mask"),
    }
)
"""The truth by the names of its data; what a simulated object does not have is left out."""

COLUMNS = ("kind", "centre_mm", "radius_mm", "chi_pos", "chi_neg", "rim")
"""What is told of a lesion."""


class Series(NamedTuple):
    """The images of one scan."""

    suffix: str
    """What BIDS calls it: ``MEGRE``, ``MESE``, ``T1w``."""
    images: Tensor
    """(echo, x, y, z); complex images are written as magnitude and phase, real ones as they are."""
    echo_times: tuple[float, ...]
    """s."""
    b0: float
    """T."""
    sidecar: Mapping[str, Any] = MappingProxyType({})
    """What else is known of it, by BIDS's names."""


def affine_of(grid: Grid, shift: Sequence[float] = (0.0, 0.0, 0.0)) -> NDArray[np.float64]:
    """Return an affine that puts B0 where the grid has it: the scanner's z axis.

    Parameters
    ----------
    grid
        Geometry.
    shift
        Where the middle of the grid lies in the scanner, mm.
    """
    x, y, z = grid.b0_dir
    cross = np.array([[0, 0, -x], [0, 0, -y], [x, y, 0]])
    turn = np.diag([1.0, -1.0, -1.0]) if z < -1 + 1e-9 else np.eye(3) + cross + cross @ cross / (1 + z)
    affine = np.eye(4)
    affine[:3, :3] = turn * grid.voxel_size
    affine[:3, 3] = np.asarray(shift) - affine[:3, :3] @ (np.array(grid.shape) - 1) / 2
    return affine


def begin(root: Path, name: str, version: str) -> None:
    """Say what a data set is, and what its derivatives are; one that was begun before is gone on with.

    Parameters
    ----------
    root
        Folder of the data set.
    name
        What it is called.
    version
        Version of Paradia.

    Raises
    ------
    InputError
        Somebody else's data are there.
    FileError
        The folder cannot be written to.
    """
    description = root / "dataset_description.json"
    if description.is_file():
        if not _simulated(description):
            raise InputError(f"{root} is a data set that was not simulated. Give another folder.")
        return
    taken = [name for name in WRITTEN if (root / name).exists()]
    if taken and not _simulated(root / TRUTH / "dataset_description.json"):  # which an interrupted beginning has left
        raise InputError(f"{root} holds {' and '.join(taken)} of something else. Give another folder.")
    made = {"BIDSVersion": BIDS_VERSION, "GeneratedBy": [{"Name": "paradia", "Version": version, "Description": MAKER}]}
    truth = {"Name": f"{name}: what it was made of", "DatasetType": "derivative", **made}
    write_json(root / TRUTH / "dataset_description.json", truth)
    write_text(root / TRUTH / ".bidsignore", "\n".join(dict.fromkeys((*NOT_IN_BIDS, "*_R2primemap.*", "*_lesions.tsv"))) + "\n")
    write_text(root / "README", f"{name}.\n\nMade by paradia simulate {version}; nobody was scanned. The truth is in {TRUTH.as_posix()}.\n")
    write_json(description, {"Name": name, "DatasetType": "raw", **made})


def _simulated(description: Path) -> bool:
    """Tell whether a description is of a data set that was simulated here."""
    return description.is_file() and any(maker.get("Description") == MAKER for maker in entries(read_json(description), "GeneratedBy"))


def write_series(root: Path, prefix: str, series: Series, affine: NDArray) -> list[Path]:
    """Write the images of a scan as a converter would: one file an echo and part, each with its sidecar.

    Parameters
    ----------
    root
        Folder of the data set.
    prefix
        Entities, such as ``sub-01_ses-1``.
    series
        The scan.
    affine
        4×4 matrix from voxel indices to scanner coordinates, mm.

    Returns
    -------
    list of Path
        The images.

    Raises
    ------
    GeometryError
        There are not as many images as echo times.
    FileError
        The folder cannot be written to.
    """
    if len(series.images) != len(series.echo_times):
        raise GeometryError(f"{prefix} has {len(series.images)} images and {len(series.echo_times)} echo times. Give one for each.")
    place, paths = folder(root, prefix), []
    numbered = len(series.images) > 1 or series.suffix in ("MEGRE", "MESE")
    for number, (image, echo_time) in enumerate(zip(series.images, series.echo_times, strict=True), 1):
        about = {
            "EchoTime": echo_time,
            **({"EchoNumber": number} if numbered else {}),
            "MagneticFieldStrength": series.b0,
            **series.sidecar,
        }
        parts = {"part-mag_": image.abs(), "part-phase_": image.angle()} if image.is_complex() else {"": image}
        for part, values in parts.items():
            stem = f"{prefix}_{f'echo-{number}_' if numbered else ''}{part}{series.suffix}"
            write_json(place / f"{stem}.json", {**about, **({"Units": "rad"} if "phase" in part else {})})
            paths.append(write(place / f"{stem}.nii.gz", values.numpy(), affine))
    return paths


def write_truth(root: Path, prefix: str, truth: Subject | Head, affine: NDArray, record: Mapping[str, Any]) -> list[Path]:
    """Write all maps that scans were made of; the record of how they were made comes last and says that all is there.

    Parameters
    ----------
    root
        Folder of the data set.
    prefix
        Entities, such as ``sub-01_ses-1``.
    truth
        What was scanned.
    affine
        4×4 matrix from voxel indices to scanner coordinates, mm.
    record
        What it takes to make it again.

    Returns
    -------
    list of Path
        The images.

    Raises
    ------
    FileError
        The folder cannot be written to.
    """
    out, paths = root / TRUTH, []
    place = folder(out, prefix)
    about = {"MagneticFieldStrength": truth.b0, "SkullStripped": False, "Sources": [MAKER]}
    for name, output in MAPS.items():
        image = getattr(truth, name, None)
        if image is None:
            continue
        sign = {"SignConvention": output.sign} if output.sign else {}
        description = output.description[0].upper() + output.description[1:] + ", the truth."
        stem = f"{prefix}_{output.suffix}"
        write_json(place / f"{stem}.json", {"Description": description, "Units": output.units, **sign, **about})
        paths.append(write(place / f"{stem}.nii.gz", image.numpy(), affine, description=f"{output.description}, {output.units}"))
    paths.append(_write_labels(place, f"{prefix}_dseg", truth.labels, truth.names, affine))
    lesions = getattr(truth, "lesions", ())
    if lesions:
        assert isinstance(truth, Subject)
        names = {0: "none", **{number: lesion.kind for number, lesion in enumerate(lesions, 1)}}
        paths.append(_write_labels(place, f"{prefix}_desc-lesions_dseg", truth.lesion_labels, names, affine))
        rows = [["index", *COLUMNS], *([str(n), *(_plain(getattr(one, c)) for c in COLUMNS)] for n, one in enumerate(lesions, 1))]
        write_table(place / f"{prefix}_lesions.tsv", rows)
    write_provenance(out, prefix, record)
    return paths


def made_before(root: Path, prefix: str, record: Mapping[str, Any]) -> bool:
    """Tell whether a subject is there already, made in the same way.

    Raises
    ------
    InputError
        It is there, but was made with other settings.
    """
    path = folder(root / TRUTH, prefix) / f"{prefix}_provenance.json"
    if not path.is_file():
        return False
    there, wanted = read_json(path), json.loads(json.dumps(dict(record)))
    differ = sorted(key for key in there.keys() | wanted.keys() if there.get(key) != wanted.get(key))
    if differ:
        key = differ[0]
        raise InputError(
            f"{prefix} in {root} was made with {key} {there.get(key)!r}, not {wanted.get(key)!r}. "
            "Give another folder, or the settings it was made with."
        )
    return True


def write_participants(root: Path, rows: Iterable[tuple[str, float | None, str | None]]) -> Path:
    """List the subjects, their ages in years and their sexes.

    Raises
    ------
    FileError
        The folder cannot be written to.
    """
    about = {
        "age": {"Description": "Age that the anatomy and its iron were drawn for.", "Units": "years"},
        "sex": {"Description": "Sex that the anatomy was drawn for.", "Levels": {"female": "female", "male": "male"}},
    }
    write_json(root / "participants.json", about)
    lines = [[label, "n/a" if age is None else f"{age:.1f}", sex or "n/a"] for label, age, sex in rows]
    return write_table(root / "participants.tsv", [["participant_id", "age", "sex"], *lines])


def write_table(path: Path, rows: Iterable[Sequence[str]]) -> Path:
    """Write a table as BIDS has them.

    Raises
    ------
    FileError
        The file cannot be written.
    """
    return write_text(path, "".join("\t".join(row) + "\n" for row in rows))


def _write_labels(place: Path, stem: str, labels: Tensor, names: Mapping[int, str], affine: NDArray) -> Path:
    """Write labels and the table of their names."""
    write_table(place / f"{stem}.tsv", [["index", "name"], *([str(index), name] for index, name in sorted(names.items()))])
    return write(place / f"{stem}.nii.gz", labels.to(torch.uint8).numpy(), affine, description="labels")


def _plain(value: Any) -> str:
    """Write a number, or several, or a word."""
    if isinstance(value, (tuple, list)):
        return ",".join(_plain(part) for part in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
