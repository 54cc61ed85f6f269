"""The tables of a study's lesions, for files and for the terminal."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from paradia.io.atomic import write_json, write_text
from paradia.io.derivatives import OUTPUTS
from paradia.io.lesions import Case
from paradia.metrics.lesions import CLASSES, Agreement, Brightness, Lesion, Rule

NUMBERS = ("mean", "sd", "median", "core", "rim", "around", "around_sd", "difference", "limit")
"""What the table has of a lesion on a map."""


class Measured(NamedTuple):
    """One subject's lesions on its maps, and on those of the other pipeline."""

    case: Case
    lesions: list[Lesion]
    others: list[Lesion]
    affine: np.ndarray


def write(out: Path, measured: Sequence[Measured], compared: Mapping[str, Agreement], rule: Rule, left_out: Mapping[str, str]) -> list[str]:
    """Write tables and all that is known.

    Parameters
    ----------
    out
        Folder.
    measured
        The subjects.
    compared
        How far two pipelines agree, by the name of the map; nothing where there is one.
    rule
        What the lesions were held against.
    left_out
        Why others could not be measured, by their names.

    Returns
    -------
    list of str
        Names of the files.

    Raises
    ------
    FileError
        The folder cannot be written to.
    """
    place = ("subject", "lesion", "voxels", "volume_mm3", "x_mm", "y_mm", "z_mm", "tissue_voxels", "map", "unit")
    columns = [*place, *NUMBERS, "class", *(["other_mean", "other_class"] if compared else [])]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, delimiter="\t", lineterminator="\n", restval="n/a")
    writer.writeheader()
    whole = []
    for one in measured:
        others = {lesion.label: lesion for lesion in one.others}
        told = []
        for lesion in one.lesions:
            x, y, z = (one.affine @ [*lesion.centre, 1])[:3]
            values = (one.case.name, lesion.label, lesion.voxels, f"{lesion.volume:.4g}", f"{x:.2f}", f"{y:.2f}", f"{z:.2f}", lesion.around)
            for name, seen in lesion.maps.items():
                row = dict(zip(place, (*values, name, OUTPUTS[name].units if name in OUTPUTS else "n/a"), strict=True))
                row |= {key: _number(getattr(seen, key)) for key in NUMBERS} | {"class": seen.kind}
                if lesion.label in others and name in others[lesion.label].maps:
                    other = others[lesion.label].maps[name]
                    row |= {"other_mean": _number(other.mean), "other_class": other.kind}
                writer.writerow(row)
            place_mm = [round(float(v), 3) for v in (x, y, z)]
            head = {"lesion": lesion.label, "voxels": lesion.voxels, "volume_mm3": lesion.volume, "centre_mm": place_mm}
            told.append(head | {"maps": {name: _told(seen) for name, seen in lesion.maps.items()}})
        files = {name: str(path) for name, path in one.case.maps.items()}
        whole.append({"subject": one.case.name, "lesions_from": str(one.case.lesions), "maps": files, "lesions": told})
    write_text(out / "lesions.tsv", text.getvalue())
    record: dict[str, Any] = {"rule": str(rule), "settings": rule._asdict(), "subjects": whole}
    if left_out:
        record["left_out"] = dict(left_out)
    if compared:
        record["agreement"] = {name: {key: _plain(value) for key, value in one._asdict().items()} for name, one in compared.items()}
        write_text(out / "agreement.tsv", _agreement(compared))
    write_json(out / "lesions.json", record)
    return ["lesions.tsv", "lesions.json", *(["agreement.tsv"] if compared else [])]


def _agreement(compared: Mapping[str, Agreement]) -> str:
    """Write the table of agreement: a row a map, the confusion table in columns, first set before the second."""
    columns = [
        "map",
        "lesions",
        "agreement_percent",
        "low_percent",
        "high_percent",
        "kappa",
        *(f"{a}_{b}" for a in CLASSES for b in CLASSES),
    ]
    lines = ["\t".join(columns)]
    for name, one in compared.items():
        shares = [f"{100 * value:.2f}" for value in (one.share, one.low, one.high)]
        lines.append("\t".join([name, str(one.number), *shares, _number(one.kappa), *(str(n) for row in one.table for n in row)]))
    return "\n".join(lines) + "\n"


def _told(seen: Brightness) -> dict[str, Any]:
    """Return all that is known of a lesion on a map, ready for JSON."""
    numbers = {key: _plain(getattr(seen, key)) for key in NUMBERS}
    return {**numbers, "class": seen.kind, "profile": [depth._asdict() for depth in seen.profile]}


def _plain(value: Any) -> Any:
    """Return nothing in the place of what is no number."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.6g}"


def show(measured: Sequence[Measured], compared: Mapping[str, Agreement]) -> None:
    """Say how many lesions are of which class, and how far both pipelines agree."""
    table = Table(box=None, pad_edge=False)
    for heading in ("map", *CLASSES, *(["agreement", "95 % interval", "κ"] if compared else [])):
        table.add_column(heading, justify="left" if heading == "map" else "right")
    for name in dict.fromkeys(name for one in measured for lesion in one.lesions for name in lesion.maps):
        kinds = [lesion.maps[name].kind for one in measured for lesion in one.lesions if name in lesion.maps]
        row = [name, *(str(kinds.count(kind)) for kind in CLASSES)]
        if name in compared:
            one = compared[name]
            row += [
                f"{100 * one.share:.1f} % of {one.number}",
                f"{100 * one.low:.1f} to {100 * one.high:.1f} %",
                _number(round(one.kappa, 3)),
            ]
        table.add_row(*row)
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)
