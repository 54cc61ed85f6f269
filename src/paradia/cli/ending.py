"""How a command is ended from outside: by Ctrl-C, and by SIGTERM, with which a cluster ends what takes too long."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM came: whatever tidies up after Ctrl-C does so now."""


@contextmanager
def ended_in_order() -> Iterator[None]:
    """Raise `Terminated` where SIGTERM would kill, so that nothing half-written stays; the signal comes once, further ones are ignored.

    Whoever called this from another thread, or ignores or handles the signal, has it as before.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def ended_at_once() -> Iterator[None]:
    """Let Ctrl-C end the process without a word while nothing is begun yet.

    An interrupt in the middle of an import shows a traceback, or is taken for an error by the module that is imported.
    """
    changed = let_end()
    try:
        yield
    finally:
        if changed:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def let_end() -> bool:
    """Let Ctrl-C end the process without a word from now on, as when all is done, and tell whether it did otherwise before.

    Whoever called this from another thread, or ignores or handles the signal, has it as before.
    """
    here = threading.current_thread() is threading.main_thread()
    changed = here and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if changed:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return changed


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # batch scripts pass on what the cluster has sent to all: tidying up is not cut short
    raise Terminated("SIGTERM")
