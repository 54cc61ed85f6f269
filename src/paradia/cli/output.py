"""The folder that a run writes into: held by one run at a time, with a log of everything that is said."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

import paradia
from paradia.errors import FileError, InputError, OutputBusyError
from paradia.io.atomic import sweep
from paradia.io.derivatives import MAKER, write_dataset_description
from paradia.io.sidecar import entries, read_json

WORK = ".paradia"
"""Folder inside the output that holds the results of steps, the lock and the log."""

LOG = f"{WORK}/run.log"
"""The log, inside the output."""

KINDS = {"raw": "a data set of raw images", "truth": "the truth about simulated scans"}
"""Data sets into which no map is written, not even beside a subject's images."""

log = logging.getLogger(__name__)


@contextmanager
def open_output(out: Path, source: Path | None = None) -> Iterator[None]:
    """Hold an output folder for one run, with a log in it.

    Raises
    ------
    InputError
        The folder belongs to other data: raw images, a simulated truth, or maps of another data set.
    FileError
        It cannot be written to.
    OutputBusyError
        Another run holds it.
    """
    recorded = check_place(out, source)
    try:
        (out / WORK).mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / WORK / "lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OutputBusyError(f"another run is writing to {out}. Wait for it, or give another output folder.") from error
    except OSError as error:
        raise FileError(f"cannot write to {out}: {error.strerror or error}. Give another output folder.") from error
    with lock, logged(out):
        sweep(out)
        for part in (out / WORK / "steps").glob("*.part"):
            part.unlink(missing_ok=True)
        write_dataset_description(out, version=paradia.__version__, source=source or recorded)
        try:
            yield
        except BaseException as error:
            log.error("stopped: %s", str(error) or type(error).__name__)
            raise


@contextmanager
def logged(out: Path) -> Iterator[None]:
    """Keep a log of everything that is said, with the time; several processes may write to it.

    Raises
    ------
    FileError
        It cannot be opened.
    """
    try:
        handler = _Quiet(out / LOG, mode="a", encoding="utf-8")
    except OSError as error:
        raise FileError(f"cannot write {out / LOG}: {error.strerror or error}. Give another output folder.") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%S%z"))
    handler.addFilter(lambda record: not record.name.startswith("paradia.pipeline"))  # said with the acquisition's name below
    logger = logging.getLogger("paradia")
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        handler.close()


class _Quiet(logging.FileHandler):
    """A log that never stops a run; a full disk is told by whoever writes a map."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Let the record go."""


def check_place(out: Path, source: Path | None) -> Path | None:
    """Return the data set that the maps in a folder were made from, where one is named.

    Raises
    ------
    InputError
        Other data live in the folder, as `open_output` says.
    """
    place = out.resolve()
    for folder in (place, *place.parents):
        kind = _kind(folder.parent, source) if folder.name.startswith("sub-") else ""
        if kind in KINDS:
            raise InputError(f"{out} lies in a subject's folder of {KINDS[kind]}, and inputs are only read. {_where(folder.parent, kind)}")
    kind = _kind(place, source)
    if kind and kind != "ours":
        raise InputError(f"{out} holds {KINDS.get(kind, 'another data set')}, and inputs are only read. {_where(out, kind)}")
    recorded = _source_of(out) if kind else None
    if source is not None and recorded is not None and recorded != source.resolve() and recorded.is_dir():
        raise InputError(
            f"{out} holds maps of another data set, {recorded}, and those of {source} would take their place. Give another output folder."
        )
    return recorded


def _kind(root: Path, source: Path | None) -> str:
    """Tell what kind of data set a folder is: raw, the truth about a simulated one, maps of ours, foreign; nothing where it is none."""
    if source is not None and root == source.resolve():
        return "raw"
    description = root / "dataset_description.json"
    if not description.is_file():
        return ""
    told = read_json(description)
    if told.get("DatasetType", "raw") == "raw":  # BIDS takes what does not say for raw
        return "raw"
    makers = [maker for maker in entries(told, "GeneratedBy") if maker.get("Name") == "paradia"]
    return "foreign" if not makers else "truth" if any(maker.get("Description") == MAKER for maker in makers) else "ours"


def _source_of(out: Path) -> Path | None:
    """Return the data set that maps were made from, where their description names it."""
    named = [str(one.get("URL")) for one in entries(read_json(out / "dataset_description.json"), "SourceDatasets")]
    return next((Path(url.removeprefix("file://")) for url in named if url.startswith("file://")), None)


def _where(root: Path, kind: str) -> str:
    """Say where maps of a data set may go."""
    return f"Give a folder such as {root.parent / 'paradia' if kind == 'truth' else root / 'derivatives' / 'paradia'}."
