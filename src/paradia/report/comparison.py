"""The picture of a comparison: the same slices of every map at the same window, and what they differ by."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, gaussian_filter1d

from paradia.report.figures import DPI, EDGES, HALO, INK, LETTERS, LOOKS, OUTSIDE, Look, choose_window, round_up
from paradia.report.orientation import PLANES, Cut, Layout

COLUMN, LEFT, BAR, GAP, LINE, FOOT = 2.05, 0.3, 0.8, 0.05, 0.16, 0.12
"""Width of a column; room at the left for what a row shows, for colour bars, between panels, for a line of a caption, below; inches."""

DIFFERENCE = "RdBu_r"
DEEP = 0.4
"""Nuclei lie deeper in the brain than this share of its depth."""

SMOOTH = 2.0
"""Blur before nuclei are looked for, mm: nothing is left of cortical veins."""

STRONGEST = 0.15
"""χ that counts at most, ppm, so that one vein does not outweigh a nucleus."""


@dataclass(frozen=True)
class Entry:
    """One column: a map and what is written over it."""

    name: str
    caption: tuple[str, ...]
    """Lines below the name."""
    image: NDArray
    mask: NDArray[np.bool_]


def compared(entries: Sequence[Entry], layout: Layout, *, map: str, truth: Entry | None = None) -> bytes:
    """Draw maps side by side in two slices, and below each what differs from the truth, or from the first of them.

    Parameters
    ----------
    entries
        The maps, all in one unit and with one zero.
    layout
        How the volume is laid out; its mask is that of the brain.
    map
        Name of the data, which sets window and unit.
    truth
        The true map, where it is known.

    Returns
    -------
    bytes
        A PNG file.
    """
    columns = [truth, *entries] if truth else list(entries)
    base = columns[0]
    look = LOOKS.get(map, Look(""))
    cuts = two_cuts(layout, base.image if map == "chi" else None)
    window = choose_window(base.image[base.mask], look)
    rests = [_inside(entry.image - base.image, entry.mask & base.mask) for entry in columns[1:]]
    shown = np.concatenate([np.abs(_values(cut.take(rest))) for rest in rests for cut in cuts] or [np.zeros(0)])
    limit = round_up(float(np.percentile(shown, 97)) if shown.any() else window[1] / 10)
    heights = [COLUMN * cut.size[1] / cut.size[0] for cut in cuts for _ in (0, 1)]
    names = [textwrap.wrap(entry.name, 26) for entry in columns]
    lines = [[*name, *entry.caption] for name, entry in zip(names, columns, strict=True)]
    top = LINE * max(len(said_over) for said_over in lines) + 0.14
    width = LEFT + len(columns) * (COLUMN + GAP) + BAR
    height = top + sum(heights) + GAP * len(heights) + FOOT
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    norms = Normalize(*window), Normalize(-limit, limit)
    said = "the truth" if truth else base.name
    y = height - top
    for row, tall in enumerate(heights):
        cut, differs = cuts[row // 2], row % 2
        y -= tall
        for column, entry in enumerate(columns):
            place = ((LEFT + column * (COLUMN + GAP)) / width, y / height, COLUMN / width, tall / height)
            if differs and column == 0:
                figure.text(
                    place[0] + place[2] / 2,
                    place[1] + place[3] / 2,
                    _wrapped(f"difference from {said}"),
                    ha="center",
                    va="center",
                    fontsize=8.5,
                    color=INK,
                )
                continue
            image = cut.take(rests[column - 1] if differs else _inside(entry.image, entry.mask))
            _panel(figure, place, image, norms[differs], DIFFERENCE if differs else look.cmap, cut.letters if column == 0 else None)
        if not differs:
            figure.text(0.1 / width, (y + tall / 2) / height, cut.title, rotation=90, ha="left", va="center", fontsize=7, color=INK)
            _bar(figure, (width - BAR + 0.1, y, tall), (width, height), norms[0], look.cmap, look.unit)
        else:
            _bar(figure, (width - BAR + 0.1, y, tall), (width, height), norms[1], DIFFERENCE, look.unit)
        y -= GAP
    for column, said_over in enumerate(lines):
        x = (LEFT + column * (COLUMN + GAP) + COLUMN / 2) / width
        for number, line in enumerate(said_over):
            bold = number < len(names[column])
            size, weight = (9.0, "bold") if bold else (7.5, "normal")
            y = (height - 0.06 - LINE * number) / height
            figure.text(x, y, line, ha="center", va="top", fontsize=size, fontweight=weight, color=INK)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def two_cuts(layout: Layout, chi: NDArray | None = None) -> list[Cut]:
    """Choose two slices: axial and coronal through the deep nuclei where χ shows them, through the middle otherwise.

    A slab has only one plane to show, and gets two slices of it.
    """
    three = layout.three()
    weight = _nuclei(chi, layout) if chi is not None else None
    if len({cut.plane for cut in three}) == 1:
        best = _through(three[len(three) // 2], weight)
        far = max(three, key=lambda cut: abs(cut.index - best.index))
        return [best, far] if far.index != best.index else [best]
    flat, upright = ("axial", "coronal") if layout.planes is PLANES else ("z", "y")
    return [_through(cut, weight) for name in (flat, upright) for cut in three if cut.plane == name]


def _nuclei(chi: NDArray, layout: Layout) -> NDArray:
    """Return how much each voxel deep in the brain looks like part of an iron-rich nucleus."""
    mask = layout.mask
    depth = distance_transform_edt(mask, sampling=layout.voxel_size)
    deep = depth > DEEP * depth.max()
    smooth = gaussian_filter(np.where(mask, chi, 0.0).astype(np.float32), [SMOOTH / size for size in layout.voxel_size])
    level = float(np.median(smooth[deep])) if deep.any() else 0.0
    return np.clip(smooth - level - 0.02, 0, STRONGEST) * deep


def _through(cut: Cut, weight: NDArray | None) -> Cut:
    """Move a slice to where there is most of something."""
    if weight is None or not weight.any():
        return cut
    profile = gaussian_filter1d(weight.sum(axis=tuple(a for a in range(3) if a != cut.axis)), 1.0)
    return replace(cut, index=int(np.argmax(profile)))


def _panel(figure: Figure, place: tuple[float, ...], image: NDArray, norm: Normalize, cmap: str, letters: Sequence[str] | None) -> None:
    axes = figure.add_axes(place)  # type: ignore[arg-type]
    colours = mpl.colormaps[cmap].with_extremes(bad=OUTSIDE)
    axes.imshow(image, cmap=colours, norm=norm, aspect="auto", interpolation="antialiased", interpolation_stage="data")
    axes.set_axis_off()
    for letter, (x, y, ha, va) in zip(letters or (), EDGES, strict=False):
        axes.text(x, y, letter, transform=axes.transAxes, ha=ha, va=va, fontsize=7, color=LETTERS, path_effects=HALO)


def _bar(figure: Figure, place: tuple[float, float, float], size: tuple[float, float], norm: Normalize, cmap: str, unit: str) -> None:
    x, y, tall = place
    axes = figure.add_axes((x / size[0], (y + 0.12 * tall) / size[1], 0.12 / size[0], 0.7 * tall / size[1]))
    colours = figure.colorbar(ScalarMappable(norm, mpl.colormaps[cmap]), cax=axes)
    colours.ax.tick_params(labelsize=6.5, colors=INK, length=2)
    colours.outline.set_linewidth(0.4)
    low, high = float(norm.vmin or 0), float(norm.vmax or 0)
    ticks = np.linspace(low, high, 4 if math.isclose(high, -2 * low) else 5)
    colours.set_ticks(ticks.tolist(), labels=[f"{round(t, 12):.3g}".replace("-", "−") for t in ticks])
    axes.set_title(unit, fontsize=7, color=INK, loc="left", pad=4)


def _inside(image: NDArray, mask: NDArray[np.bool_]) -> np.ma.MaskedArray:
    return np.ma.masked_where(~mask | ~np.isfinite(image), image)


def _values(image: NDArray) -> NDArray:
    """Return what of a masked slice is shown."""
    return np.ma.getdata(image)[~np.ma.getmaskarray(image)]


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 20))
