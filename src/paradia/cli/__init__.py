"""The command line, generated from the methods."""

from __future__ import annotations

import sys
import warnings


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status.

    What is the user's to mend is told in a sentence; anything else is a bug and keeps its traceback.
    """
    from paradia.cli.app import app
    from paradia.errors import ParadiaError

    warnings.showwarning = _show_warning
    try:
        status = app()(arguments, exit_on_error=True, print_error=True)
    except ParadiaError as error:
        sys.stderr.write(f"paradia: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("paradia: interrupted. What was finished is kept; the same command goes on from there.\n")
        return 130
    return status if isinstance(status, int) else 0


def _show_warning(message, category, filename, lineno, file=None, line=None):  # noqa: ARG001
    """Say a warning as a sentence, not as a place in the code."""
    sys.stderr.write(f"paradia: {message}\n")
