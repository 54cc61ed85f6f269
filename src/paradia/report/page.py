"""Write the report: one HTML page that needs nothing else."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from numpy.typing import ArrayLike, NDArray

from paradia.io.atomic import replacing
from paradia.report import figures, methods
from paradia.report.captions import IN_PPB, RESULT, TITLES, TOGETHER, caption
from paradia.report.figures import LOOKS, Picture
from paradia.report.orientation import PLANES, Layout
from paradia.report.record import RunRecord

WORDS = {"good": "good", "check": "look at it", "bad": "bad"}
"""How verdicts are called on the page."""


@dataclass(frozen=True)
class Plate:
    """A picture with its words."""

    name: str
    title: str
    caption: str
    alt: str
    picture: Picture

    @property
    def source(self) -> str:
        """The picture as a data URI."""
        return f"data:{self.picture.kind};base64,{base64.b64encode(self.picture.data).decode()}"


def write_report(path: Path, record: RunRecord, maps: Mapping[str, Any], *, affine: ArrayLike | None = None) -> Path:
    """Write the report of a run.

    Parameters
    ----------
    path
        Where the page goes; its folder is made. It appears whole or not at all.
    record
        What was run.
    maps
        Arrays or tensors by the names of the data; what is not there is not shown.
    affine
        From voxel indices to scanner coordinates, for the letters and the lie of the pictures; array axes where absent.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    FileError
        The page cannot be written.
    """
    path = Path(path)
    page = render(record, maps, affine=affine)
    with replacing(path) as handle:
        handle.write(page.encode())
    return path


def render(record: RunRecord, maps: Mapping[str, Any], *, affine: ArrayLike | None = None) -> str:
    """Return the report as HTML."""
    arrays = {name: _array(maps[name]) for name in (*TITLES, "local_mask") if maps.get(name) is not None}
    mask = arrays.get("mask", np.ones(record.grid.shape)).astype(bool)
    arrays["mask"] = mask
    local = arrays.get("local_mask", mask).astype(bool)
    layout = Layout(mask, record.grid.voxel_size, None if affine is None else np.asarray(affine))
    plates = list(_plates(arrays, local, layout, record))
    said, dois = methods.sentences(record.steps)
    verdicts = Counter(finding.verdict for finding in record.numbers)
    worst = next((verdict for verdict in ("bad", "check") if verdicts[verdict]), "good")
    return _template().render(
        record=record,
        facts=_facts(record),
        introduction=methods.introduction(record),
        sentences=said,
        dois=dois,
        worst=worst if record.numbers else None,
        verdicts=verdicts,
        words=WORDS,
        warnings=[finding for finding in record.numbers if finding.verdict != "good"],
        chi=[plate for plate in plates if plate.name in RESULT],
        plates=[plate for plate in plates if plate.name not in RESULT],
        histograms=list(_histograms(arrays, local, layout)),
        radiological=layout.planes is PLANES,
        stage_name=methods.stage_name,
        setting=methods.setting,
        used=methods.used,
        weights=methods.weights(record.steps),
        citation=methods.CITATION,
        number=number,
    )


def number(value: float) -> str:
    """Write a number as short as it stays true."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        text = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
        return text.replace("-", "−")
    return "< 0.001" if 0 < value < 1 else f"{value:.1e}".replace("-", "−")


def _plates(arrays: Mapping[str, NDArray], local: NDArray, layout: Layout, record: RunRecord) -> Iterator[Plate]:
    """Draw what there is, in the order of the data."""
    mask, times = arrays["mask"], record.scan.echo_times
    within = {id(shape): figures.core(shape, layout.voxel_size) for shape in (mask, local)}
    for name, (title, _) in TITLES.items():
        if name not in arrays or (name == "mask" and "magnitude" not in arrays):
            continue
        look, volume = LOOKS.get(name), arrays[name]
        if name == "mask":
            shown = [mask] if (local == mask).all() else [mask, local]
            picture = figures.outline(arrays["magnitude"][0], shown, layout, LOOKS["magnitude"])
        elif look is not None and volume.ndim == 4:
            picture = figures.echoes(volume, mask, layout, look, times, within[id(mask)])
        else:
            assert look is not None
            inside = local if name in ("local_field", "local_noise", *RESULT) else mask
            if name in IN_PPB:
                volume = volume * 1000
            middle = within[id(inside)]
            if name == "chi":
                look = replace(look, window=_chi_window(volume[middle]))
            if name in TOGETHER and TOGETHER[name] in arrays:  # one window, so that what differs is the map
                look = replace(look, window=figures.choose_window(arrays[TOGETHER[name]][middle], look))
            picture = figures.strip(volume, inside, layout, look, middle)
        yield Plate(name, title, caption(name, record), _alt(title, picture, look), picture)


def _alt(title: str, picture: Picture, look: figures.Look | None) -> str:
    """Say what a picture shows to whoever cannot see it."""
    low, high = picture.window or (0, 0)
    unit = look.unit if look else LOOKS["magnitude"].unit
    return f"{title}: slices through the middle of the mask, window {number(low)} to {number(high)} {unit.rstrip('.')}."


def _chi_window(values: NDArray) -> tuple[float, float]:
    """Return the customary −0.1 to 0.2 ppm, unless the data do not fit it at all."""
    low, high = LOOKS["chi"].window or (-0.1, 0.2)
    if values.size == 0:
        return low, high
    spread = float(np.percentile(np.abs(values[:: max(1, values.size // 200_000)]), 98))
    if 0.03 <= spread <= 0.4:
        return low, high
    top = figures.round_up(spread)
    return -top / 2, top


def _histograms(arrays: Mapping[str, NDArray], local: NDArray, layout: Layout) -> Iterator[Plate]:
    """Draw how χ and R2* are distributed in the mask, at the windows of their pictures."""
    for name, title, inside, unit, colour in (
        ("chi", "Susceptibility where it holds", local, "χ, ppm", "#2f5d8a"),
        ("r2star", "R2* in the mask", arrays["mask"], "R2*, 1/s", "#8a3b5d"),
    ):
        if name not in arrays:
            continue
        values, middle = arrays[name][inside], arrays[name][figures.core(inside, layout.voxel_size)]
        low, high = _chi_window(middle) if name == "chi" else figures.choose_window(middle, LOOKS[name])
        beyond = 100 * float(np.mean((values < low) | (values > high))) if values.size else 0.0
        said = f"{number(beyond)} % of the voxels lie beyond."
        alt = f"Histogram of voxels: {title}, in {unit.partition(', ')[2]}."
        yield Plate(f"{name}-histogram", title, said, alt, figures.histogram(values, unit, (low, high), colour))


def _facts(record: RunRecord) -> dict[str, str]:
    """Return what a reader wants to know first."""
    grid, scan = record.grid, record.scan
    times = [f"{1000 * t:.3g}" for t in scan.echo_times]
    facts = {
        "Voxels": " × ".join(str(n) for n in grid.shape),
        "Voxel size": " × ".join(f"{d:.3g}" for d in grid.voxel_size) + " mm",
        "Field strength": f"{scan.b0:.3g} T",
        "Echo times" if len(times) > 1 else "Echo time": ", ".join(times) + " ms",
        "B0 direction": "(" + ", ".join(f"{b:.3f}" for b in grid.b0_dir).replace("-", "−") + ")",
    }
    if record.protocol:
        facts["Protocol"] = record.protocol
    return facts


def _array(value: Any) -> NDArray:
    """Take a tensor or an array as an array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    return np.asarray(value)


@cache
def _template() -> Template:
    loader = PackageLoader("paradia.report", "")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("template.html.j2")
