"""Fingerprints of files, for provenance and for telling whether an input has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from paradia.errors import FileError


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal.

    Raises
    ------
    FileError
        The file cannot be read.
    """
    try:
        with Path(path).open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}. Check the path and its permissions.") from error


def fingerprints(paths: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of several files by path as text.

    Raises
    ------
    FileError
        A file cannot be read.
    """
    return {str(path): sha256(path) for path in paths}
