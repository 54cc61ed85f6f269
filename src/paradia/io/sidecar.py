"""JSON sidecars: echo times, field strength and what else the images do not say themselves."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paradia.errors import FileError, MetadataError
from paradia.scan import GAMMA_BAR, Scan

NOMINAL_TOLERANCE = 0.05
"""The centre frequency and the nominal field may differ by this much, as 2.89 T and 3 T do."""

FOLDER_SIDECAR = "scan.json"
"""Sidecar for all images of a folder that have none of their own."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    FileError
        The file cannot be read, or is not a JSON object.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}. Check the path and its permissions.") from error
    except (ValueError, RecursionError) as error:  # ValueError covers broken JSON and broken UTF-8
        raise FileError(f"{path} is not valid JSON: {error}. Mend or remove it.") from error
    if not isinstance(values, dict):
        raise FileError(f"{path} holds {type(values).__name__}, not a JSON object {{…}}. Mend or remove it.")
    return values


def entries(values: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the objects of a list in a JSON object, such as ``GeneratedBy`` of a data set; none where there is no such list."""
    value = values.get(key)
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def sidecar_of(image: Path, root: Path | None = None) -> dict[str, Any]:
    """Collect what the sidecars say of an image.

    Parameters
    ----------
    image
        The image; its own sidecar has the same name and ends in ``.json``.
    root
        Root of the BIDS data set. Sidecars higher up hold for all images that share their entities and suffix; the
        nearest one wins. Without a root, ``scan.json`` in the same folder stands in for a missing sidecar.

    Raises
    ------
    FileError
        A sidecar is not valid JSON.
    """
    image = Path(image)
    if root is None:
        own = image.with_name(stem(image) + ".json")
        shared = image.with_name(FOLDER_SIDECAR)
        return read_json(own) if own.is_file() else read_json(shared) if shared.is_file() else {}
    values: dict[str, Any] = {}
    for path in reversed(_inherited(image, Path(root))):
        values |= read_json(path)
    return values


def scan_from(
    sidecars: Sequence[Mapping[str, Any]],
    label: str,
    echoes: int,
    *,
    echo_times: Sequence[float] | None = None,
    b0: float | None = None,
    need_b0: bool = True,
    option: str | None = "--echo-times",
) -> tuple[Scan, tuple[str, ...]]:
    """Settle echo times and field strength.

    Parameters
    ----------
    sidecars
        One for each file, in order of the echoes; a 4-D file's ``EchoTime`` is a list.
    label
        Name of the files for messages.
    echoes
        How many echoes the images hold.
    echo_times
        Echo times as stated, s; the sidecars are not asked then.
    b0
        Field strength as stated, T; the sidecars are not asked then.
    need_b0
        Without it, the field strength need not be known; where it is not, that of the scan means nothing.
    option
        What states echo times on the command line, for messages; nothing where sidecars alone count, as in a BIDS data set.

    Returns
    -------
    tuple
        The scan, and sentences on what was decided.

    Raises
    ------
    MetadataError
        Echo times or field strength that are missing, wrong, or contradict one another.
    """
    notes = []
    times = tuple(float(t) for t in echo_times) if echo_times else _echo_times(sidecars, label, echoes, option)
    if len(times) != echoes:
        plural = "echo" if echoes == 1 else "echoes"
        coils = echoes > len(times) > 1 and echoes % len(times) == 0
        raise MetadataError(
            f"{label} holds {echoes} {plural}, but there are {len(times)} echo times {times}. Give one for each echo."
            f"{' Are these single coils? Combine them first, with paradia combine.' if coils else ''}"
        )
    if b0 is None:
        try:
            b0, note = _field_strength(sidecars, label, stated=option is not None)
        except MetadataError:
            if need_b0:
                raise
            note = "The field strength is not known, and nothing goes by it."
        notes.append(note)
    try:
        return (Scan(times) if b0 is None else Scan(times, b0)), tuple(notes)
    except MetadataError as error:
        raise MetadataError(f"{label}: {error}") from error


def direction(sidecar: Mapping[str, Any], label: str) -> tuple[float, float, float] | None:
    """Return ``B0_dir``, the direction of B0 in array axes, where the sidecar gives it.

    Raises
    ------
    MetadataError
        It is not three numbers.
    """
    value = sidecar.get("B0_dir")
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 3 or not all(_is_number(v) for v in value) or not any(value):
        raise MetadataError(f"B0_dir in the sidecar of {label} must be three numbers along the array axes, got {value!r}. Mend it.")
    x, y, z = (float(v) for v in value)
    return x, y, z


def number(sidecar: Mapping[str, Any], key: str, label: str) -> float | None:
    """Return a number where the sidecar gives one.

    Raises
    ------
    MetadataError
        It gives something else.
    """
    value = sidecar.get(key)
    if value is None:
        return None
    if not _is_number(value):
        raise MetadataError(f"{key} in the sidecar of {label} must be a number, got {value!r}. Mend it.")
    return float(value)


def stem(path: Path) -> str:
    """Return a file's name without ``.nii`` or ``.nii.gz``."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _echo_times(sidecars: Sequence[Mapping[str, Any]], label: str, echoes: int, option: str | None) -> tuple[float, ...]:
    or_state = f", or state {option}" if option else ""
    lists = [s.get("EchoTime") for s in sidecars]
    if len(lists) > 1 and isinstance(lists[0], list) and all(item == lists[0] for item in lists):
        sidecars = sidecars[:1]  # one sidecar for all the files
    times: list[float] = []
    for sidecar in sidecars:
        value = sidecar.get("EchoTime")
        if value is None:
            continue
        items = value if isinstance(value, list) else [value]
        if not all(_is_number(item) for item in items):
            raise MetadataError(f"EchoTime in the sidecar of {label} must be numbers of seconds, got {value!r}. Mend it.")
        times += [float(item) for item in items]
    if not times:
        raise MetadataError(
            f"the echo times of {label} are not known: no sidecar gives EchoTime. Add it to the JSON file in seconds{or_state}."
        )
    if len(sidecars) == echoes and len(times) < echoes:
        lacking = ", ".join(str(place) for place, value in enumerate(lists, 1) if value is None)
        raise MetadataError(f"the sidecars of {label} give no EchoTime for echo {lacking}, of {echoes}. Add it{or_state}.")
    return tuple(times)


def _field_strength(sidecars: Sequence[Mapping[str, Any]], label: str, *, stated: bool) -> tuple[float, str]:
    """Take the exact field from the centre frequency where it agrees with the nominal one."""
    nominal = _agreed(sidecars, "MagneticFieldStrength", label, 1e-3)
    frequency = _agreed(sidecars, "ImagingFrequency", label, 1e-3)
    exact = None if frequency is None else frequency * 1e6 / GAMMA_BAR
    hertz = " It belongs there in MHz; this looks like Hz." if frequency is not None and 0.01 <= frequency / GAMMA_BAR <= 30 else ""
    if nominal is None and (exact is None or not 0.01 <= exact <= 30):
        raise MetadataError(
            f"the field strength of {label} is not known: no sidecar gives MagneticFieldStrength"
            f"{f', and ImagingFrequency {frequency:g} is none.{hertz}' if frequency is not None else '.'} "
            f"Add it in tesla{', or state --b0' if stated else ''}."
        )
    if exact is None:
        return nominal or 0.0, f"The field strength is {nominal:g} T, from MagneticFieldStrength."
    if nominal is None or abs(exact - nominal) <= NOMINAL_TOLERANCE * nominal:
        return exact, f"The field strength is {exact:.4f} T, from ImagingFrequency {frequency:.6f} MHz."
    return nominal, (
        f"The field strength is {nominal:g} T, from MagneticFieldStrength; "
        f"ImagingFrequency {frequency:g} MHz does not fit it and was not used.{hertz}"
    )


def _agreed(sidecars: Sequence[Mapping[str, Any]], key: str, label: str, tolerance: float) -> float | None:
    found = [value for sidecar in sidecars if (value := number(sidecar, key, label)) is not None]
    if not found:
        return None
    if max(found) - min(found) > tolerance * abs(max(found)):
        raise MetadataError(f"the sidecars of {label} give different {key}: {min(found):g} and {max(found):g}. Mend the wrong one.")
    return found[0]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _inherited(image: Path, root: Path) -> list[Path]:
    """List the sidecars that hold for an image, nearest and most particular first."""
    from bids2table import parse_bids_entities

    wanted = {k: v for k, v in parse_bids_entities(image.name).items() if k != "ext"}
    found: list[Path] = []
    folder = image.parent
    while True:
        here = []
        for path in folder.glob(f"*{wanted.get('suffix', '')}.json"):
            entities = {k: v for k, v in parse_bids_entities(path.name).items() if k not in ("ext", "datatype")}
            if all(wanted.get(k) == v for k, v in entities.items()):
                here.append((len(entities), path))
        found += [path for _, path in sorted(here, reverse=True)]
        if folder in (root, folder.parent):
            return found
        folder = folder.parent
