"""Every error and warning that Paradia raises on purpose.

::

    ParadiaError
    ├── InputError (ValueError)         something given is wrong
    │   ├── MetadataError               echo times, field strength, sidecars
    │   ├── GeometryError               shapes, affines, voxel sizes
    │   ├── MaskError                   empty, outside the data, wrong shape
    │   ├── PhaseError                  absent, constant, or in an unknown encoding
    │   └── NonFiniteError              NaN or Inf where a number is needed
    ├── FileError (OSError)             missing, truncated, unreadable, not writable
    │   └── OutputBusyError             another run is writing there
    ├── UnknownNameError (LookupError)
    │   ├── UnknownStageError
    │   ├── UnknownMethodError
    │   ├── UnknownKnobError
    │   └── UnknownProtocolError
    ├── WeightsError (LookupError)      weights of a network are missing or not the released ones
    └── MissingDependencyError (ImportError)

    ParadiaWarning (UserWarning)
    └── ConvergenceWarning              an iteration stopped at its limit

A message says what is wrong, what was given and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ParadiaError(Exception):
    """Base of all errors raised on purpose."""


class InputError(ParadiaError, ValueError):
    """Something given is wrong."""


class MetadataError(InputError):
    """Echo times, field strength or a sidecar entry cannot be right."""


class GeometryError(InputError):
    """Shapes, affines or voxel sizes that do not fit or make no sense."""


class MaskError(InputError):
    """A mask that is empty, misshapen or outside the data."""


class PhaseError(InputError):
    """Phase that is absent, constant or in an encoding that cannot be told."""


class NonFiniteError(InputError):
    """NaN or Inf where a number is needed."""


class FileError(ParadiaError, OSError):
    """A file or folder that is missing, damaged or not writable."""


class OutputBusyError(FileError):
    """Another run is writing to the same output."""


class UnknownNameError(ParadiaError, LookupError):
    """A name that nothing answers to; the message offers the nearest."""

    def __str__(self) -> str:  # KeyError-style quoting would spoil the sentence
        return str(self.args[0]) if self.args else ""


class UnknownStageError(UnknownNameError):
    """No stage of that name."""


class UnknownMethodError(UnknownNameError):
    """No method of that name in the stage."""


class UnknownKnobError(UnknownNameError, TypeError):
    """The method has no knob of that name."""


class UnknownProtocolError(UnknownNameError):
    """No protocol of that name, or a key in it that means nothing."""


class MissingDependencyError(ParadiaError, ImportError):
    """An optional package is needed and not installed."""


class WeightsError(ParadiaError, LookupError):
    """Weights of a network are unknown, missing or not the released ones."""


class ParadiaWarning(UserWarning):
    """Base of all warnings raised on purpose."""


class ConvergenceWarning(ParadiaWarning):
    """An iteration stopped at its limit before it reached its tolerance."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Finish an error message for an unknown name.

    Parameters
    ----------
    name
        What was given.
    known
        What would have been accepted.

    Returns
    -------
    str
        ``Did you mean 'x'?`` when something is close, otherwise the list of what there is.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"There is: {', '.join(names)}." if names else "There is none."
