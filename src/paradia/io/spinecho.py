"""Spin echoes of a head beside its gradient echoes, brought onto their grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paradia.errors import GeometryError, MetadataError
from paradia.io.acquisition import Acquisition
from paradia.io.loose import Paths, from_files
from paradia.io.nifti import SAME_PLACE, as_paths
from paradia.io.sidecar import sidecar_of
from paradia.registration.resample import resample
from paradia.registration.rigid import rigid

SAME_FIELD = 0.05
"""Field strengths of one magnet may differ by this share from file to file."""

LEAST = 0.5
"""Share of the gradient echoes' volume that the spin echoes have to cover."""

GUESS = "there R2 is a guess, as its standard deviation says."
"""What is said of voxels without spin echoes."""


def with_spin_echoes(
    acquisition: Acquisition,
    files: Paths,
    *,
    echo_times: Sequence[float] | None = None,
    register: bool = False,
    root: Path | None = None,
) -> Acquisition:
    """Add spin echoes to an acquisition: resampled where their grid is another, and moved there only when asked.

    Parameters
    ----------
    acquisition
        Gradient echoes.
    files
        Magnitudes of the spin echoes: one 4-D file with the echo last, or one 3-D file an echo, in order.
    echo_times
        s; from the sidecars where not given.
    register
        Find how the head moved between the scans, by ANTs; otherwise both are taken to lie where their headers say.
    root
        Root of the BIDS data set whose higher sidecars hold too.

    Raises
    ------
    MetadataError
        The field strengths of both scans differ.
    GeometryError
        The spin echoes cover less than half of the gradient echoes.
    FileError, InputError, MissingDependencyError
        As the readers say, or registration without ANTs.
    """
    paths = as_paths(files)
    told = None if any(_tells_field(path, root) for path in paths) else acquisition.scan.b0
    spin = from_files(paths, (), echo_times=echo_times, b0=told, root=root, need_phase=False, option="--spin-echo-times")
    if abs(spin.scan.b0 / acquisition.scan.b0 - 1) > SAME_FIELD:
        raise MetadataError(
            f"{paths[0]} was taken at {spin.scan.b0:g} T, the gradient echoes at {acquisition.scan.b0:g} T. Give both scans of one magnet."
        )
    magnitude, notes = _onto(acquisition, spin, register=register)
    if spin.nonfinite is not None:
        notes.append(f"{int(spin.nonfinite.sum())} voxels of the spin echoes hold NaN or Inf and were set to zero: {GUESS}")
    times = ", ".join(f"{1000 * time:.3g}" for time in spin.scan.echo_times)
    return replace(
        acquisition,
        sources=(*acquisition.sources, *spin.sources),
        notes=(*acquisition.notes, f"Spin echoes at {times} ms were found.", *notes),
        spin_echo=magnitude,
        spin_echo_scan=spin.scan,
    )


def _tells_field(path: Path, root: Path | None) -> bool:
    """Whether a sidecar says how strong the field was."""
    return any(name in sidecar_of(path, root) for name in ("MagneticFieldStrength", "ImagingFrequency"))


def _onto(acquisition: Acquisition, spin: Acquisition, *, register: bool) -> tuple[Tensor, list[str]]:
    """Lay spin echoes on the grid of the gradient echoes."""
    shape, motion = acquisition.grid.shape, None
    notes: list[str] = []
    if register:
        found = rigid(_strength(acquisition.magnitude), acquisition.affine, _strength(spin.magnitude), spin.affine)
        motion = found.matrix
        moved = float(np.linalg.norm((motion - np.eye(4)) @ [*_middle(acquisition), 1]))
        notes.append(f"The spin echoes were registered to the gradient echoes: turned by {found.angle:.2g}° and moved by {moved:.2g} mm.")
    elif spin.grid.shape == shape and _apart(acquisition, spin) <= SAME_PLACE:
        return spin.magnitude, notes
    at = (spin.affine, shape, acquisition.affine, motion)
    covered = float((resample(torch.ones(spin.grid.shape), *at, order=0) > 0).float().mean())
    if covered < LEAST:
        raise GeometryError(
            f"the spin echoes {spin.sources[0]} cover {100 * covered:.0f} % of the gradient echoes. Give scans of one head in one position "
            "of the table."
        )
    if covered < 1:
        notes.append(f"The spin echoes leave {100 * (1 - covered):.2g} % of the gradient echoes' volume uncovered: {GUESS}")
    if not register:
        size = " × ".join(f"{edge:.3g}" for edge in spin.grid.voxel_size)
        notes.append(
            f"The spin echoes ({' × '.join(map(str, spin.grid.shape))} voxels of {size} mm) were resampled to the gradient echoes by their "
            "headers alone: a head that moved in between was not moved back."
        )
    return torch.stack([resample(echo, *at) for echo in spin.magnitude]).clamp_min(0), notes


def _strength(magnitude: Tensor) -> Tensor:
    """Return the root of the sum of squares over echoes."""
    return magnitude.square().sum(0).sqrt()


def _middle(acquisition: Acquisition) -> NDArray[np.float64]:
    """Return where the middle of the volume lies, mm."""
    return (acquisition.affine @ [*((n - 1) / 2 for n in acquisition.grid.shape), 1])[:3]


def _apart(acquisition: Acquisition, spin: Acquisition) -> float:
    """Return how far voxels of both scans lie from each other at most, as a fraction of a voxel."""
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * [*(np.array(spin.grid.shape) - 1), 1]
    apart = np.linalg.norm(corners @ (acquisition.affine - spin.affine).T[:, :3], axis=1).max()
    return float(apart / min(acquisition.grid.voxel_size))
