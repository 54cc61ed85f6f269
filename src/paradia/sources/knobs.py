"""What methods ask of their knobs before they start."""

from __future__ import annotations

import math

from paradia.errors import InputError


def check_positive(**knobs: float | int) -> None:
    """Refuse knobs that are zero, negative or no number."""
    for name, value in knobs.items():
        if not 0 < value < math.inf:
            raise InputError(f"{name} must be a positive number, got {value}. Leave it out for its default.")


def check_count(**knobs: int) -> None:
    """Refuse to do nothing: numbers of times, or of things, that are below one."""
    for name, value in knobs.items():
        if not value >= 1:
            raise InputError(f"{name} must be 1 or more, got {value}. Leave it out for its default.")


def check_stop(*, max_iter: int, tol: float) -> None:
    """Refuse an iteration that does not begin, and a tolerance that is none: zero is never met, nor is infinity, which never warns."""
    check_count(max_iter=max_iter)
    if not tol >= 0:
        raise InputError(f"tol must be zero or a positive number, got {tol}. Leave it out for its default.")


def check_not_negative(**knobs: float | int) -> None:
    """Refuse knobs that are negative or no number."""
    for name, value in knobs.items():
        if not 0 <= value < math.inf:
            raise InputError(f"{name} must be zero or a positive number, got {value}. Leave it out for its default.")
