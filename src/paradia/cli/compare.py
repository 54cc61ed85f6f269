"""``paradia compare``: several methods on one subject."""

from __future__ import annotations

import csv
import io
import math
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from cyclopts import Parameter
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from paradia.cli.beginning import begin as read_beginning
from paradia.cli.beginning import volume
from paradia.cli.output import WORK, open_output
from paradia.cli.plan import pick_device
from paradia.cli.progress import Progress
from paradia.errors import InputError
from paradia.io.atomic import replacing, write_text
from paradia.io.derivatives import OUTPUTS, save_map
from paradia.pipeline.compare import Comparison, check_asked, table
from paradia.pipeline.compare import compare as run_all
from paradia.pipeline.protocol import DEFAULT, Protocol
from paradia.pipeline.store import Store
from paradia.pipeline.variants import variants
from paradia.report.comparison import Entry, compared
from paradia.report.orientation import Layout

Files = Annotated[list[Path] | None, Parameter(consume_multiple=True)]
Words = Annotated[list[str] | None, Parameter(consume_multiple=True)]

SMALL = 0.8
"""Share of the voxels below which it is said that the maps have little in common."""

HEADINGS = {
    "seconds": "time, s", "own_seconds": "own, s", "covered": "covered, %", "nrmse": "NRMSE, %", "nrmse_detrended": "detrended, %",
    "hfen": "HFEN, %", "xsim": "XSIM", "correlation": "correlation", "slope": "slope", "region_slope": "region slope",
    "streaks": "streaks", "unexplained": "unexplained, %",
}  # fmt: skip


def compare(
    out: Path,
    /,
    *,
    methods: Words = None,
    protocols: Words = None,
    protocol: str = DEFAULT,
    set: Words = None,
    magnitude: Files = None,
    phase: Files = None,
    total_field: Path | None = None,
    local_field: Path | None = None,
    noise: Path | None = None,
    mask: Path | None = None,
    truth: Path | None = None,
    labels: Path | None = None,
    map: str = "chi",
    echo_times: Annotated[list[float] | None, Parameter(consume_multiple=True)] = None,
    b0: float | None = None,
    b0_dir: tuple[float, float, float] | None = None,
    phase_units: str | None = None,
    flip_sign: bool = False,
    device: str = "auto",
) -> int:
    """Compare several methods on one subject: a table, a picture, the maps.

    Everything but what is compared is the same for all: data, other steps, voxels that count, the zero of χ. Steps that they
    share are done once.

    Parameters
    ----------
    out
        Folder for ``compare.csv``, ``compare.png`` and the maps.
    methods
        What is exchanged in the protocol, as ``inversion=tv,rts,tkd``; several of these give all combinations. A method may
        have knobs, as ``tv:weight=0.2``. ``singlestep=…`` takes the place of background removal and inversion.
    protocols
        Whole protocols to compare, by name or file; beside the methods where these are given too.
    protocol
        Where all that is not exchanged comes from.
    set
        Knobs to turn in it, each as ``stage.knob=value``.
    magnitude
        Magnitude, 4-D with the echoes last or a 3-D file an echo.
    phase
        Phase in the same layout.
    total_field
        Total field, ppm, instead of the phase.
    local_field
        Local field, ppm, instead of the phase.
    noise
        Standard deviation of that field, ppm.
    mask
        Brain mask; has to be given with a field.
    truth
        The true map, for scores; without, the maps are held against each other.
    labels
        Regions as whole numbers, for the slope of region means on the true ones.
    map
        Name of the map that is compared, such as ``chi`` or ``local_field``.
    echo_times
        Echo times, s; read from the JSON beside the images where there is one.
    b0
        Field strength, T; read from the JSON beside the images where there is one.
    b0_dir
        Direction of B0 in array axes, where the affine does not tell it.
    phase_units
        Encoding of the phase where it cannot be told: ``rad``, ``0-2pi``, ``siemens``, or ``MIN:MAX``.
    flip_sign
        Phase falls with the field in these data: turn its sign.
    device
        ``cpu``, ``cuda``, ``cuda:1``, or ``auto`` for the best there is.
    """
    candidates = _candidates(methods, protocols, protocol, set)
    chosen = pick_device(device)
    if map not in OUTPUTS or map in ("mask", "local_mask"):
        raise InputError(f"there is no map {map!r} to compare. Take one of {', '.join(name for name in OUTPUTS if 'mask' not in name)}.")
    if labels is not None and truth is None:
        raise InputError("region means need a --truth to be held against. Give one, or leave out --labels.")
    fields = {"total_field": total_field, "local_field": local_field, "noise": noise, "mask": mask}
    stated = {"echo_times": echo_times, "b0": b0, "b0_dir": b0_dir}
    told = {"phase_units": phase_units, "flip_sign": flip_sign}
    places = _places(out, candidates, map, [*(magnitude or ()), *(phase or ()), *fields.values(), truth, labels])
    board, first, oriented = read_beginning({name: path for name, path in fields.items() if path}, magnitude, phase, stated, told)
    check_asked(methods or (), candidates, board, map)
    true = None if truth is None else torch.from_numpy(volume(truth, first))
    regions = None if labels is None else torch.from_numpy(np.nan_to_num(volume(labels, first)).round()).long()
    with open_output(out), Progress() as progress:

        def begin(name: str) -> None:
            progress.say(f"[bold]{escape(name)}[/]")

        found = run_all(
            candidates, board, map=map, truth=true, store=Store(out / WORK / "steps"), device=chosen, progress=progress, begin=begin
        )
        rows = table(found, board, regions)
        for candidate in found.candidates:
            steps = [{"stage": s.stage, "method": s.method, "settings": s.settings, "doi": s.cite} for s in candidate.outcome.steps]
            save_map(places[candidate.name], map, candidate.image, first.affine, {"Steps": steps}, oriented=oriented)
        _write(out, found, rows, first.affine if oriented else None, board)
        for message in _warnings(found, rows):
            progress.warn(message)
        progress.done(str(out / "compare.csv"))
        progress.done(str(out / "compare.png"))
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(_shown(rows))
    return 0


def _candidates(methods: list[str] | None, protocols: list[str] | None, base: str, settings: list[str] | None) -> dict[str, Protocol]:
    if protocols and not methods and (settings or base != DEFAULT):
        raise InputError("--protocol and --set are for what --methods exchanges, and --protocols are run as they are. Leave them out.")
    found = variants(Protocol.load(base).turned(settings or ()), methods or ())
    for name in protocols or ():
        loaded = Protocol.load(name)
        found[loaded.name if loaded.name not in found else name] = loaded
    if not found:
        raise InputError("there is nothing to compare. Give for example --methods inversion=tv,rts, or --protocols fast consensus.")
    return found


def _places(out: Path, candidates: Mapping[str, Protocol], map: str, sources: Iterable[Path | None]) -> dict[str, Path]:
    """Return the file of each method's map; none of them may be one of the inputs, such as an earlier map that is now the truth."""
    words: dict[str, str] = {}
    for name in candidates:
        word = plain = re.sub(r"[^\w.=-]+", "-", name).strip("-")
        number = 1
        while word in words.values():  # 1e+2 and 1e-2 are alike without the sign
            number += 1
            word = f"{plain}-{number}"
        words[name] = word
    places = {name: out / f"{word}_{OUTPUTS[map].suffix}.nii.gz" for name, word in words.items()}
    inputs = {path.resolve() for path in sources if path is not None}
    for path in places.values():
        if path.resolve() in inputs:
            raise InputError(f"the input {path} would be overwritten. Give another output folder.")
    return places


def _write(out: Path, found: Comparison, rows: list[dict[str, Any]], affine: np.ndarray | None, board: Mapping[str, Any]) -> None:
    """Write table and picture."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()} for row in rows)
    write_text(out / "compare.csv", text.getvalue())
    mask = found.mask.numpy()
    entries = [
        Entry(candidate.name, _caption(row, found), candidate.image.numpy(), candidate.mask.numpy())
        for candidate, row in zip(found.candidates, rows, strict=True)
    ]
    truth = None if found.truth is None else Entry("truth", (), found.truth.numpy(), mask)
    layout = Layout(found.whole.numpy(), board["grid"].voxel_size, affine)
    with replacing(out / "compare.png") as handle:
        handle.write(compared(entries, layout, map=found.map, truth=truth))


def _warnings(found: Comparison, rows: list[dict[str, Any]]) -> list[str]:
    """List what the runs had to say, and that the maps have little in common where they do."""
    said = [f"{candidate.name}: {message}" for candidate in found.candidates for message in candidate.outcome.messages]
    share = int(found.mask.sum()) / int(found.whole.sum())
    if share < SMALL:
        least = min(rows, key=lambda row: row["covered"])
        few = f"All numbers are of the {100 * share:.0f} % of the voxels that all have in common; {least['method']} covers least."
        return [few, *said]
    return said


def _caption(row: Mapping[str, Any], found: Comparison) -> tuple[str, ...]:
    """Say the most telling numbers of a row."""
    first = found.candidates[0].name
    time = [f"{row['own_seconds']:.2g} s", *([f"{row['covered']:.1f} % covered"] if row["covered"] < 99.95 else [])]
    lines = [" · ".join(time)]
    if found.truth is not None:
        lines.append(" · ".join([f"NRMSE {row['nrmse']:.1f} %", *([f"XSIM {row['xsim']:.2f}"] if "xsim" in row else [])]))
        lines.append(f"HFEN {row['hfen']:.1f} % · r {row['correlation']:.3f}")
    elif row["method"] != first:
        lines.append(f"differs by {row[f'difference:{first}']:.1f} % · r {row[f'correlation:{first}']:.3f}")
    if "unexplained" in row:
        lines.append(f"field unexplained {row['unexplained']:.1f} %")
    return tuple(lines)


def _shown(rows: list[dict[str, Any]]) -> Group:
    """Lay the numbers out for the terminal: a row a method, and how far they are from each other."""
    keys = [key for key in dict.fromkeys(key for row in rows for key in row) if key != "method" and ":" not in key]
    main = Table(box=None, pad_edge=False)
    main.add_column("method")
    for key in keys:
        main.add_column(HEADINGS[key], justify="right")
    for row in rows:
        main.add_row(row["method"], *(_number(row.get(key)) for key in keys))
    if f"difference:{rows[0]['method']}" not in rows[0] or len(rows) == 1:
        return Group(main)
    apart = Table(box=None, pad_edge=False)
    apart.add_column("")
    for row in rows:
        apart.add_column(row["method"], justify="right")
    for row in rows:
        apart.add_row(row["method"], *(_number(row[f"difference:{other['method']}"]) for other in rows))
    return Group(main, "", "Root mean square difference, %", apart)


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.3g}"
