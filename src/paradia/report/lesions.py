"""The picture of a study's lesions: a row a lesion, a column a map, the outline over both."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from paradia.metrics.lesions import Lesion
from paradia.report.figures import DPI, EDGES, HALO, INK, LETTERS, LOOKS, Look, choose_window, signed
from paradia.report.orientation import Cut, Layout

SIDE = 36.0
"""Width of the neighbourhood shown, mm; larger where a lesion is."""

CELL, LEFT, TOP, GAP, LINE = 1.5, 1.25, 0.3, 0.06, 0.17
"""Edge of a picture; room for words at the left and at the top, between pictures, for a line below one; inches."""

OUTLINE = "#ffb000"

WORD = 22
"""Letters that a line at the left has room for."""


class Row(NamedTuple):
    """One lesion with the maps of its subject."""

    subject: str
    lesion: Lesion
    maps: Mapping[str, NDArray]
    labels: NDArray
    voxel_size: tuple[float, float, float]
    affine: NDArray | None = None
    """From voxel indices to scanner coordinates; nothing where the header says nothing of it."""

    @property
    def cut(self) -> Cut:
        """The slice through the middle of the lesion, axial where there is such a thing, as the report lays it out."""
        return Layout(self.labels == self.lesion.label, self.voxel_size, self.affine).whole().flat()


def drawn(rows: Sequence[Row]) -> bytes:
    """Draw the slice through the middle of each lesion on every map, at the window of the map over all; the patient's right is on the left.

    Parameters
    ----------
    rows
        Lesions, at least one.

    Returns
    -------
    bytes
        A PNG file.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.maps))
    windows = {name: _window(name, rows) for name in names}
    tall = CELL + LINE + GAP
    width, height = LEFT + len(names) * (CELL + GAP), TOP + len(rows) * tall
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    for column, name in enumerate(names):
        x = (LEFT + column * (CELL + GAP) + CELL / 2) / width
        unit = LOOKS.get(name, Look("")).unit
        low, high = windows[name]
        words = f"{name}, {signed(low)} to {signed(high)} {unit}".strip()
        figure.text(x, 1 - 0.09 / height, words, ha="center", va="top", fontsize=6.5, color=INK)
    for number, row in enumerate(rows):
        y = height - TOP - (number + 1) * tall + LINE
        cut = row.cut
        words = "\n".join(
            [*textwrap.wrap(row.subject, WORD), f"lesion {row.lesion.label}", f"{row.lesion.volume:.0f} mm³", *cut.title.split(" · ")]
        )
        figure.text(0.05 / width, (y + CELL / 2) / height, words, va="center", fontsize=6.5, color=INK)
        for column, name in enumerate(names):
            if name not in row.maps:
                continue
            place = ((LEFT + column * (CELL + GAP)) / width, y / height, CELL / width, CELL / height)
            _panel(figure, place, row, cut, name, windows[name])
            said = row.lesion.maps[name]
            text = f"{said.kind}, {said.difference:+.3g}".replace("-", "−") if said.kind != "unknown" else "no tissue around"
            figure.text(place[0] + place[2] / 2, (y - 0.02) / height, text, ha="center", va="top", fontsize=6.5, color=INK)
    target = io.BytesIO()
    with mpl.rc_context({"savefig.facecolor": "white"}):
        figure.savefig(target, format="png", metadata={"Software": None})
    return target.getvalue()


def _window(name: str, rows: Sequence[Row]) -> tuple[float, float]:
    """Choose the window of a map over all subjects."""
    seen = {id(row.maps[name]): row.maps[name] for row in rows if name in row.maps}
    values = np.concatenate([image[image != 0][::7] for image in seen.values()])
    return choose_window(values if values.size else np.zeros(1), LOOKS.get(name, Look("")))


def _panel(figure: Figure, place: tuple[float, float, float, float], row: Row, cut: Cut, name: str, window: tuple[float, float]) -> None:
    """Draw one neighbourhood, its outline, and those of other lesions thinner."""
    image, labels = cut.take(row.maps[name]), cut.take(row.labels)
    own = labels == row.lesion.label
    size = np.array([row.voxel_size[axis] for axis in cut.order])  # of a pixel, to the right and up
    pixels = np.argwhere(own)[:, ::-1]
    middle = (pixels.min(0) + pixels.max(0)) / 2 * size
    half = max(SIDE, 1.6 * float(((np.ptp(pixels, axis=0) + 1) * size).max())) / 2
    axes = figure.add_axes(place)
    rows, columns = image.shape
    extent = (-0.5 * size[0], (columns - 0.5) * size[0], (rows - 0.5) * size[1], -0.5 * size[1])
    cmap = LOOKS.get(name, Look("")).cmap
    axes.imshow(image, cmap=cmap, vmin=window[0], vmax=window[1], extent=extent, interpolation="nearest")
    at = np.arange(columns) * size[0], np.arange(rows) * size[1]
    for mask, thick in ((own, 0.9), ((labels > 0) & ~own, 0.4)):
        if mask.any() and not mask.all():
            axes.contour(*at, mask, levels=[0.5], colors=OUTLINE, linewidths=thick)
    axes.set_xlim(middle[0] - half, middle[0] + half)
    axes.set_ylim(middle[1] + half, middle[1] - half)
    axes.set_facecolor("black")
    axes.set_xticks([])
    axes.set_yticks([])
    for letter, (x, y, ha, va) in zip(cut.letters, EDGES, strict=True):
        axes.text(x, y, letter, transform=axes.transAxes, ha=ha, va=va, fontsize=6, color=LETTERS, path_effects=HALO)
