"""How the images were taken, and what follows from the field strength: the only place that knows γ̄ and the usual relaxivity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from paradia.errors import InputError, MetadataError

GAMMA_BAR = 42.577478518e6
"""Proton gyromagnetic ratio over 2π, Hz/T (CODATA 2018)."""

LATEST_ECHO = 0.5
"""No gradient or spin echo is later, s; what is larger was given in milliseconds."""

RELAXIVITY = 137.0
"""Dr+ and Dr− at 3 T, Hz/ppm, as fitted in nuclei whose χ− is small (Shin 2021, doi:10.1016/j.neuroimage.2021.118371).

Referred to a COSMOS χ it is 114, the value of χ-sepnet.
"""

KNOWN = (1.0, 11.0)
"""Field strengths, T, to which methods carry it over, in proportion."""


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


def usual_relaxivity(b0: float) -> float:
    """Return `RELAXIVITY` at a field strength given in T, Hz/ppm."""
    return RELAXIVITY * b0 / 3


def relaxivities(scan: Scan, dr_pos: float | None, dr_neg: float | None) -> tuple[float, float]:
    """Return Dr+ and Dr−, Hz/ppm: those given, or the usual one at the field strength.

    Raises
    ------
    InputError
        A relaxivity that is not positive, or none for a field strength at which none was measured.
    """
    for name, value in (("dr_pos", dr_pos), ("dr_neg", dr_neg)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} must be a positive relaxivity in Hz/ppm, got {value}. At 3 T it is about {RELAXIVITY:g}.")
    if (dr_pos is None or dr_neg is None) and not KNOWN[0] <= scan.b0 <= KNOWN[1]:
        raise InputError(
            f"no relaxivity is known at {scan.b0:g} T: the empirical {RELAXIVITY:g} Hz/ppm at 3 T is carried over to {KNOWN[0]:g} to "
            f"{KNOWN[1]:g} T only. Give dr_pos and dr_neg, Hz/ppm."
        )
    usual = usual_relaxivity(scan.b0)
    return (usual if dr_pos is None else float(dr_pos)), (usual if dr_neg is None else float(dr_neg))
