"""``paradia lesions``: every lesion of a mask on every map, its rim and core, its class, and how far two pipelines agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from cyclopts import Parameter
from rich.markup import escape
from torch import Tensor

from paradia.cli.lesiontables import Measured, show, write
from paradia.cli.progress import Progress
from paradia.errors import FileError, GeometryError, InputError, ParadiaError
from paradia.grid import Grid
from paradia.io.acquisition import inside
from paradia.io.atomic import check_writable, replacing
from paradia.io.lesions import Case, named, study
from paradia.io.nifti import Volumes, check_same_grid, read
from paradia.io.sidecar import stem
from paradia.metrics.lesions import Agreement, Rule, agreement, components
from paradia.metrics.lesions import lesions as measure
from paradia.report.lesions import Row, drawn

Words = Annotated[list[str] | None, Parameter(consume_multiple=True)]
Files = Annotated[list[Path] | None, Parameter(consume_multiple=True)]

MOST = 65535
"""Largest label of a lesion; what is larger numbers something else, and would take a table as long."""

ROWS = 12
"""Lesions in the picture at most, the largest."""


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
    cases = _cases(lesions, maps, derivatives, against, mask, exclude)
    check_writable(out / "lesions.tsv")
    measured: list[Measured] = []
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    with Progress() as progress:
        for case in cases:
            try:
                one, picture, missed = _measured(case, exclude, separate, rule, alone=derivatives is None)
            except ParadiaError as error:
                if derivatives is None:
                    raise
                left_out[case.name] = str(error)  # the others go on
                progress.failed(f"{case.name}: {error}")
                continue
            measured.append(one)
            rows += picture
            progress.say(escape(f"{case.name}: {len(one.lesions)} lesion{'' if len(one.lesions) == 1 else 's'}"))
            if missed:
                progress.warn(f"{case.name}: {missed}")
        if not rows:
            why = f"{len(left_out)} of {len(cases)} could not be measured" if left_out else "every mask of lesions is empty"
            raise InputError(f"no subject in {lesions} has a lesion to tell of: {why}. Check the folders.")
        compared = _compared(measured) if against else {}
        written = write(out, measured, compared, rule, left_out)
        with replacing(out / "lesions.png") as handle:
            handle.write(drawn(sorted(rows, key=lambda row: -row.lesion.volume)[:ROWS]))
        for name in (*written, "lesions.png"):
            progress.done(str(out / name))
        if left_out:
            progress.failed(f"{len(left_out)} of {len(cases)} left out: {', '.join(left_out)}")
    show(measured, compared)
    return 1 if left_out else 0


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


def _measured(case: Case, exclude: list[Path] | None, separate: bool, rule: Rule, *, alone: bool) -> tuple[Measured, list[Row], str]:
    """Read one subject and measure its lesions, which one of several may be without; say which of them the mask leaves out."""
    if case.fault:
        raise FileError(case.fault)
    if case.others and case.maps.keys().isdisjoint(case.others):
        raise InputError("the two pipelines have no map in common. Give maps of the same names.")
    first = read(case.lesions)
    labels = _labels(first, separate)
    if not alone and not labels.any():
        return Measured(case, [], [], first.affine), [], ""
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
    affine = first.affine if first.oriented else None
    rows = [Row(case.name, lesion, arrays, labels.numpy(), grid.voxel_size, affine) for lesion in found]
    return Measured(case, found, second, first.affine), rows, _missed(labels, mask)


def _missed(labels: Tensor, mask: Tensor) -> str:
    """Say which lesions the maps do not cover, wholly or in part; nothing where they cover all."""
    drawn = labels.flatten().bincount()[1:]
    held = (labels * mask).flatten().bincount(minlength=len(drawn) + 1)[1:]
    numbers = torch.arange(1, len(drawn) + 1)
    gone, cut = (", ".join(map(str, numbers[which].tolist())) for which in ((drawn > 0) & (held == 0), (held > 0) & (held < drawn)))
    told = [f"outside the mask and left out: {gone}"] if gone else []
    return "; ".join([*told, *([f"partly outside it, measured where it holds: {cut}"] if cut else [])])


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
