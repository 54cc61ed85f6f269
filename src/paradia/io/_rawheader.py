"""Headers of ISMRMRD files: what all lines share, and what the measurement was."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from paradia.errors import MetadataError
from paradia.scan import GAMMA_BAR, Scan

LPS = np.array([-1.0, -1.0, 1.0])
"""From NIfTI's world (right, forward, up) to the format's (left, back, up); its own inverse."""


def template(ismrmrd: ModuleType, shape: tuple[int, ...], coils: int, affine: NDArray, dwell: float) -> NDArray:
    """Make the header that all lines share."""
    head = np.zeros(1, dtype=ismrmrd.hdf5.acquisition_header_dtype)
    head["version"] = 1
    head["number_of_samples"], head["center_sample"] = shape[0], shape[0] // 2
    head["available_channels"] = head["active_channels"] = coils
    for word in range(math.ceil(coils / 64)):
        head["channel_mask"][0, word] = (1 << min(64, coils - 64 * word)) - 1
    head["sample_time_us"] = 1e6 * dwell
    head["position"] = LPS * (affine @ [*(n // 2 for n in shape), 1])[:3]
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    head["read_dir"], head["phase_dir"], head["slice_dir"] = LPS * axes.T
    return head


def describe(scan: Scan, shape: tuple[int, ...], coils: int, affine: NDArray, sampled: Tensor, settings: dict[str, Any]) -> Any:
    """Describe the measurement."""
    from ismrmrd import xsd

    size = xsd.matrixSizeType(**dict(zip("xyz", shape, strict=True)))
    extent = (np.linalg.norm(affine[:3, :3], axis=0) * shape).tolist()
    space = xsd.encodingSpaceType(matrixSize=size, fieldOfView_mm=xsd.fieldOfViewMm(**dict(zip("xyz", extent, strict=True))))
    limits = {f"kspace_encoding_step_{axis}": xsd.limitType(minimum=0, maximum=n - 1, center=n // 2) for axis, n in enumerate(shape)}
    limits["contrast"] = xsd.limitType(minimum=0, maximum=len(scan.echo_times) - 1, center=0)
    each = [lines.numel() / max(1, int(lines.sum())) for lines in sampled]
    net = xsd.userParametersType(userParameterDouble=[xsd.userParameterDoubleType(name="acceleration_net", value=float(np.mean(each)))])
    timing = xsd.sequenceParametersType(
        TR=[] if settings["repetition_time"] is None else [1e3 * settings["repetition_time"]],
        TE=[1e3 * t for t in scan.echo_times],
        flipAngle_deg=[] if settings["flip_angle"] is None else [settings["flip_angle"]],
        sequence_type="Flash",
    )
    return xsd.ismrmrdHeader(
        subjectInformation=xsd.subjectInformationType(patientID=settings["subject"]) if settings["subject"] else None,
        measurementInformation=xsd.measurementInformationType(patientPosition=xsd.patientPositionType.HFS),
        acquisitionSystemInformation=xsd.acquisitionSystemInformationType(
            systemVendor="Paradia", systemModel="simulated", systemFieldStrength_T=scan.b0, receiverChannels=coils
        ),
        experimentalConditions=xsd.experimentalConditionsType(H1resonanceFrequency_Hz=round(GAMMA_BAR * scan.b0)),
        encoding=[
            xsd.encodingType(
                encodedSpace=space,
                reconSpace=space,
                encodingLimits=xsd.encodingLimitsType(**limits),
                trajectory=xsd.trajectoryType.CARTESIAN,
            )
        ],
        sequenceParameters=timing,
        userParameters=net,
    )


def understand(path: Path, header: Any, heads: NDArray) -> tuple[Scan, tuple[int, ...], tuple[int, ...], NDArray]:
    """Read echo times, field, matrix and orientation out of the headers."""
    if len(header.encoding) != 1 or header.encoding[0].trajectory.value != "cartesian":
        found = ", ".join(encoding.trajectory.value for encoding in header.encoding) or "none"
        raise MetadataError(f"{path} must have one encoding, on a Cartesian grid, has: {found}. Grid it first.")
    if header.sequenceParameters is None or not header.sequenceParameters.TE:
        raise MetadataError(f"the header of {path} gives no echo times. Add them.")
    system = header.acquisitionSystemInformation
    b0 = system.systemFieldStrength_T if system is not None and system.systemFieldStrength_T else None
    if b0 is None:
        b0 = header.experimentalConditions.H1resonanceFrequency_Hz / GAMMA_BAR
    space, limits = header.encoding[0].encodedSpace, header.encoding[0].encodingLimits
    size, extent = space.matrixSize, space.fieldOfView_mm
    shape = (size.x, size.y, size.z)
    steps = (None, limits.kspace_encoding_step_1, limits.kspace_encoding_step_2)
    centres = tuple(n // 2 if step is None else step.center for n, step in zip(shape, steps, strict=True))
    first = heads[0]
    axes = np.stack([first["read_dir"], first["phase_dir"], first["slice_dir"]], 1).astype(float) * LPS[:, None]
    affine = np.eye(4)
    affine[:3, :3] = axes * np.array([extent.x, extent.y, extent.z]) / shape
    affine[:3, 3] = LPS * first["position"].astype(float) - affine[:3, :3] @ [n // 2 for n in shape]
    return Scan(tuple(1e-3 * t for t in header.sequenceParameters.TE), b0), shape, centres, affine
