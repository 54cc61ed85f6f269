"""The command line, generated from the methods."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import warnings
from typing import TYPE_CHECKING

from paradia.cli.ending import Terminated, ended_at_once, ended_in_order, let_end

if TYPE_CHECKING:
    from cyclopts import CycloptsError


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status.

    Returns
    -------
    int
        0 when all is done, 1 when some acquisitions failed, 2 when something given has to be mended first, 130 when interrupted, 143 when
        SIGTERM came. Anything unforeseen is a bug and keeps its traceback.
    """
    # Threads that wait idly: spinning ones stall every other program, and another run, on the same cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    keep_freed_volumes()
    with ended_at_once():
        from cyclopts import CycloptsError

        from paradia.cli.app import app
        from paradia.errors import ParadiaError

    logger = logging.getLogger("paradia")
    spoken = logging.StreamHandler(sys.stderr)
    spoken.setLevel(logging.WARNING)
    spoken.setFormatter(logging.Formatter("paradia: %(message)s"))
    spoken.addFilter(told_elsewhere)
    logger.addHandler(spoken)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            with ended_at_once():  # here the command's modules are imported
                command, bound, _ = app().parse_args(arguments, exit_on_error=False, print_error=False)
            with ended_in_order():
                status = command(*bound.args, **bound.kwargs)
    except CycloptsError as error:
        said = " ".join(["paradia", *(error.command_chain or ())])
        sys.stderr.write(f"paradia: {_put(error)} See {said} --help.\n")
        return 2
    except ParadiaError as error:
        sys.stderr.write(f"paradia: {error}\n")
        return 2
    except KeyboardInterrupt as error:
        ended = isinstance(error, Terminated)
        said = "ended by SIGTERM" if ended else "interrupted"
        sys.stderr.write(f"paradia: {said}. What was finished is kept; the same command goes on from there.\n")
        return 128 + (signal.SIGTERM if ended else signal.SIGINT)
    finally:
        logger.removeHandler(spoken)
        if arguments is None:
            let_end()  # what is left is the end of the process
    return status if isinstance(status, int) else 0


def _put(error: CycloptsError) -> str:
    """Say what is wrong with a command line; of what was not given at all it would be said that it requires an argument."""
    from cyclopts import MissingArgumentError

    said = str(error)
    if isinstance(error, MissingArgumentError) and error.argument and not error.argument.tokens and not error.keyword:
        _, mark, nearest = said.partition(" Did you mean ")
        return f"{' '.join(error.command_chain or ())} needs {error.argument.name}, which was not given.{mark}{nearest}"
    return said


def keep_freed_volumes() -> None:
    """Let the C library use the memory of freed volumes again; to hand it back and fetch it anew takes a tenth of a run's time."""
    if any(name.startswith("MALLOC_") for name in os.environ):
        return  # somebody has said how it is to be
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # not glibc
    for parameter in (-1, -3):  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
        mallopt(parameter, 2**30)


def told_elsewhere(record: logging.LogRecord) -> bool:
    """Keep a log from saying what the commands say of a run by themselves, with the name of the acquisition."""
    return not record.name.startswith(("paradia.pipeline", "paradia.cli"))


def _show_warning(message, category, filename, lineno, file=None, line=None):  # noqa: ARG001
    """Say a warning as a sentence, not as a place in the code."""
    sys.stderr.write(f"paradia: {message}\n")
