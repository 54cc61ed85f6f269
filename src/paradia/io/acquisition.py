"""One multi-echo acquisition, in the project's units, with a record of every conversion."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paradia.errors import GeometryError, InputError, MaskError, NonFiniteError, PhaseError
from paradia.grid import Grid
from paradia.io.nifti import Volumes, check_same_grid, nonfinite, read
from paradia.scan import Scan

NEGATIVE = 1e-3
"""Magnitudes may dip this far below zero, as a fraction of the largest, through interpolation."""

APART = 5.0
"""Angle between the direction of B0 that a sidecar gives and that of the affine from which on it is warned of, degrees."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Acquisition:
    """Echoes with all that is needed to understand them.

    Parameters
    ----------
    magnitude
        Magnitudes, never negative, float32, (echo, x, y, z).
    phase
        Wrapped phase that grows with the field, rad, float32, (echo, x, y, z).
    grid, scan
        Geometry; echo times and field strength.
    affine
        4×4 matrix from voxel indices to scanner coordinates, mm.
    sources
        Files it came from.
    notes
        A sentence for every conversion and assumption.
    name
        What outputs are named after.
    mask
        Voxels that count, where the user gave a mask, bool, (x, y, z).
    nonfinite
        Where a file held NaN or Inf, now zero, bool, (x, y, z); nothing where all was finite.
    metadata
        What the sidecar of the first image says.
    oriented
        Whether the header says how the subject lay; without, the affine is made up.
    spin_echo
        Magnitudes of the spin echoes of the same head on the same grid, float32, (echo, x, y, z), where there are any.
    spin_echo_scan
        Their echo times.
    """

    magnitude: Tensor
    phase: Tensor
    grid: Grid
    scan: Scan
    affine: NDArray[np.float64]
    sources: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    name: str = ""
    mask: Tensor | None = None
    nonfinite: Tensor | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    oriented: bool = True
    spin_echo: Tensor | None = None
    spin_echo_scan: Scan | None = None

    @property
    def board(self) -> dict[str, Any]:
        """The data that a run begins with, by their names."""
        found: dict[str, Any] = {name: getattr(self, name) for name in ("magnitude", "phase", "grid", "scan")}
        if self.spin_echo is not None:
            found |= {"spin_echo_magnitude": self.spin_echo, "spin_echo_scan": self.spin_echo_scan}
        return found


def load_mask(path: Path, acquisition: Acquisition) -> Tensor:
    """Read a user's mask.

    Returns
    -------
    Tensor
        bool, (x, y, z).

    Raises
    ------
    MaskError
        It is empty, has several volumes, or holds no voxel with signal.
    GeometryError
        It does not lie on the grid of the images.
    """
    volumes = read(path)
    if len(volumes.data) != 1:
        raise MaskError(f"the mask {path} has {len(volumes.data)} volumes. Give one.")
    check_same_grid(
        Volumes(acquisition.magnitude[:1].numpy(), acquisition.affine, acquisition.sources[:1] or (Path("the images"),)), volumes
    )
    mask = inside(volumes.data[0])
    if not mask.any():
        raise MaskError(f"the mask {path} is empty: no voxel is above {_least(volumes.data[0])}. Draw it again or leave it out.")
    if not (mask & (acquisition.magnitude > 0).any(0)).any():
        raise MaskError(
            f"the mask {path} does not overlap the data: the magnitude is zero in all its {int(mask.sum())} voxels. Check its origin."
        )
    return mask


def inside(values: NDArray[np.float32]) -> Tensor:
    """Return where a mask holds: above zero where it is of whole numbers, above one half where it is of shares, as after resampling."""
    return torch.from_numpy(np.nan_to_num(values, nan=0.0) > _least(values))


def _least(values: NDArray[np.float32]) -> float:
    known = values[np.isfinite(values)]
    return 0 if (known == np.round(known)).all() else 0.5


def lost_planes(volumes: Volumes, what: str, coils: int = 1) -> tuple[str, ...]:
    """Return a sentence on planes that hold nothing but zeros, between others that hold something: slices that were lost.

    Of so many coils one after the other a plane is lost where none holds anything: far from a coil its signal is rounded to zero.
    """
    said, rows = [], []
    for first in range(0, len(volumes.data), coils):
        filled = volumes.data[first] != 0
        for volume in volumes.data[first + 1 : first + coils]:  # one at a time: there may be hundreds
            filled |= volume != 0
        rows.append([filled.any(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)])
    for name, there in zip(("first", "second", "third"), map(np.stack, zip(*rows, strict=True)), strict=True):
        begun, going_on = (np.logical_or.accumulate(side, axis=1) for side in (there, there[:, ::-1]))
        planes = (~there & begun & going_on[:, ::-1]).any(axis=0)
        if planes.any():
            listed = ", ".join(map(str, np.flatnonzero(planes)[:8])) + (", …" if planes.sum() > 8 else "")
            said.append(f"{listed} along the {name} axis")
    if not said:
        return ()
    return (f"The {what} is zero all over in planes between others, {' and '.join(said)}, counted from 0: slices seem to be lost.",)


def clean_magnitude(volumes: Volumes) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Take NaN, Inf and slight negatives out of magnitudes.

    Raises
    ------
    InputError
        There is no signal, or the values are no magnitudes.
    """
    values = np.nan_to_num(volumes.data, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low < -NEGATIVE * max(high, 0.0):
        raise InputError(
            f"{volumes.label} holds negative values down to {low:g} and so is no magnitude. Were magnitude and phase exchanged?"
        )
    if high <= 0:
        raise InputError(f"the magnitude {volumes.label} is zero everywhere. Convert it again.")
    if low == 0 or low > 0:
        return values, ()
    return np.maximum(values, 0), (f"Negative magnitudes down to {low:g} were set to zero.",)


def geometry(volumes: Volumes, stated: Sequence[float] | None, told: Sequence[float] | None = None) -> tuple[Grid, str]:
    """Return the grid of an image and a sentence on where its B0 comes from; contradictions are warned of in the log.

    Parameters
    ----------
    volumes
        The image.
    stated
        Direction of B0 in array axes as the user states it.
    told
        The same from the sidecar, which holds against the affine, as of images that were resampled.

    Raises
    ------
    GeometryError
        The affine is sheared or singular; the message names the file.
    """
    given = stated if stated is not None else told
    try:
        seen = Grid.from_affine(volumes.shape, volumes.affine if volumes.scanner is None else volumes.scanner).b0_dir
        grid = Grid.from_affine(volumes.shape, volumes.affine, seen if given is None else given)
    except GeometryError as error:
        raise GeometryError(f"{volumes.label}: {error}") from error
    source = "as stated" if stated is not None else "from B0_dir" if told is not None else "from the affine"
    said = f"B0 points along {_components(grid.b0_dir)} in array axes, {source}."
    if given is None and not volumes.oriented:
        said = f"The header gives no orientation; B0 is taken along the third axis, {_components(grid.b0_dir)} in array axes."
    angle = math.degrees(math.acos(min(abs(sum(a * b for a, b in zip(grid.b0_dir, seen, strict=True))), 1)))
    contradicted = volumes.oriented and angle > APART
    if contradicted:
        said += f" The affine says {_components(seen)}, {angle:.0f}° from it, and was not believed."
    if contradicted and stated is None:
        logger.warning("%s: %s", volumes.label, said)
    if volumes.doubt:
        logger.warning("%s", volumes.doubt)
    return grid, f"{said} {volumes.doubt}".rstrip()


def _components(direction: Sequence[float]) -> str:
    return "(" + ", ".join(f"{b:.4f}" for b in direction) + ")"


def complex_to_polar(real: Volumes, imaginary: Volumes) -> tuple[Volumes, Volumes]:
    """Turn real and imaginary parts into magnitude and phase in rad.

    Raises
    ------
    GeometryError
        They do not lie on one grid.
    PhaseError
        They do not hold as many echoes, or one is constant.
    """
    check_same_grid(real, imaginary)
    if len(real.data) != len(imaginary.data):
        raise PhaseError(
            f"{real.label} holds {len(real.data)} echoes and {imaginary.label} holds {len(imaginary.data)}. Give both parts of every echo."
        )
    for part in (real, imaginary):
        if np.ptp(part.data[np.isfinite(part.data)]) == 0:
            raise PhaseError(f"{part.label} holds the same value everywhere. Check that it was exported.")
    if whole := [part.label for part in (real, imaginary) if part.data[np.isfinite(part.data)].min() >= 0]:
        raise PhaseError(
            f"{' and '.join(whole)} {'are' if len(whole) > 1 else 'is'} nowhere negative, so that these are no real and imaginary parts. "
            "Subtract their offset, or give magnitude and phase as such."
        )
    with np.errstate(invalid="ignore", over="ignore"):
        magnitude, phase = np.hypot(real.data, imaginary.data), np.arctan2(imaginary.data, real.data)
    bad = ~np.isfinite(real.data) | ~np.isfinite(imaginary.data)
    magnitude[bad], phase[bad] = np.nan, np.nan
    first = replace(real, data=magnitude, oriented=real.oriented and imaginary.oriented)
    return first, replace(first, data=phase, paths=imaginary.paths)


def merge_nonfinite(*volumes: Volumes) -> tuple[Tensor | None, tuple[str, ...]]:
    """Return where any of the images is not finite, and a sentence that counts it."""
    bad = np.logical_or.reduce([nonfinite(v.data) for v in volumes])
    if not bad.any():
        return None, ()
    if bad.all():
        raise NonFiniteError(f"{_broken(volumes)} NaN or Inf in every voxel. Convert it again.")
    return torch.from_numpy(bad), (f"{int(bad.sum())} voxels hold NaN or Inf; they were set to zero and may not lie inside the mask.",)


def _broken(volumes: Sequence[Volumes]) -> str:
    """Name the echo and the file that hold no number at all; all files where it takes several to leave none."""
    for image in volumes:
        for echo, values in enumerate(image.data):
            if not np.isfinite(values).any():
                one = len(image.paths) == len(image.data)
                return f"{image.paths[echo]} holds" if one else f"echo {echo + 1} of {image.label} holds"
    return f"{' and '.join(image.label for image in volumes)} together hold"
