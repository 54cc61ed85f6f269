"""``paradia lesions``: every lesion of a mask on every map, its rim and core, its class, and how far two pipelines agree."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from torch import Tensor

from paradia.cli.progress import Progress
from paradia.errors import GeometryError, InputError
from paradia.grid import Grid
from paradia.io.acquisition import inside
from paradia.io.atomic import check_writable, replacing, write_json, write_text
from paradia.io.derivatives import OUTPUTS
from paradia.io.lesions import Case, named, study
from paradia.io.nifti import Volumes, check_same_grid, read
from paradia.io.sidecar import stem
from paradia.metrics.lesions import CLASSES, Agreement, Brightness, Lesion, Rule, agreement, components
from paradia.metrics.lesions import lesions as measure
from paradia.report.lesions import Row, drawn

Words = Annotated[list[str] | None, Parameter(consume_multiple=True)]
Files = Annotated[list[Path] | None, Parameter(consume_multiple=True)]

NUMBERS = ("mean", "sd", "median", "core", "rim", "around", "around_sd", "difference", "limit")
"""What the table has of a lesion on a map."""

MOST = 65535
"""Largest label of a lesion; what is larger numbers something else, and would take a table as long."""

ROWS = 12
"""Lesions in the picture at most, the largest."""


class Measured(NamedTuple):
    """One subject's lesions on its maps, and on those of the other pipeline."""

    name: str
    lesions: list[Lesion]
    others: list[Lesion]
    affine: np.ndarray


def lesions(
    out: Path,
    /,
    *,
    lesions: Path,
    maps: Words = None,
    derivatives: Path | None = None,
    against: Words = None,
    mask: Path | None = None,
    exclude: Files = None,
    separate: bool = False,
    near: float = Rule().near,
    far: float = Rule().far,
    spread: float = Rule().spread,
    certainty: float = Rule().certainty,
    rim: float = Rule().rim,
) -> int:
    """Measure lesions on maps: size, brightness, rim and core, and whether they are brighter or darker than the tissue around.

    A lesion is hyper- or hypo-intense on a map where its mean differs from the median of the normal-appearing tissue around it by more
    than a multiple of that tissue's robust standard deviation and a multiple of the difference's standard error. The tissue is that
    of a shell outside the lesion's border; other lesions, all that lies nearer to one of them than the shell begins, and excluded voxels
    do not belong to it.

    Parameters
    ----------
    out
        Folder for ``lesions.tsv`` (a row a lesion and map), ``lesions.json`` (profiles and the rule too), ``lesions.png``, and, where two
        sets of maps are compared, ``agreement.tsv``.
    lesions
        A NIfTI file: whole numbers, one a lesion, or one mask of all, whose connected parts are the lesions. With ``--derivatives`` a
        folder in which every subject has a file that ends in ``_mask`` or ``_dseg``.
    maps
        Maps on the grid of the lesions, each as ``name=file``, such as ``chi_pos=sub-01_desc-paramagnetic_Chimap.nii.gz``.
    derivatives
        Instead of maps: a folder that ``paradia run`` wrote, for a whole study.
    against
        Maps of another pipeline, in the same way, or the folder that it wrote: the classes of the same lesions are compared.
    mask
        Voxels where the maps hold; without it those where any map is not zero, and all are numbers. With
        ``--derivatives`` it is found there.
    exclude
        Masks of what is no normal-appearing tissue, such as fluid or veins. Not with ``--derivatives``.
    separate
        Take the connected parts of what is above zero, whatever the numbers in the file are.
    near
        Distance from the border at which the shell begins, mm.
    far
        Distance at which it ends, mm.
    spread
        Robust standard deviations by which a lesion has to differ.
    certainty
        Standard errors by which it has to differ.
    rim
        Thickness of the rim, mm; the core is what lies deeper.
    """
    rule = Rule(near, far, spread, certainty, rim)
    cases = list(_cases(lesions, maps, derivatives, against, mask, exclude))
    check_writable(out / "lesions.tsv")
    measured, rows = [], []
    with Progress() as progress:
        for case in cases:
            with _naming(case, cases):
                one, picture, missed = _measured(case, exclude, separate, rule)
            measured.append(one)
            rows += picture
            progress.say(f"{case.name}: {len(one.lesions)} lesion{'' if len(one.lesions) == 1 else 's'}")
            if missed:
                progress.warn(f"{case.name}: {missed}")
        compared = _compared(measured) if against else {}
        _write(out, measured, compared, rule, cases)
        with replacing(out / "lesions.png") as handle:
            handle.write(drawn(sorted(rows, key=lambda row: -row.lesion.volume)[:ROWS]))
        for name in ("lesions.tsv", "lesions.json", "lesions.png", *(["agreement.tsv"] if compared else [])):
            progress.done(str(out / name))
    _show(measured, compared)
    return 0


def _cases(
    lesions: Path,
    maps: list[str] | None,
    derivatives: Path | None,
    against: list[str] | None,
    mask: Path | None,
    exclude: list[Path] | None,
) -> list[Case]:
    """Find what belongs together."""
    if (maps is None) == (derivatives is None):
        raise InputError("give the maps either as --maps name=file or, for a study, as --derivatives folder.")
    if derivatives is None:
        if lesions.is_dir():
            raise InputError(f"{lesions} is a folder. Give one file of lesions with --maps, or --derivatives for a study.")
        return [Case(stem(lesions), lesions, named(maps or []), named(against or []), mask)]
    if mask is not None or exclude:
        raise InputError("--mask and --exclude belong to one subject; with --derivatives every subject has its own. Leave them out.")
    if against and (len(against) != 1 or "=" in against[0]):
        raise InputError("with --derivatives the other pipeline is a folder too: --against folder.")
    return study(lesions, derivatives, Path(against[0]) if against else None)


def _measured(case: Case, exclude: list[Path] | None, separate: bool, rule: Rule) -> tuple[Measured, list[Row], str]:
    """Read one subject and measure its lesions; say which of them the mask leaves out."""
    if case.others and case.maps.keys().isdisjoint(case.others):
        raise InputError("the two pipelines have no map in common. Give maps of the same names.")
    first = read(case.lesions)
    labels = _labels(first, separate)
    maps, others = ({name: _image(path, first) for name, path in paths.items()} for paths in (case.maps, case.others))
    mask = _known(maps) if case.mask is None else inside(_image(case.mask, first).numpy())
    out = [inside(_image(path, first).numpy()) for path in exclude or ()]
    left_out = torch.stack(out).any(0) if out else None
    grid = Grid.from_affine(first.shape, first.affine)
    found = measure(labels, maps, mask, grid, exclude=left_out, rule=rule)
    second = (
        measure(labels, {name: others[name] for name in others if name in maps}, mask, grid, exclude=left_out, rule=rule) if others else []
    )
    arrays = {name: (image * mask).numpy() for name, image in maps.items()}
    rows = [Row(case.name, lesion, arrays, labels.numpy(), grid.voxel_size) for lesion in found]
    return Measured(case.name, found, second, first.affine), rows, _missed(labels, mask)


def _missed(labels: Tensor, mask: Tensor) -> str:
    """Say which lesions the maps do not cover, wholly or in part; nothing where they cover all."""
    drawn = labels.flatten().bincount()[1:]
    held = (labels * mask).flatten().bincount(minlength=len(drawn) + 1)[1:]
    numbers = torch.arange(1, len(drawn) + 1)
    gone, cut = (", ".join(map(str, numbers[which].tolist())) for which in ((drawn > 0) & (held == 0), (held > 0) & (held < drawn)))
    told = [f"outside the mask and left out: {gone}"] if gone else []
    return "; ".join([*told, *([f"partly outside it, measured where it holds: {cut}"] if cut else [])])


@contextmanager
def _naming(case: Case, cases: Sequence[Case]) -> Iterator[None]:
    """Say whose lesions cannot be measured, where there are several subjects."""
    try:
        yield
    except InputError as error:
        if len(cases) == 1:
            raise
        raise InputError(f"{case.name}: {error}") from error


def _known(maps: Mapping[str, Tensor]) -> Tensor:
    """Tell where maps hold: where any is not zero, and all are numbers."""
    images = torch.stack(list(maps.values()))
    return (images != 0).any(0) & images.isfinite().all(0)


def _labels(first: Volumes, separate: bool) -> Tensor:
    """Turn a file into numbers of lesions."""
    if len(first.data) != 1:
        raise GeometryError(f"{first.label} has {len(first.data)} volumes. Give one.")
    values = np.nan_to_num(first.data[0])
    if separate or len(np.unique(values[values > 0])) <= 1:
        return components(torch.from_numpy(values > 0))
    if np.abs(values - np.round(values)).max() > 1e-3:
        raise InputError(f"{first.label} holds numbers that are not whole. Give labels or a mask, or --separate for what is above zero.")
    if values.max() > MOST:
        raise InputError(f"{first.label} holds the label {values.max():.0f}; the largest that can be is {MOST}. Number the lesions from 1.")
    return torch.from_numpy(np.round(values).clip(0).astype(np.int32))


def _image(path: Path, first: Volumes) -> Tensor:
    """Read one volume on the grid of the lesions."""
    volumes = read(path)
    check_same_grid(first, volumes)
    if len(volumes.data) != 1:
        raise GeometryError(f"{volumes.label} has {len(volumes.data)} volumes. Give one.")
    return torch.from_numpy(volumes.data[0])


def _compared(measured: Sequence[Measured]) -> dict[str, Agreement]:
    """Hold the classes of both pipelines against each other, map by map, of the subjects that have the map in both."""
    pairs = [(lesion.maps, other.maps) for one in measured for lesion, other in zip(one.lesions, one.others, strict=True)]
    names = dict.fromkeys(name for _, other in pairs for name in other)
    return {
        name: agreement(
            [own[name].kind for own, other in pairs if name in other],
            [other[name].kind for _, other in pairs if name in other],
        )
        for name in names
    }


def _write(out: Path, measured: Sequence[Measured], compared: Mapping[str, Agreement], rule: Rule, cases: Sequence[Case]) -> None:
    """Write tables and all that is known."""
    place = ("subject", "lesion", "voxels", "volume_mm3", "x_mm", "y_mm", "z_mm", "tissue_voxels", "map", "unit")
    columns = [*place, *NUMBERS, "class", *(["other_mean", "other_class"] if compared else [])]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, delimiter="\t", lineterminator="\n", restval="n/a")
    writer.writeheader()
    whole = []
    for one, case in zip(measured, cases, strict=True):
        others = {lesion.label: lesion for lesion in one.others}
        told = []
        for lesion in one.lesions:
            x, y, z = (one.affine @ [*lesion.centre, 1])[:3]
            values = (one.name, lesion.label, lesion.voxels, f"{lesion.volume:.4g}", f"{x:.2f}", f"{y:.2f}", f"{z:.2f}", lesion.around)
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
        files = {name: str(path) for name, path in case.maps.items()}
        whole.append({"subject": one.name, "lesions_from": str(case.lesions), "maps": files, "lesions": told})
    write_text(out / "lesions.tsv", text.getvalue())
    record: dict[str, Any] = {"rule": str(rule), "settings": rule._asdict(), "subjects": whole}
    if compared:
        record["agreement"] = {name: {key: _plain(value) for key, value in one._asdict().items()} for name, one in compared.items()}
        write_text(out / "agreement.tsv", _agreement(compared))
    write_json(out / "lesions.json", record)


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


def _show(measured: Sequence[Measured], compared: Mapping[str, Agreement]) -> None:
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
