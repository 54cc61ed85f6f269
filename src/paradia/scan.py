"""How the images were taken, and the only place that knows the gyromagnetic ratio."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from paradia.errors import MetadataError

GAMMA_BAR = 42.577478518e6
"""Proton gyromagnetic ratio over 2π, Hz/T (CODATA 2018)."""

LATEST_ECHO = 0.5
"""No gradient or spin echo is later, s; what is larger was given in milliseconds."""


@dataclass(frozen=True, slots=True)
class Scan:
    """Echo times and field strength.

    Parameters
    ----------
    echo_times
        Echo times, s, increasing.
    b0
        Field strength, T.

    Raises
    ------
    MetadataError
        Echo times that are missing, not positive, not increasing or in milliseconds; a field strength that is no magnet's.
    """

    echo_times: tuple[float, ...]
    b0: float = 3.0

    def __post_init__(self) -> None:
        times = tuple(float(t) for t in self.echo_times)
        if not times:
            raise MetadataError("there are no echo times. Give one for each echo, in seconds.")
        if not all(math.isfinite(t) and t > 0 for t in times):
            raise MetadataError(f"echo times must be positive numbers of seconds, got {times}.")
        if max(times) > LATEST_ECHO:
            raise MetadataError(f"echo times must be in seconds, got {times}. Milliseconds?")
        if any(b <= a for a, b in pairwise(times)):
            raise MetadataError(f"echo times must increase from echo to echo, got {times}. Check the order of the files.")
        if not math.isfinite(self.b0) or not 0.01 <= self.b0 <= 30:
            raise MetadataError(f"the field strength must be in tesla, between 0.01 and 30, got {self.b0}.")
        object.__setattr__(self, "echo_times", times)
        object.__setattr__(self, "b0", float(self.b0))

    @property
    def hz_per_ppm(self) -> float:
        """Larmor frequency shift of one ppm, Hz."""
        return GAMMA_BAR * self.b0 * 1e-6

    def rad_per_ppm(self, echo_time: float) -> float:
        """Phase that a field of one ppm gathers until an echo time given in s, rad."""
        return 2 * math.pi * self.hz_per_ppm * echo_time
