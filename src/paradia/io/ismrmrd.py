"""Raw data as ISMRMRD files: samples of k-space, line by line, with what a reconstruction needs to know."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paradia.errors import FileError, GeometryError, InputError, MissingDependencyError
from paradia.grid import Grid
from paradia.io._rawheader import describe, template, understand
from paradia.io.atomic import replacing
from paradia.scan import Scan

DWELL = 5e-6
"""Time between samples where nothing else is said, s."""

BLOCK = 1024
"""Lines that are written or read at a time."""

LONGEST = 65535
"""The format counts samples, lines and channels in 16 bits."""

GROUP = "dataset"


@dataclass(frozen=True, eq=False)
class Raw:
    """Cartesian multi-echo raw data.

    Parameters
    ----------
    samples
        Complex samples (echo, coil, kx, ky, kz), the zero frequency at index n // 2 of each axis, zero where nothing was sampled;
        `paradia.fft.from_kspace` makes images of them.
    sampled
        Which lines are there, bool, (echo, ky, kz).
    scan
        Echo times and field strength.
    affine
        4×4 matrix from voxel indices to scanner coordinates, mm.
    noise
        Samples without excitation, complex, (coil, sample); None where there were none.
    repetition_time
        s; None where it is not known.
    flip_angle
        Degrees; None where it is not known.
    """

    samples: Tensor
    sampled: Tensor
    scan: Scan
    affine: NDArray[np.float64]
    noise: Tensor | None = None
    repetition_time: float | None = None
    flip_angle: float | None = None

    @property
    def grid(self) -> Grid:
        """Geometry of the images."""
        return Grid.from_affine(self.samples.shape[2:], self.affine)

    @property
    def covariance(self) -> Tensor | None:
        """Covariance of the noise of the coils, the mean of n nᴴ; None without a calibration."""
        return None if self.noise is None else self.noise @ self.noise.mH / self.noise.shape[1]


def write_raw(
    path: Path,
    samples: Iterable[Tensor],
    sampled: Tensor,
    scan: Scan,
    affine: NDArray,
    *,
    noise: Tensor | None = None,
    repetition_time: float | None = None,
    flip_angle: float | None = None,
    subject: str = "",
    dwell: float = DWELL,
) -> Path:
    """Write multi-echo k-space so that the file appears whole or not at all.

    Parameters
    ----------
    path
        The file, which by custom ends in ``.h5``.
    samples
        Complex samples of each echo (coil, kx, ky, kz), with the zero frequency at index n // 2; one echo is taken at a time, so that a
        generator keeps the memory small.
    sampled
        Which lines to write, bool, (echo, ky, kz).
    scan
        Echo times and field strength.
    affine
        4×4 matrix from voxel indices to scanner coordinates, mm.
    noise
        Complex samples without excitation (coil, sample), written as a noise measurement before all else.
    repetition_time
        s.
    flip_angle
        Degrees.
    subject
        Label of the subject.
    dwell
        Time between samples, s.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    MissingDependencyError
        The package ismrmrd is not installed.
    GeometryError
        Samples, lines, noise and scan do not fit together.
    FileError
        The file cannot be written.
    """
    ismrmrd, h5py = _packages()
    path = Path(path)
    if sampled.ndim != 3 or sampled.dtype != torch.bool or len(sampled) != len(scan.echo_times):
        raise GeometryError(f"the lines must be truth values (echo, ky, kz) of {len(scan.echo_times)} echoes, got {tuple(sampled.shape)}.")
    matrix = np.asarray(affine, dtype=float)
    settings = {"repetition_time": repetition_time, "flip_angle": flip_angle, "subject": subject}
    writer = None
    with replacing(path) as handle, h5py.File(handle.name, "w") as file:
        for number, echo in enumerate(samples):
            shape = tuple(echo.shape[1:])
            if number >= len(sampled) or echo.ndim != 4 or shape[1:] != tuple(sampled.shape[1:]) or max(*shape, len(echo)) > LONGEST:
                raise GeometryError(
                    f"echo {number + 1} has shape {tuple(echo.shape)}, the lines {tuple(sampled.shape)}. Give matching ones."
                )
            if writer is None:
                header = describe(scan, shape, len(echo), matrix, sampled, settings)
                writer = _Writer(ismrmrd, h5py, file, header, template(ismrmrd, shape, len(echo), matrix, dwell))
                if noise is not None:
                    _write_noise(writer, noise, len(echo), shape[0])
            _write_echo(writer, echo.detach().cpu(), sampled[number], number, last=number == len(sampled) - 1)
        if writer is None or number + 1 != len(sampled):
            raise GeometryError(f"there are lines of {len(sampled)} echoes, and samples of {0 if writer is None else number + 1}.")
    return path


def read_raw(path: Path) -> Raw:
    """Read Cartesian multi-echo raw data of one volume.

    Parameters
    ----------
    path
        An ISMRMRD file.  Lines that were sampled more than once are averaged; what is flagged as noise is kept apart; navigators,
        dummies and phase corrections are passed over.

    Returns
    -------
    Raw
        Samples and what is known of them.

    Raises
    ------
    MissingDependencyError
        The package ismrmrd is not installed.
    FileError
        The file is missing, damaged, or no ISMRMRD file.
    MetadataError
        The header lacks what a reconstruction needs, or the trajectory is not Cartesian.
    GeometryError
        Lines that do not fit the matrix.
    """
    ismrmrd, h5py = _packages()
    path = Path(path)
    if not path.is_file():
        raise FileError(f"there is no file {path}. Check the path.")
    try:
        with h5py.File(path, "r") as file:
            header = ismrmrd.xsd.CreateFromDocument(file[GROUP]["xml"][0])
            lines = file[GROUP]["data"]
            heads = np.concatenate([lines[i : i + BLOCK]["head"] for i in range(0, len(lines), BLOCK)])
            return _assemble(ismrmrd, path, header, heads, lines)
    except (FileError, InputError):
        raise
    except Exception as error:  # whatever a broken file makes h5py, xsdata or numpy raise
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise FileError(f"{path} is no ISMRMRD file or is damaged: {reason}. Convert it again.") from error


class _Writer:
    """Appends lines to the open file, a block at a time."""

    def __init__(self, ismrmrd: ModuleType, h5py: ModuleType, file: Any, header: Any, template: NDArray) -> None:
        self.ismrmrd, self.template, self.count = ismrmrd, template, 0
        group = file.create_group(GROUP)
        text = group.create_dataset("xml", (1,), dtype=h5py.special_dtype(vlen=bytes))
        text[0] = ismrmrd.xsd.ToXML(header).encode()
        kind = ismrmrd.hdf5.acquisition_dtype
        self.lines = group.create_dataset("data", (0,), maxshape=(None,), chunks=(256,), dtype=kind)

    def append(self, heads: NDArray, values: NDArray) -> None:
        """Write headers and complex values (line, coil, sample)."""
        rows = np.empty(len(heads), dtype=self.lines.dtype)
        heads["scan_counter"] = np.arange(self.count, self.count + len(heads))
        rows["head"] = heads
        flat = np.ascontiguousarray(values, dtype=np.complex64).view(np.float32).reshape(len(heads), -1)
        nothing = np.empty(0, np.float32)
        for index, row in enumerate(flat):
            rows["data"][index], rows["traj"][index] = row, nothing
        self.lines.resize(self.count + len(heads), axis=0)
        self.lines[self.count :] = rows
        self.count += len(heads)

    def flag(self, name: str) -> np.uint64:
        """Return the bit of a flag by its name."""
        return np.uint64(1 << (getattr(self.ismrmrd, f"ACQ_{name}") - 1))


def _write_noise(writer: _Writer, noise: Tensor, coils: int, length: int) -> None:
    """Write samples of noise in pieces as long as a line."""
    if noise.ndim != 2 or len(noise) != coils or noise.shape[1] < 1:
        raise GeometryError(f"the noise has shape {tuple(noise.shape)}, the samples {coils} coils. Give (coil, sample).")
    pieces = math.ceil(noise.shape[1] / length)
    for piece in noise.detach().cpu().tensor_split(pieces, dim=1):
        heads = writer.template.copy()
        heads["number_of_samples"], heads["center_sample"] = piece.shape[1], 0
        heads["flags"] = writer.flag("IS_NOISE_MEASUREMENT")
        writer.append(heads, piece.numpy()[None])


def _write_echo(writer: _Writer, echo: Tensor, lines: Tensor, number: int, *, last: bool) -> None:
    """Write the sampled lines of an echo."""
    places = lines.nonzero().numpy()
    for start in range(0, len(places), BLOCK):
        part = places[start : start + BLOCK]
        heads = np.repeat(writer.template, len(part))
        heads["idx"]["kspace_encode_step_1"], heads["idx"]["kspace_encode_step_2"] = part.T
        heads["idx"]["contrast"] = number
        if start == 0:
            heads["flags"][0] |= writer.flag("FIRST_IN_CONTRAST")
        if start + BLOCK >= len(places):
            heads["flags"][-1] |= writer.flag("LAST_IN_CONTRAST") | (writer.flag("LAST_IN_MEASUREMENT") if last else np.uint64(0))
        y, z = torch.from_numpy(part).T
        writer.append(heads, echo[:, :, y, z].permute(2, 0, 1).numpy())


def _assemble(ismrmrd: ModuleType, path: Path, header: Any, heads: NDArray, lines: Any) -> Raw:
    """Put the lines where they belong."""
    scan, shape, centres, affine = understand(path, header, heads)
    skip = [getattr(ismrmrd, f"ACQ_IS_{name}") for name in ("NAVIGATION_DATA", "PHASECORR_DATA", "DUMMYSCAN_DATA", "PARALLEL_CALIBRATION")]
    skipped = np.bitwise_and(heads["flags"], np.uint64(sum(1 << (bit - 1) for bit in skip))) > 0
    is_noise = np.bitwise_and(heads["flags"], np.uint64(1 << (ismrmrd.ACQ_IS_NOISE_MEASUREMENT - 1))) > 0
    turned = np.bitwise_and(heads["flags"], np.uint64(1 << (ismrmrd.ACQ_IS_REVERSE - 1))) > 0
    y, z = (heads["idx"][f"kspace_encode_step_{n}"].astype(int) - centres[n] + shape[n] // 2 for n in (1, 2))
    echo = heads["idx"]["contrast"].astype(int)
    wanted = ~skipped & ~is_noise
    if not wanted.any():
        raise FileError(f"{path} holds no lines of an image. Export it again.")
    coils = int(heads["active_channels"][wanted][0])
    fits = (heads["number_of_samples"] == shape[0]) & (heads["active_channels"] == coils) & (echo < len(scan.echo_times))
    fits &= (y >= 0) & (y < shape[1]) & (z >= 0) & (z < shape[2])
    if not fits[wanted].all():
        bad = int(np.flatnonzero(wanted & ~fits)[0])
        raise GeometryError(
            f"line {bad} of {path} does not fit its header: {heads['number_of_samples'][bad]} samples of {heads['active_channels'][bad]} "
            f"coils at {y[bad]}, {z[bad]} of {shape}, echo {echo[bad] + 1}. Take away oversampling and partial echoes first."
        )
    samples = np.zeros((len(scan.echo_times), shape[1], shape[2], coils, shape[0]), np.complex64)
    times, noise = np.zeros(samples.shape[:3], np.int64), []
    for start in range(0, len(heads), BLOCK):
        for index, values in enumerate(lines[start : start + BLOCK]["data"], start):
            if is_noise[index]:
                noise.append(values.view(np.complex64).reshape(int(heads["active_channels"][index]), -1))
            elif wanted[index]:
                line = values.view(np.complex64).reshape(coils, shape[0])
                samples[echo[index], y[index], z[index]] += line[:, ::-1] if turned[index] else line
                times[echo[index], y[index], z[index]] += 1
    samples /= np.maximum(times, 1)[..., None, None]
    timing = header.sequenceParameters
    return Raw(
        torch.from_numpy(samples).permute(0, 3, 4, 1, 2).contiguous(),
        torch.from_numpy(times > 0),
        scan,
        affine,
        torch.from_numpy(np.concatenate(noise, 1)) if noise else None,
        1e-3 * float(timing.TR[0]) if timing.TR else None,
        float(timing.flipAngle_deg[0]) if timing.flipAngle_deg else None,
    )


def require() -> None:
    """Check that what this format needs is installed, before anything is computed.

    Raises
    ------
    MissingDependencyError
        The package ismrmrd is not installed.
    """
    _packages()


def _packages() -> tuple[ModuleType, ModuleType]:
    """Import what only this format needs."""
    try:
        import h5py
        import ismrmrd
        import ismrmrd.hdf5
        import ismrmrd.xsd
    except ImportError as error:
        raise MissingDependencyError("ISMRMRD files need the package ismrmrd. Install it with: pip install 'paradia[raw]'") from error
    return ismrmrd, h5py
