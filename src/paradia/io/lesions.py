"""Lesions drawn by others, and the maps that belong to them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from paradia.errors import FileError, InputError
from paradia.io.derivatives import map_path
from paradia.io.sidecar import stem

STUDIED = ("chi_pos", "chi_neg", "r2star", "chi")
"""Maps that are looked for in a folder of derivatives."""


class Case(NamedTuple):
    """One subject: where its lesions and its maps are."""

    name: str
    lesions: Path
    maps: dict[str, Path]
    others: dict[str, Path]
    mask: Path | None
    fault: str = ""
    """Which maps are missing and what to do, in a sentence; nothing where all is there."""


def study(lesions: Path, derivatives: Path, other: Path | None = None) -> list[Case]:
    """Find the lesions and maps of every subject of a study.

    Parameters
    ----------
    lesions
        Folder in which every subject has a file of lesions that ends in ``_mask`` or ``_dseg``.
    derivatives, other
        Folders that ``paradia run`` wrote, of one pipeline and of another.

    Raises
    ------
    FileError
        A folder is missing, or there are no lesions.
    InputError
        A subject has two files of lesions.
    """
    cases: dict[str, Case] = {}
    for folder in (lesions, derivatives, *([other] if other else [])):
        if not folder.is_dir():
            raise FileError(f"there is no folder {folder}. With --derivatives lesions and maps are folders.")
    files = sorted(p for p in lesions.rglob("sub-*.nii*") if stem(p).rpartition("_")[2] in ("mask", "dseg"))
    if not files:
        raise FileError(f"{lesions} holds no file sub-…_mask.nii.gz or sub-…_dseg.nii.gz. Name the lesions so.")
    for file in files:
        prefix = "_".join(word for word in stem(file).split("_")[:-1] if word.partition("-")[0] not in ("desc", "label", "space", "res"))
        if prefix in cases:
            raise InputError(f"{prefix} has two files of lesions, {cases[prefix].lesions} and {file}. Leave one in {lesions}.")
        found, second = _of(derivatives, prefix), {} if other is None else _of(other, prefix)
        without = derivatives if not found else other if other is not None and not second else None
        name = map_path(Path(), prefix, STUDIED[0]).name
        fault = "" if without is None else f"{without} holds no map of {prefix}, such as {name}. Check its name, or run it again."
        masks = [path for path in (map_path(derivatives, prefix, name) for name in ("local_mask", "mask")) if path.is_file()]
        cases[prefix] = Case(prefix, file, found, second, masks[0] if masks else None, fault)
    return list(cases.values())


def _of(folder: Path, prefix: str) -> dict[str, Path]:
    """Find the maps of a subject."""
    return {name: path for name in STUDIED if (path := map_path(folder, prefix, name)).is_file()}


def named(words: Sequence[str]) -> dict[str, Path]:
    """Read maps that are given as name=file.

    Raises
    ------
    InputError
        A word of another form, or a name that is given twice.
    """
    found: dict[str, Path] = {}
    for word in words:
        name, equals, file = word.partition("=")
        if not (equals and file and re.fullmatch(r"\w+", name)):
            raise InputError(f"a map is given as name=file, got {word!r}. For example: chi_pos=paramagnetic.nii.gz")
        if name in found:
            raise InputError(f"the map {name} is given twice. Give every map a name of its own.")
        found[name] = Path(file)
    return found
