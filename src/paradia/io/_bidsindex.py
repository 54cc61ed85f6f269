"""Which files a BIDS data set holds, and what their names say."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from paradia.errors import FileError, MetadataError
from paradia.io.sidecar import read_json, stem


def check_dataset(root: Path) -> None:
    """Check that a folder looks like a BIDS data set.

    Raises
    ------
    FileError
        ``dataset_description.json`` or all subjects are missing.
    MetadataError
        The description lacks what BIDS requires.
    """
    skip = "Mend it, or run with --skip-bids-validation."
    description = root / "dataset_description.json"
    if not description.is_file():
        raise FileError(f"{root} is no BIDS data set: there is no dataset_description.json. {skip}")
    missing = {"Name", "BIDSVersion"} - read_json(description).keys()
    if missing:
        raise MetadataError(f"{description} lacks {' and '.join(sorted(missing))}. {skip}")
    if not any(p.is_dir() for p in root.glob("sub-*")):
        raise FileError(f"{root} is no BIDS data set: there is no folder sub-*. {skip}")


def indexed(root: Path, subjects: Sequence[str] | None) -> Iterator[Path]:
    """List the data files of a data set."""
    from bids2table import index_dataset  # late: it brings pyarrow along

    include = None if subjects is None else [f"sub-{label}" for label in subjects]
    with _plain_name(root) as plain, _quiet():
        table = index_dataset(plain, include_subjects=include)
    yield from (root / path for path in table.column("path").to_pylist())


def entities_of(path: Path) -> dict[str, str]:
    """Take the entities of a file's name apart."""
    return {key: value for key, dash, value in (item.partition("-") for item in stem(path).split("_")) if dash}


@contextmanager
def _plain_name(root: Path) -> Iterator[Path]:
    """Give the indexer a folder without a dot in its name; it takes no other for a data set."""
    if root.name and "." not in root.name and not root.name.startswith("sub-"):
        yield root
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "dataset"
        link.symlink_to(root, target_is_directory=True)
        yield link


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the indexer from printing; what matters is told by errors here."""
    noisy = logging.getLogger("bids2table")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        yield
    finally:
        noisy.setLevel(level)
