"""What methods ask of their knobs before they start."""

from __future__ import annotations

import math

from paradia.errors import InputError


def check_positive(**knobs: float) -> None:
    """Refuse knobs that are zero, negative or no number."""
    for name, value in knobs.items():
        if not 0 < value < math.inf:
            raise InputError(f"{name} must be a positive number, got {value}. Leave it out for its default.")


def check_not_negative(**knobs: float) -> None:
    """Refuse knobs that are negative or no number."""
    for name, value in knobs.items():
        if not 0 <= value < math.inf:
            raise InputError(f"{name} must be zero or a positive number, got {value}. Leave it out for its default.")
