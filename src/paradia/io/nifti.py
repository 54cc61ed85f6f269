"""NIfTI files to arrays of echoes and back."""

from __future__ import annotations

import gzip
import warnings
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paradia.errors import FileError, GeometryError, InputError, NonFiniteError
from paradia.io._forms import contradiction
from paradia.io.atomic import replacing

SAME_PLACE = 0.05
"""Voxels of two images that lie this close together, as a fraction of a voxel, count as the same."""

TO_MM = {"meter": 1000.0, "micron": 1e-3}


@dataclass(frozen=True, eq=False)
class Volumes:
    """One or more volumes on one grid.

    Parameters
    ----------
    data
        Values with the file's scaling applied, float32, (volume, x, y, z).
    affine
        4×4 matrix from voxel indices to scanner coordinates, mm.
    paths
        Files they came from.
    oriented
        Whether the header gives an orientation at all.
    scanner
        The other affine of the header, where that one alone is said to be the scanner's and lies otherwise; B0 is read from it.
    doubt
        In what the header contradicts itself, a sentence; nothing where it does not.
    """

    data: NDArray[np.float32]
    affine: NDArray[np.float64]
    paths: tuple[Path, ...]
    oriented: bool = True
    scanner: NDArray[np.float64] | None = None
    doubt: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x, y, z."""
        x, y, z = self.data.shape[1:]
        return x, y, z

    @property
    def label(self) -> str:
        """Names of the files, short enough for a message."""
        names = [str(path) for path in self.paths]
        return names[0] if len(names) == 1 else f"{names[0]} … {Path(names[-1]).name}"


def read(paths: Path | Sequence[Path]) -> Volumes:
    """Read one 3-D or 4-D file, or several 3-D files, as a row of volumes.

    Parameters
    ----------
    paths
        A ``.nii`` or ``.nii.gz`` file whose fourth axis is the echo, or one 3-D file an echo, in order.

    Returns
    -------
    Volumes
        All volumes in order.

    Raises
    ------
    FileError
        A file is missing, truncated, corrupt or no NIfTI file.
    GeometryError
        A file has too few or too many axes, or does not lie on the grid of the first.
    """
    files = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(p) for p in paths]
    if not files:
        raise InputError("there are no files to read. Give at least one NIfTI file.")
    parts = [_read_one(path) for path in files]
    for part in parts[1:]:
        check_same_grid(parts[0], part)
    if len(parts) == 1:
        return parts[0]
    return joined(parts)


def joined(parts: Sequence[Volumes]) -> Volumes:
    """Put volumes of several files on one grid into a row; what the headers say is that of the first."""
    paths = tuple(path for part in parts for path in part.paths)
    return replace(parts[0], data=np.concatenate([p.data for p in parts]), paths=paths, oriented=all(p.oriented for p in parts))


def check_same_grid(first: Volumes, second: Volumes) -> None:
    """Check that the voxels of two images are the same voxels.

    Raises
    ------
    GeometryError
        Shapes differ, or some voxel lies elsewhere.
    """
    if first.shape != second.shape:
        raise GeometryError(
            f"{second.label} has shape {second.shape}, but {first.label} has {first.shape}. "
            "Give images of one acquisition, or resample one onto the other."
        )
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * [*(np.array(first.shape) - 1), 1]
    apart = np.linalg.norm(corners @ (first.affine - second.affine).T, axis=1).max()
    voxel = np.linalg.norm(first.affine[:3, :3], axis=0).min()
    if not apart <= SAME_PLACE * voxel:
        raise GeometryError(
            f"{second.label} and {first.label} have different affines; voxels lie up to {apart:.3g} mm apart:\n"
            f"{np.array2string(second.affine, precision=4)}\nand\n{np.array2string(first.affine, precision=4)}\n"
            "Give images of one acquisition, or resample one onto the other."
        )


def write(path: Path, data: NDArray, affine: NDArray, *, description: str = "", oriented: bool = True) -> Path:
    """Write an image so that it appears whole or not at all.

    Parameters
    ----------
    path
        Ends in ``.nii.gz`` or ``.nii``; its folder is made.
    data
        (x, y, z) or (echo, x, y, z). Truth values and labels that are uint8 are stored as uint8, all else as float32.
    affine
        4×4 matrix from voxel indices to scanner coordinates, mm.
    description
        Free text for the header, at most 79 bytes.
    oriented
        Whether the affine tells how the subject lay. Where it does not, the header says so, and no viewer letters the sides; only the voxel
        sizes are kept then, as the images that come without orientation have them.

    Raises
    ------
    FileError
        The file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".nii" and path.suffixes[-2:] != [".nii", ".gz"]:
        raise FileError(f"cannot write {path}: the name of an image ends in .nii or .nii.gz. Choose such a name.")
    values = np.asarray(data)
    values = values.astype(np.uint8 if values.dtype in (bool, np.uint8) else np.float32)
    image = nib.Nifti1Image(np.moveaxis(values, 0, 3) if values.ndim == 4 else values, np.asarray(affine, dtype=float))
    image.header.set_xyzt_units("mm", "sec")
    place = image.affine if oriented else None
    image.set_qform(place, code=int(oriented))
    image.set_sform(place, code=int(oriented))
    image.header["descrip"] = description.encode()[:79]
    with replacing(path) as handle:
        if path.suffix == ".gz":  # no name, no time: the same map is the same file, byte for byte
            with gzip.GzipFile(filename="", fileobj=handle, mode="wb", compresslevel=1, mtime=0) as packed:
                image.to_stream(packed)
        else:
            image.to_stream(handle)  # type: ignore[arg-type]
    return path


def nonfinite(data: NDArray) -> NDArray[np.bool_]:
    """Return where any volume holds NaN or Inf, (x, y, z)."""
    return ~np.isfinite(data).all(axis=0)


def _read_one(path: Path) -> Volumes:
    image = open_image(path)
    shape = axes_of(image)
    shape = (*shape[:3], *(n for n in shape[3:] if n != 1))
    if len(shape) not in (3, 4) or 0 in shape:
        coils = " Are these single coils? Combine them first, with paradia combine." if len(shape) > 4 else ""
        raise GeometryError(f"{path} has shape {image.shape}; an image has three axes, or four with the echo last.{coils}")
    return volumes_of(path, image, shape if len(shape) == 4 else (*shape, 1))


def open_image(path: Path) -> nib.Nifti1Image:
    """Open a file whose bytes are all there.

    Raises
    ------
    FileError
        The file is missing, truncated, corrupt or no NIfTI file.
    """
    return _parse(path, _bytes(path))


def axes_of(image: nib.Nifti1Image) -> tuple[int, ...]:
    """Return the shape of an image without trailing axes of one."""
    axes = tuple(int(n) for n in image.shape)
    while len(axes) > 3 and axes[-1] == 1:
        axes = axes[:-1]
    return axes


def volumes_of(path: Path, image: nib.Nifti1Image, shape: tuple[int, ...]) -> Volumes:
    """Take the values out of an image as a row of volumes, the last axis running fastest."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            data = image.get_fdata(dtype=np.float32, caching="unchanged").reshape(shape, order="F")
            affine = np.array(image.affine, dtype=float)
    except Exception as error:  # whatever a broken file makes nibabel raise
        raise _corrupt(path, error) from error
    affine[:3] *= TO_MM.get(_unit(image), 1.0)
    _check_affine(path, affine)
    oriented = bool(image.header["qform_code"] > 0 or image.header["sform_code"] > 0)
    rows = np.moveaxis(data, range(3, data.ndim), range(data.ndim - 3)).reshape(-1, *shape[:3])
    return Volumes(np.ascontiguousarray(rows, dtype=np.float32), affine, (path,), oriented, *contradiction(path.name, image.header))


def _bytes(path: Path) -> bytes:
    """Read and unpack a file; the checksum at the end of a .gz is thereby checked as well."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        if path.is_symlink():
            raise FileError(f"{path} is a link to {path.readlink()}, which is not there. Fetch it, e.g. datalad get {path.name}") from error
        raise FileError(f"there is no file {path}. Check the path.") from error
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}. Check the path and its permissions.") from error
    if not raw:
        raise FileError(f"{path} is empty. Copy or convert it again.")
    if raw.startswith(b"version https://git-lfs"):
        raise FileError(f"{path} is only a Git LFS pointer to an image. Fetch the image with: git lfs pull")
    if not raw.startswith(b"\x1f\x8b"):
        return raw
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error, MemoryError) as error:
        raise _corrupt(path, error) from error


def _parse(path: Path, raw: bytes) -> nib.Nifti1Image:
    size = int.from_bytes(raw[:4], "little")
    kind = nib.Nifti2Image if size in (540, 0x1C020000) else nib.Nifti1Image
    if size not in (348, 540, 0x5C010000, 0x1C020000):
        raise FileError(f"{path} is not a NIfTI file: it begins with {raw[:8]!r}. Convert it to .nii or .nii.gz.")
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"), nib.imageglobals.LoggingOutputSuppressor():
            warnings.simplefilter("ignore")
            image = kind.from_bytes(raw)
            header = image.header
            needed = (
                int(header["vox_offset"]) + int(np.prod([int(n) for n in image.shape], dtype=object)) * header.get_data_dtype().itemsize
            )
    except Exception as error:  # whatever a broken file makes nibabel raise
        raise _corrupt(path, error) from error
    if needed > len(raw):
        raise FileError(f"{path} is truncated: its header promises {needed} bytes and it holds {len(raw)}. Copy or convert it again.")
    if header.get_data_dtype().kind not in "iufb":
        raise FileError(
            f"{path} holds values of type {header.get_data_dtype()}. Give magnitude and phase, or real and imaginary parts, as numbers."
        )
    return image


def _unit(image: nib.Nifti1Image) -> str:
    try:
        return str(image.header.get_xyzt_units()[0])
    except KeyError:
        return "unknown"


def _check_affine(path: Path, affine: NDArray) -> None:
    """Check what every reader needs; right angles are checked by `Grid.from_affine`."""
    if not np.isfinite(affine).all() or (np.linalg.norm(affine[:3, :3], axis=0) == 0).any():
        raise GeometryError(f"{path} has no valid affine: {affine[:3].tolist()}. Repair its header.")


def _corrupt(path: Path, error: BaseException) -> FileError:
    reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
    return FileError(f"{path} is corrupt or truncated: {reason}. Copy or convert it again.")


def read_image(path: Path | str) -> tuple[Tensor, NDArray[np.float64]]:
    """Read one image as a tensor: (x, y, z), or (echo, x, y, z) of a 4-D file, and its affine in mm.

    Raises
    ------
    FileError
        The file is missing, truncated, corrupt or no NIfTI file.
    GeometryError
        It has too few or too many axes.
    NonFiniteError
        It holds NaN or Inf.
    """
    volumes = read(Path(path))
    bad = int(nonfinite(volumes.data).sum())
    if bad:
        raise NonFiniteError(f"{path} holds NaN or Inf in {bad} voxels. Set them to a number first.")
    data = torch.from_numpy(volumes.data)
    return (data[0] if len(data) == 1 else data), volumes.affine


def as_paths(paths: Path | str | Iterable[Path | str] | None) -> tuple[Path, ...]:
    """Turn what a caller may give into a tuple of paths."""
    if paths is None:
        return ()
    return (Path(paths),) if isinstance(paths, (str, Path)) else tuple(Path(p) for p in paths)
