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
from paradia.io.derivatives import write_dataset_description
from paradia.io.sidecar import read_json

WORK = ".paradia"
"""Folder inside the output that holds the results of steps, the lock and the log."""

LOG = f"{WORK}/run.log"
"""The log, inside the output."""

log = logging.getLogger(__name__)


@contextmanager
def open_output(out: Path, source: Path | None = None) -> Iterator[None]:
    """Hold an output folder for one run, with a log in it.

    Raises
    ------
    InputError
        The folder belongs to other data.
    FileError
        It cannot be written to.
    OutputBusyError
        Another run holds it.
    """
    _check_foreign(out)
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
        write_dataset_description(out, version=paradia.__version__, source=source)
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


def _check_foreign(out: Path) -> None:
    """Refuse a folder that another data set lives in: its description would be overwritten."""
    description = out / "dataset_description.json"
    if not description.is_file():
        return
    makers = read_json(description).get("GeneratedBy") or [{}]
    if not any(isinstance(maker, dict) and maker.get("Name") == "paradia" for maker in makers):
        raise InputError(
            f"{out} holds another data set, and inputs are only read. Give a folder such as {out / 'derivatives' / 'paradia'}."
        )
