"""NIfTI files of single coils to arrays of echoes and coils."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from paradia.errors import GeometryError, InputError
from paradia.io.nifti import Volumes, axes_of, check_same_grid, joined, open_image, volumes_of


def read_coils(paths: Path | Sequence[Path]) -> tuple[Volumes, int]:
    """Read the images of single coils: one 5-D file (x, y, z, echo, coil), or one 4-D file an echo with the coil last.

    Returns
    -------
    Volumes
        All volumes, coil by coil in the first echo, then in the next.
    int
        How many echoes there are.

    Raises
    ------
    FileError
        A file is missing, truncated, corrupt or no NIfTI file.
    GeometryError
        A file has too few or too many axes, another grid, or other coils than the first.
    """
    files = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(p) for p in paths]
    if not files:
        raise InputError("there are no files to read. Give at least one NIfTI file.")
    parts, echoes = zip(*[_read_coils_of_one(path) for path in files], strict=True)
    for part, count in zip(parts, echoes, strict=True):
        check_same_grid(parts[0], part)
        if len(part.data) * echoes[0] != len(parts[0].data) * count:
            raise GeometryError(
                f"{part.label} holds {len(part.data) // count} coils, but {parts[0].label} holds {len(parts[0].data) // echoes[0]}. "
                "Give every echo with all its coils."
            )
    return (parts[0] if len(parts) == 1 else joined(parts)), sum(echoes)


def holds_coils(paths: Sequence[Path]) -> bool:
    """Tell files of single coils from files of echoes: five axes, or several files of four."""
    axes = [len(axes_of(open_image(path))) for path in paths]
    return max(axes, default=0) > 4 or (len(axes) > 1 and min(axes) == 4)


def _read_coils_of_one(path: Path) -> tuple[Volumes, int]:
    """Read a file of single coils, and tell its number of echoes."""
    image = open_image(path)
    shape = tuple(int(n) for n in image.shape)
    if len(shape) not in (3, 4, 5) or 0 in shape:
        raise GeometryError(f"{path} has shape {shape}; images of coils have five axes (x, y, z, echo, coil), or four with the coil last.")
    echoes = shape[3] if len(shape) == 5 else 1
    coils = shape[-1] if len(shape) > 3 else 1
    volumes = volumes_of(path, image, (*shape[:3], echoes, coils))
    return volumes, echoes
