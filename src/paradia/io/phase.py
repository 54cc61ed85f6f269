"""Phase in any encoding to radians.

One turn of the phase is recognised from the range of the values over all echoes, by the first rule that fits:

=================  ===================  ==========================================================================
encoding           one turn is          recognised when
=================  ===================  ==========================================================================
``rad``            −π … π               the values fill at least 95 % of it and none lies outside
``0-2pi``          0 … 2π               the same
``siemens``        −4096 … 4096         the same
``0-4095``         0 … 4096, 2048 is 0  the same, and it looks wrapped: a magnitude has this range as well
``milliradian``    −3142 … 3142         the same, and it looks wrapped
``degrees``        −180 … 180           the same, and it looks wrapped
``0-360``          0 … 360              the same, and it looks wrapped
``MIN:MAX``        MIN … MAX            MIN = −MAX, and it looks wrapped
=================  ===================  ==========================================================================

Phase looks wrapped when both ends of the range are well filled and neighbouring voxels differ by more than 80 % of
the range at more than chance places. Anything else is ambiguous and is an error
that says how to state the encoding. What is stated holds, and is wrapped again if it was unwrapped; a sidecar's ``rad`` does
not where wraps of less than a turn, or a range of more than two, contradict it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from paradia.errors import PhaseError


class Encoding(NamedTuple):
    """How one turn of the phase is stored; the middle of the range is zero unless said otherwise."""

    name: str
    low: float
    high: float
    zero: float
    must_look_wrapped: bool = False


ENCODINGS = (
    Encoding("rad", -math.pi, math.pi, 0.0),
    Encoding("0-2pi", 0.0, 2 * math.pi, 0.0),
    Encoding("siemens", -4096.0, 4096.0, 0.0),
    Encoding("0-4095", 0.0, 4096.0, 2048.0, True),
    Encoding("milliradian", -1000 * math.pi, 1000 * math.pi, 0.0, True),
    Encoding("degrees", -180.0, 180.0, 0.0, True),
    Encoding("0-360", 0.0, 360.0, 0.0, True),
)
"""Encodings in the order in which they are tried."""

FILLED = 0.95
"""Wrapped phase spans at least this part of its turn."""

WRAP = 0.8
"""A step between neighbours of more than this part of the range is a wrap."""

HOW = "State one turn of it with --phase-units rad, 0-2pi, siemens, 0-4095, milliradian, degrees, 0-360 or MIN:MAX."

RADIANS = ("rad", "radian", "radians")

NOT_PHASE = {"hz": "a field map in Hz", "ppm": "a field map in ppm", "t": "a field map in tesla", "rad/s": "a field map in rad/s"}


class Radians(NamedTuple):
    """Phase in radians and what was done to get there."""

    phase: NDArray[np.float32]
    """Wrapped phase, rad, (echo, x, y, z)."""
    note: str
    """One sentence for the record."""


def to_radians(values: NDArray, name: str, *, units: str | None = None, sidecar_units: str | None = None) -> Radians:
    """Recognise how phase is encoded and convert it once.

    Parameters
    ----------
    values
        What the files hold, scaling applied, (echo, x, y, z); NaN and Inf are left out of account and become zero.
    name
        Name of the files for messages.
    units
        Encoding as stated by the user: a name from the table, or ``MIN:MAX``; nothing is guessed then.
    sidecar_units
        ``Units`` or ``PhaseUnits`` of the JSON sidecar.

    Returns
    -------
    Radians
        Phase in [−π, π] and a sentence on the conversion.

    Raises
    ------
    PhaseError
        The phase is constant, is no phase, or its encoding cannot be told.
    """
    good = np.isfinite(values)
    if not good.any():
        raise PhaseError(f"{name} holds no finite value at all. Convert the phase again.")
    low, high = float(np.min(values, where=good, initial=np.inf)), float(np.max(values, where=good, initial=-np.inf))
    if low == high:
        raise PhaseError(f"{name} holds no phase: every value is {low:g}. Check that the phase was exported.")
    if units is None and (sidecar_units or "").strip().lower() in NOT_PHASE:
        raise PhaseError(f"{name} is {NOT_PHASE[str(sidecar_units).strip().lower()]} by its sidecar. Give the phase images instead.")
    encoding, how = _encoding(values, low, high, name, units, sidecar_units)
    phase = _convert(values, good, encoding)
    spread = (high - low) / (encoding.high - encoding.low)
    again = f" It spanned {spread:.1f} turns and was wrapped again." if spread > 1.01 else ""
    named = "" if ":" in encoding.name else f" as {encoding.name}"
    scale = "in radians" if encoding.name == "rad" else f"stored{named}: {encoding.low:.6g} … {encoding.high:.6g} is one turn"
    return Radians(phase, f"The phase is {scale} ({how}; values {low:.6g} … {high:.6g}).{again}")


def parse_units(text: str) -> Encoding:
    """Read an encoding as a user states it.

    Parameters
    ----------
    text
        A name from the table of this module, or ``MIN:MAX``, the two ends of one turn.

    Raises
    ------
    PhaseError
        Neither.
    """
    word = text.strip().lower()
    for encoding in ENCODINGS:
        if word in (encoding.name, {"rad": "radian", "degrees": "deg"}.get(encoding.name)):
            return encoding
    low, colon, high = word.partition(":")
    try:
        ends = float(low), float(high)
    except ValueError:
        colon = ""
    if not colon or not all(map(math.isfinite, ends)) or ends[0] >= ends[1]:
        raise PhaseError(f"there is no phase encoding {text!r}. {HOW}")
    return Encoding(f"{ends[0]:.6g}:{ends[1]:.6g}", *ends, 0.0 if ends[0] == 0 else sum(ends) / 2)


def _encoding(values: NDArray, low: float, high: float, name: str, units: str | None, sidecar: str | None) -> tuple[Encoding, str]:
    """Choose the encoding and say on what grounds."""
    if units is not None and units.strip().lower() != "auto":
        return parse_units(units), "as stated"
    stated = (sidecar or "").strip().lower()
    if stated in RADIANS and high - low <= 4 * math.pi and not _scaled(values, low, high):
        shifted = low >= -1e-3 and high > math.pi + 1e-3
        return ENCODINGS[1 if shifted else 0], "by its sidecar"
    if stated not in ("", *RADIANS, "arbitrary", "a.u.", "au"):
        try:
            return parse_units(stated), "by its sidecar"
        except PhaseError as error:
            raise PhaseError(f"the sidecar of {name} says Units {sidecar!r}, which is no phase encoding. {HOW}") from error
    found = _recognise(values, low, high)
    if found is None:
        raise PhaseError(_ambiguous(values, low, high, name))
    against = ", although its sidecar says rad" if stated in RADIANS else ""
    return found, f"recognised by its values{against}"


def _scaled(values: NDArray, low: float, high: float) -> bool:
    """Tell whether phase that wraps fills less than a turn of radians: it is something else, whatever its sidecar says."""
    return high - low < FILLED * 2 * math.pi and _full_ends(values, low, high) and _wraps(values, low, high)


def _recognise(values: NDArray, low: float, high: float) -> Encoding | None:
    wrapped = _full_ends(values, low, high) and _wraps(values, low, high)
    for encoding in ENCODINGS:
        turn = encoding.high - encoding.low
        inside = low >= encoding.low - 1e-3 * turn and high <= encoding.high + 1e-3 * turn
        if inside and high - low >= FILLED * turn and (wrapped or not encoding.must_look_wrapped):
            return encoding
    symmetric = abs(low + high) <= 2e-3 * (high - low)
    if symmetric and wrapped:
        end = max(-low, high)
        return Encoding(f"{-end:.6g}:{end:.6g}", -end, end, 0.0)
    return None


def _wraps(values: NDArray, low: float, high: float) -> bool:
    """Tell whether neighbours differ by nearly the whole range at more than a few chance places."""
    step = WRAP * (high - low)
    count = pairs = 0
    with np.errstate(invalid="ignore"):
        for axis in (1, 2, 3):
            for echo in values:
                jump = np.abs(np.diff(echo, axis=axis - 1))
                count += int((jump > step).sum())
                pairs += int((jump > 0).sum())
    return count >= 8 and count > 1e-4 * pairs


def _full_ends(values: NDArray, low: float, high: float) -> bool:
    """Tell whether both ends of the range are filled as by wrapped phase; a constant background does not count."""
    counts = np.zeros(50, np.int64)
    for volume in values:  # one at a time: there may be hundreds, of many coils
        sample = (volume[np.isfinite(volume)].astype(np.float64) - low) / (high - low)
        counts += np.histogram(sample, bins=50, range=(0, 1))[0]
    fill = np.median(counts)
    return bool(min(counts[0], counts[-1]) >= 0.2 * fill)


def _convert(values: NDArray, good: NDArray, encoding: Encoding) -> NDArray[np.float32]:
    phase = np.empty(values.shape, np.float32)
    scale = 2 * math.pi / (encoding.high - encoding.low)
    for radians, volume, known in zip(phase, values, good, strict=True):  # one at a time: only one is held in double precision
        if encoding.name == "rad":
            radians[...] = np.where(known, volume, 0)
        else:
            radians[...] = (np.where(known, volume, encoding.zero).astype(np.float64) - encoding.zero) * scale
    if max(phase.max(), -phase.min()) > np.float32(math.pi):  # what is within ±π stays bit for bit
        for radians in phase:
            radians -= 2 * math.pi * np.round(radians.astype(np.float64) / (2 * math.pi))
    return phase


def _ambiguous(values: NDArray, low: float, high: float, name: str) -> str:
    said = f"the encoding of the phase in {name} cannot be told: its values run from {low:.6g} to {high:.6g}"
    if _wraps(values, low, high):
        return f"{said}, with wraps. {HOW}"
    if low >= -math.pi and high <= math.pi:
        return f"{said} and do not fill a turn of any known encoding. {HOW}"
    return f"{said} without wraps: already unwrapped, or no phase. Give the wrapped phase if you have it. {HOW}"
