"""Maps out, as BIDS derivatives with sidecars."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from paradia.io.atomic import write_json, write_text
from paradia.io.nifti import write

BIDS_VERSION = "1.10.0"

MAKER = "paradia simulate"
"""How descriptions of simulated data sets, and of the truth about them, say who made them."""

PPM_SIGN = "Paramagnetic is positive: veins and deep grey matter are bright."

MAGNITUDE = "Given as a magnitude, 0 or more; χ = χ+ − χ−."


class Output(NamedTuple):
    """How a map is named and what its numbers are."""

    suffix: str
    units: str
    description: str
    sign: str = ""


OUTPUTS: Mapping[str, Output] = MappingProxyType(
    {
        "magnitude": Output("part-mag_MEGRE", "arbitrary", "magnitude of each echo"),
        "phase": Output("part-phase_MEGRE", "rad", "wrapped phase of each echo", "Phase grows with the field."),
        "unwrapped": Output("part-phase_desc-unwrapped_MEGRE", "rad", "unwrapped phase of each echo", "Phase grows with the field."),
        "mask": Output("mask", "1", "brain mask"),
        "local_mask": Output("desc-local_mask", "1", "mask in which the local field and susceptibility hold"),
        "region": Output("desc-reference_mask", "1", "region whose mean susceptibility is zero"),
        "total_field": Output("fieldmap", "ppm", "total field", PPM_SIGN),
        "noise": Output("desc-noise_fieldmap", "ppm", "standard deviation of the field"),
        "offset": Output("desc-offset_phase", "rad", "phase at echo time zero", "Phase grows with the field."),
        "local_field": Output("localfield", "ppm", "local field, of the sources inside the mask", PPM_SIGN),
        "local_noise": Output("desc-noise_localfield", "ppm", "standard deviation of the local field"),
        "chi": Output("Chimap", "ppm", "magnetic susceptibility", PPM_SIGN),
        "chi_noise": Output("desc-noise_Chimap", "ppm", "standard deviation of magnetic susceptibility"),
        "residual": Output("desc-residual_localfield", "ppm", "what the sources that were found leave unexplained of the field", PPM_SIGN),
        "r2star": Output("R2starmap", "1/s", "transverse relaxation rate R2*"),
        "r2star_noise": Output("desc-noise_R2starmap", "1/s", "standard deviation of R2*"),
        "r2": Output("R2map", "1/s", "transverse relaxation rate R2"),
        "r2_noise": Output("desc-noise_R2map", "1/s", "standard deviation of R2"),
        "r2prime": Output("R2primemap", "1/s", "reversible transverse relaxation rate R2′"),
        "r2prime_noise": Output("desc-noise_R2primemap", "1/s", "standard deviation of R2′"),
        "rate_residual": Output(
            "desc-residual_R2primemap", "1/s", "what both sources leave unexplained of the reversible transverse relaxation rate"
        ),
        "chi_pos": Output("desc-paramagnetic_Chimap", "ppm", "paramagnetic part of magnetic susceptibility", PPM_SIGN),
        "chi_neg": Output("desc-diamagnetic_Chimap", "ppm", "diamagnetic part of magnetic susceptibility", MAGNITUDE),
        "chi_pos_noise": Output("desc-paramagneticNoise_Chimap", "ppm", "standard deviation of the paramagnetic part of susceptibility"),
        "chi_neg_noise": Output("desc-diamagneticNoise_Chimap", "ppm", "standard deviation of the diamagnetic part of susceptibility"),
        "chi_pos_band": Output("desc-paramagneticBand_Chimap", "ppm", "half of the range of the paramagnetic part as relaxivities vary"),
        "chi_neg_band": Output("desc-diamagneticBand_Chimap", "ppm", "half of the range of the diamagnetic part as relaxivities vary"),
        "closed_pos": Output("desc-paramagneticClosedForm_Chimap", "ppm", "paramagnetic part by the closed form", PPM_SIGN),
        "closed_neg": Output("desc-diamagneticClosedForm_Chimap", "ppm", "diamagnetic part by the closed form", MAGNITUDE),
        "disagreement": Output(
            "desc-disagreement_Chimap", "ppm", "root mean square difference between both sources and those of the closed form"
        ),
        "field_residual": Output("desc-sourceResidual_localfield", "ppm", "what both sources leave of the local field", PPM_SIGN),
        "t2star": Output("T2starmap", "s", "transverse relaxation time T2*"),
        "swi": Output("swi", "arbitrary", "susceptibility-weighted magnitude"),
        "minip": Output(
            "minIP", "arbitrary", "minimum-intensity projection of the susceptibility-weighted magnitude, a slab around every slice"
        ),
    }
)
"""Every map by the name of its data."""

NUMBERS: Mapping[str, str] = MappingProxyType({"novelty": "Novelty", "field_novelty": "FieldNovelty", "source_novelty": "SourceNovelty"})
"""Results that are numbers, not maps, and what sidecars call them."""

NOT_IN_BIDS = (
    "*_fieldmap.*",
    "*_localfield.*",
    "*_desc-noise_*",
    "*_desc-paramagneticNoise_*",
    "*_desc-diamagneticNoise_*",
    "*_desc-disagreement_*",
    "*_R2primemap.*",
    "*_desc-offset_*",
    "*_swi.*",
    "*_minIP.*",
    "*_provenance.json",
    "*.html",
    ".paradia",
)
"""Patterns for .bidsignore: what BIDS has no name for yet."""


def write_dataset_description(out: Path, *, version: str, source: Path | None = None) -> Path:
    """Say what the output folder is, and tell BIDS validators what to pass over.

    Parameters
    ----------
    out
        Output folder.
    version
        Version of Paradia.
    source
        The data set that the maps were made from.

    Raises
    ------
    FileError
        The folder cannot be written to.
    """
    description: dict[str, Any] = {
        "Name": "Paradia: maps of magnetic susceptibility",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "paradia", "Version": version}],
    }
    if source is not None:
        description["SourceDatasets"] = [{"URL": f"file://{Path(source).resolve()}"}]
    write_text(out / ".bidsignore", "\n".join(NOT_IN_BIDS) + "\n")
    return write_json(out / "dataset_description.json", description)


def folder(out: Path, prefix: str) -> Path:
    """Return where files of a prefix like ``sub-01_ses-1_run-2`` go; without a subject, the output folder itself."""
    subject = re.match(r"(sub-[^_]+)(?:_(ses-[^_]+))?", prefix)
    if subject is None:
        return out
    return out.joinpath(*(part for part in subject.groups() if part), "anat")


def map_path(out: Path, prefix: str, name: str) -> Path:
    """Return the file of a map."""
    suffix = OUTPUTS[name].suffix
    return folder(out, prefix) / f"{prefix}{'_' if prefix else ''}{suffix}.nii.gz"


def write_map(
    out: Path, prefix: str, name: str, image: Tensor, affine: NDArray[np.float64], sidecar: Mapping[str, Any], *, oriented: bool = True
) -> Path:
    """Write a map and its sidecar where BIDS would have them.

    Parameters
    ----------
    out
        Output folder.
    prefix
        Entities of the acquisition, such as ``sub-01_ses-1_run-2``; empty for loose files.
    name
        Name of the data: one of `OUTPUTS`.
    image
        (x, y, z) or (echo, x, y, z).
    affine
        4×4 matrix from voxel indices to scanner coordinates, mm.
    sidecar
        What is known of it besides units and sign.
    oriented
        Whether the affine tells how the subject lay.

    Returns
    -------
    Path
        The image.

    Raises
    ------
    FileError
        The folder cannot be written to.
    """
    return save_map(map_path(out, prefix, name), name, image, affine, sidecar, oriented=oriented)


def save_map(
    path: Path, name: str, image: Tensor, affine: NDArray[np.float64], sidecar: Mapping[str, Any], *, oriented: bool = True
) -> Path:
    """Write a map and its sidecar under a given name; the sidecar first, so that no image ever lacks one.

    Raises
    ------
    FileError
        The folder cannot be written to.
    """
    output = OUTPUTS[name]
    entries: dict[str, Any] = {"Description": output.description[0].upper() + output.description[1:] + ".", "Units": output.units}
    if output.sign:
        entries["SignConvention"] = output.sign
    stem = path.name.removesuffix(".gz").removesuffix(".nii")
    write_json(path.with_name(f"{stem}.json"), {**entries, **sidecar})
    return write(path, image.detach().cpu().numpy(), affine, description=f"{output.description}, {output.units}", oriented=oriented)


def write_provenance(out: Path, prefix: str, record: Mapping[str, Any]) -> Path:
    """Write what is needed to do a run again.

    Raises
    ------
    FileError
        The folder cannot be written to.
    """
    return write_json(folder(out, prefix) / f"{prefix}{'_' if prefix else ''}provenance.json", record)
