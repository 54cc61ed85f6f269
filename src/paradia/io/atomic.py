"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from paradia.errors import FileError

MARK = ".paradia-part"
"""How the name of an unfinished file ends; it begins with a dot."""

ADVICE = {
    errno.ENOSPC: "The disk is full. Free some space or write to another disk",
    errno.EDQUOT: "The disk quota is used up. Free some space or write to another disk",
    errno.EFBIG: "The file would be larger than the system allows. Raise the limit or write to another disk",
    errno.EROFS: "The disk is read-only. Write to another folder",
    errno.EACCES: "The folder is not writable. Change its permissions or write to another folder",
    errno.EPERM: "The folder is not writable. Change its permissions or write to another folder",
    errno.ENOTDIR: "A part of the path is a file where a folder is needed. Choose another path",
    errno.EISDIR: "There is a folder of that name. Choose another path",
    errno.EIO: "The disk reports an error. Check it, or write to another disk",
}


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that takes its name only when it is complete and on the disk.

    Parameters
    ----------
    path
        Where the file will be; its folder is made. What was there stays until the new file is complete.

    Yields
    ------
    IO[bytes]
        The unfinished file, in the same folder under a hidden name; removed when anything fails.

    Raises
    ------
    FileError
        The file cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{MARK}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(part, path)  # noqa: PTH105
        _sync_folder(path.parent)
    except OSError as error:
        _discard(part)
        if isinstance(error, FileError):
            raise
        raise cannot_write(path, error) from error
    except BaseException:  # also when interrupted: nothing half-written stays
        _discard(part)
        raise


def check_writable(path: Path) -> None:
    """Find out, before anything is computed, whether a file could be written; nothing is left behind, not even its folder.

    Parameters
    ----------
    path
        Where the file will be.

    Raises
    ------
    FileError
        It could not.
    """
    try:
        nearest = next(folder for folder in Path(path).absolute().parents if folder.exists())
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise cannot_write(path, error) from error


def write_text(path: Path, text: str) -> Path:
    """Write a text file whole or not at all.

    Raises
    ------
    FileError
        The file cannot be written.
    """
    with replacing(path) as handle:
        handle.write(text.encode())
    return Path(path)


def write_json(path: Path, values: Mapping[str, Any]) -> Path:
    """Write a JSON file whole or not at all.

    Raises
    ------
    FileError
        The file cannot be written.
    """
    return write_text(path, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sweep(folder: Path) -> int:
    """Remove what killed runs left unfinished below a folder; call it only while no other run writes there.

    Returns
    -------
    int
        How many files were removed.
    """
    parts = [p for p in Path(folder).rglob(f".*{MARK}") if p.is_file()]
    for part in parts:
        _discard(part)
    return len(parts)


def cannot_write(path: Path, error: OSError) -> FileError:
    """Say why a file cannot be written and what to do."""
    advice = ADVICE.get(error.errno or 0, "Check the folder")
    return FileError(f"cannot write {path}: {error.strerror or error}. {advice}.")


def _discard(part: Path) -> None:
    with contextlib.suppress(OSError):
        part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
